"""What own words will miss, and what will be taken for them: as the detector decides, on what was left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.detector import Detection, Detector
from speechrnn.labels import Labels
from speechrnn.spec import Options, Spec
from speechrnn.teaching.negatives import Speech, Words

Array = NDArray[np.float32]
LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.92, 0.95, 0.97, 0.985, 0.992, 0.997)
"""Thresholds that are tried."""
_BEFORE_S, _AFTER_S, _FAINT = 0.6, 0.7, 1e-3


def in_faint_noise(samples: Samples, word: tuple[int, int], spec: Spec) -> tuple[Samples, int, int]:
    """A recording [T] on faint noise that goes on before and after it, and where its word [start, end) then lies."""
    n_before = spec.context_samples
    n = n_before + len(samples) + round(_AFTER_S * spec.sample_rate_hz)
    stream = np.random.default_rng(len(samples)).normal(0, _FAINT, n).astype(np.float32)
    stream[n_before : n_before + len(samples)] += samples
    return stream, n_before + word[0], n_before + word[1]


def contexts_after(stream: Samples, end: int, n: int, spec: Spec, step_ms: int) -> Iterator[Samples]:
    """The `n` contexts of a stream that end after this sample, the first of them half a step."""
    step = step_ms * spec.sample_rate_hz // 1000
    for last in range(end + step // 2, end + step // 2 + n * step, step):
        yield np.pad(stream[max(0, last - spec.context_samples) : last], (0, max(0, last - len(stream))))


def contexts_around(samples: Samples, word: tuple[int, int], options: Options, spec: Spec) -> Iterator[Samples]:
    """The contexts of each step of a stream, from a while before the word [start, end) of a recording [T]."""
    stream, start, _ = in_faint_noise(samples, word, spec)
    step = options.step_ms * spec.sample_rate_hz // 1000
    first = max(spec.context_samples, start - round(_BEFORE_S * spec.sample_rate_hz))
    for last in range(first, len(stream) + 1, step):
        yield stream[last - spec.context_samples : last]


class Tally(msgspec.Struct):
    """What one threshold of one word costs."""

    n_missed: int = 0
    """Recordings of the word that were not detected."""
    n_false: int = 0
    """False alarms."""


class Result(NamedTuple):
    """What was counted of each word at each of `LEVELS`."""

    tallies: Mapping[str, list[Tally]]
    """By word."""
    taken_for: Mapping[str, Counter[str]]
    """What else was detected in the recordings of a word."""
    odd: Mapping[str, list[str]]
    """Names of the recordings of a word that the lowest of `LEVELS` misses."""
    hours: float
    """Length of the speech in which false alarms were counted."""


def options_at(options: Options, words: Sequence[str], level: float) -> Options:
    """These options with one threshold for all own words."""
    return options.with_choice(thresholds=dict.fromkeys(words, level))


def smoothed(posteriors: Array, options: Options) -> Array:
    """Means [n, C] over as many steps as the detector takes, of posteriors before which nothing was."""
    n = max(1, round(options.smoothing_ms / options.step_ms))
    sums = np.cumsum(np.concatenate([np.zeros((n, posteriors.shape[1])), posteriors]), axis=0)
    return np.asarray((sums[n:] - sums[:-n]) / n, dtype=np.float32)


def detect_takes(rows: Sequence[Array], labels: Labels, options: Options) -> list[set[str]]:
    """The keywords that are detected in each recording, of its posteriors [n, C]."""
    detector, found = Detector(labels, options), []
    for row in rows:
        detector.reset()
        found.append({one.label for one in detector.push(row)})
    return found


class SpeechPosteriors(NamedTuple):
    """Posteriors of running speech, recording by recording."""

    recordings: list[Array]
    """Posteriors [n, C] of each."""
    says: Mapping[str, list[NDArray[np.bool_]]]
    """Of each own word, whether some of it is in a context [n] of each recording."""
    hours: float
    """Their length."""

    @classmethod
    def of(cls, posteriors: Array, speech: Speech, words: Sequence[str], half: int, step_ms: int) -> SpeechPosteriors:
        """Those of one half, of posteriors of all rows [n, C]."""
        ends = [*speech.firsts[1:], len(posteriors)]
        spans = [
            slice(int(first), int(end))
            for first, end, one in zip(speech.firsts, ends, speech.halves, strict=True)
            if one == half
        ]
        said = {word: speech.says(word) for word in words}
        n = sum(span.stop - span.start for span in spans)
        return cls(
            [posteriors[span] for span in spans],
            {word: [says[span] for span in spans] for word, says in said.items()},
            n * step_ms / 3_600_000,
        )

    def false_alarms(self, labels: Labels, options: Options, words: Sequence[str]) -> Iterator[Counter[str]]:
        """How often each own word is detected at each of `LEVELS` where it is not said."""
        columns = [labels.keywords.index(word) for word in words]
        peaks = [float(smoothed(one, options)[:, columns].max(initial=0)) for one in self.recordings]
        for level in LEVELS:
            detector, found = Detector(labels, options_at(options, words, level)), Counter[str]()
            for number, peak in enumerate(peaks):
                if peak >= level:
                    detector.reset()
                    found += Counter(
                        one.label
                        for one in detector.push(self.recordings[number])
                        if self._is_false(one, number, options)
                    )
            yield found

    def _is_false(self, one: Detection, number: int, options: Options) -> bool:
        if one.label not in self.says:
            return False
        step = round(one.decided_s * 1000 / options.step_ms) - 1
        return not self.says[one.label][number][max(0, step - 2) : step + 1].any()


def counted(
    takes: Mapping[str, Sequence[tuple[str, Array]]], speech: SpeechPosteriors, labels: Labels, options: Options
) -> Result:
    """Misses among the posteriors of the recordings of each word, and false alarms in speech, at each of `LEVELS`.

    Recordings come with their names.
    """
    words = list(takes)
    odd: dict[str, list[str]] = {}
    tallies: dict[str, list[Tally]] = {word: [] for word in words}
    taken_for = {word: Counter[str]() for word in words}
    for level, false in zip(LEVELS, speech.false_alarms(labels, options, words), strict=True):
        for word in words:
            found = detect_takes([rows for _, rows in takes[word]], labels, options_at(options, words, level))
            if level == LEVELS[0]:
                odd[word] = [name for (name, _), one in zip(takes[word], found, strict=True) if word not in one]
            tallies[word].append(Tally(sum(word not in one for one in found), false[word]))
            if level == LEVELS[len(LEVELS) // 2]:
                taken_for[word].update(other for one in found for other in one - {word})
    return Result(tallies, taken_for, odd, speech.hours)


def summed(results: Sequence[Result]) -> Result:
    """All of these together."""
    words = list(results[0].tallies)
    return Result(
        {
            word: [
                Tally(sum(one.n_missed for one in some), sum(one.n_false for one in some))
                for some in zip(*(result.tallies[word] for result in results), strict=True)
            ]
            for word in words
        },
        {word: sum((result.taken_for[word] for result in results), Counter[str]()) for word in words},
        {word: [name for result in results for name in result.odd[word]] for word in words},
        sum(result.hours for result in results),
    )


def choose_level(tallies: Sequence[Tally], budget: float) -> int:
    """Index of the threshold with fewest misses and at most so many false alarms; of several a low one.

    Few recordings tell thresholds apart badly, and what others say is missed more often than they let expect: of those
    that miss as few it is the one after the lowest quarter. The highest where none is within the budget.
    """
    within = [index for index, one in enumerate(tallies) if one.n_false <= budget]
    fewest = min((tallies[index].n_missed for index in within), default=0)
    best = [index for index in within if tallies[index].n_missed == fewest]
    return best[len(best) // 4] if best else len(tallies) - 1


def choose_levels(tallies: Mapping[str, Sequence[Tally]], budget: float) -> dict[str, int]:
    """For each word the index of its threshold: fewest misses of all words, with so many false alarms in all.

    The highest threshold of a word is always allowed.
    """
    plans: dict[int, tuple[int, dict[str, int]]] = {0: (0, {})}  # by false alarms: misses, and those of each word
    for word, some in tallies.items():
        further: dict[int, tuple[int, dict[str, int]]] = {}
        for n_false, (n_missed, allotted) in plans.items():
            for one in (*some[:-1], Tally(some[-1].n_missed, 0)):
                total, plan = n_false + one.n_false, (n_missed + one.n_missed, {**allotted, word: one.n_false})
                if total <= budget and plan[0] < further.get(total, (math.inf,))[0]:
                    further[total] = plan
        plans = further
    _, allotted = min(plans.values(), key=lambda plan: plan[0])
    return {word: choose_level(some, allotted[word]) for word, some in tallies.items()}


def taken(posteriors: Array, words: Words, half: int, column: int, level: float) -> tuple[Counter[str], Counter[str]]:
    """Of the other words of one half, how many there are of each, and how many are taken for that of a column.

    Takes posteriors [n, N_POSITIONS, C] of all of them.
    """
    scores = posteriors[:, :, column].mean(axis=1)
    pairs = [(name, score) for name, score, one in zip(words.names, scores, words.halves, strict=True) if one == half]
    return Counter(name for name, _ in pairs), Counter(name for name, score in pairs if score >= level)
