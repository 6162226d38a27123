"""Choose operating points for stated numbers of false alarms per hour, on validation streams and training speech.

    python -m pipelines.choose_operating_points configs/commands8.toml commands8 --data data

Misses and wrong words are counted on streams of validation words over noise (preset `tensorflow`, three seeds), false
alarms on the running speech of the training data, of which the model has heard parts: expect more on other speech.
Where `data.speech_validation_fraction` keeps speakers from training, the stored rates are of their speech alone.
Recordings in which, by their transcripts, a keyword is spoken are left out; without transcripts, such as
pipelines.mine_hard_negatives guesses, a keyword that is spoken counts as a false alarm. Where the model was trained on
what that pipeline mined in the same speech, the rates are those of speech it was corrected on.

For each smoothing, every keyword gets the threshold that costs fewest misses while all together stay within the target.
Where the speech is too short to show a target, since one false alarm would exceed it, none is allowed, and each
keyword's threshold goes up as far as no more of its words are missed; for a lower target that cannot be shown either,
up to where another 5 % are. Of smoothings that cost the same, the longest is taken: it has fewer of the false alarms
that the speech is too short to show. Release and refractory time are chosen last. What the spotter then gives is
printed as a table, and as TOML for the configuration.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import tomli_w
from numpy.typing import NDArray

from pipelines.inputs import open_inputs, parse_inputs
from speechrnn.cli.console import run_program
from speechrnn.data.clips import Pack, Split
from speechrnn.evaluation.streams import KeywordScore, Score, StreamResult, score, score_detector, sweep_thresholds
from speechrnn.evaluation.synthetic_streams import PRESETS, make_stream, of_pack, speech_of, spot_with_truth
from speechrnn.labels import Labels
from speechrnn.recognizer import Recognizer, cached
from speechrnn.spec import OperatingPoint, Options

TARGETS = {"strict": 0.1, "balanced": 0.5, "sensitive": 5.0}
"""False alarms per hour of running speech."""
_SEEDS = (1, 2, 3)
_SMOOTHINGS_MS = (300, 400, 500, 600)
_LOGITS = np.linspace(-0.5, 6, 27)
_RELEASES = (0.7, 0.5, 0.9)  # the usual one first: it stays unless another is better
_REFRACTORIES_MS = (500, 300, 800)
_LATEST_MS = 400.0
_STRICTER = 0.05
_QUIET = 0.05
_N_BESIDE = 15
_PRICES = np.geomspace(0.01, 1000, 51)

Counts = NDArray[np.int64]


class Recordings(NamedTuple):
    """Streams with known words, and the running speech of each split, in which every detection counts as false."""

    streams: list[StreamResult]
    speech: list[StreamResult]

    @property
    def speech_hours(self) -> float:
        """Length of the running speech."""
        return sum(heard.duration_s for heard in self.speech) / 3600


class Chosen(NamedTuple):
    """A point with what it gives on streams and in running speech."""

    options: Options
    in_streams: Score
    in_speech: Score
    in_unheard: Score | None = None

    @property
    def cost(self) -> float:
        """Misses, wrong words and false alarms; each 10 ms by which decisions are late count as one more."""
        streams, late_ms = self.in_streams, max(0.0, self.in_streams.delay_p95_ms - _LATEST_MS)
        errors = streams.n_misses + streams.n_wrong + streams.n_false_alarms + self.in_speech.n_false_alarms
        return errors + late_ms / 10


def listen(recognizer: Recognizer, pack: Pack, choices: Mapping[str, Options]) -> Recordings:
    """What each of these options finds in all the material, and the posteriors."""
    material = of_pack(pack, recognizer.info.spec.labels.keywords)
    streams = [make_stream(material, PRESETS["tensorflow"], seed) for seed in _SEEDS]
    in_streams = [spot_with_truth(recognizer, [samples], words, choices) for samples, words in streams]
    splits: tuple[Split, ...] = ("training", "validation")
    in_speech = [spot_with_truth(recognizer, speech_of(pack, split), [], choices, audio=split) for split in splits]
    return Recordings(in_streams, in_speech if in_speech[1].duration_s else in_speech[:1])


def active_frames(heard: StreamResult, n_keywords: int) -> StreamResult:
    """The steps of a recording about those in which some keyword is not improbable, end to end: others fire nothing."""
    loud = (heard.posteriors[:, :n_keywords].max(axis=1) > _QUIET).astype(float)
    near = np.convolve(loud, np.ones(2 * _N_BESIDE + 1), "same") > 0.5
    return heard._replace(posteriors=heard.posteriors[near])


def allocate_thresholds(errors: Counts, alarms: Counts, budget: float) -> list[int]:
    """For each keyword the threshold, as its place, at which errors are fewest with at most `budget` alarms in all.

    Takes counts [n keywords, n thresholds], thresholds rising. One price of an alarm in errors holds for all keywords;
    the lowest that keeps the budget is taken, and of equally good thresholds the middle one.
    """
    places = [errors.shape[1] - 1] * len(errors)
    for price in _PRICES[::-1]:
        costs = errors + price * alarms
        tried = [int(ties[len(ties) // 2]) for row in costs for ties in [np.flatnonzero(row <= row.min() + 1e-9)]]
        if alarms[np.arange(len(alarms)), tried].sum() > budget:
            break
        places = tried
    return places


def tighten(missed: Counts, places: Sequence[int], allowed: NDArray[np.float64]) -> list[int]:
    """For each keyword the highest threshold, as its place, that misses at most so many more."""
    return [
        int(np.flatnonzero(row <= row[place] + more).max())
        for row, place, more in zip(missed, places, allowed, strict=True)
    ]


def candidates(recordings: Recordings, labels: Labels, options: Options) -> dict[str, dict[str, float]]:
    """Thresholds of each keyword for each target, with the smoothing that the options have."""
    levels = [float(level) for level in np.round(1 / (1 + np.exp(-_LOGITS)), 3)]
    in_streams = sweep_thresholds(recordings.streams, labels, options, "default", levels)
    in_speech = sweep_thresholds(recordings.speech, labels, options, "default", levels)
    errors = _table(in_streams, lambda one: one.n_spoken - one.n_hits + one.n_wrong + one.n_false_alarms)
    missed = _table(in_streams, lambda one: one.n_spoken - one.n_hits)
    alarms = _table(in_speech, lambda one: one.n_false_alarms)
    n_spoken = np.array([one.n_spoken for one in in_streams[0].per_keyword.values()])
    found, n_hidden = {}, 0
    for name, rate in sorted(TARGETS.items(), key=lambda item: -item[1]):
        budget = rate * recordings.speech_hours
        places = allocate_thresholds(errors, alarms, budget)
        if budget < 1:
            places = tighten(missed, places, _STRICTER * n_hidden * n_spoken)
            n_hidden += 1
        found[name] = dict(zip(labels.keywords, [levels[place] for place in places], strict=True))
    return found


def _table(scores: Sequence[Score], count: Callable[[KeywordScore], int]) -> Counts:
    """Counts [n keywords, n thresholds]."""
    return np.array([[count(one) for one in result.per_keyword.values()] for result in scores], dtype=np.int64).T


def choose(recordings: Recordings, labels: Labels, options: Options) -> dict[str, Chosen]:
    """The best options that were found for each target, judged by the plain detector."""
    speech = [active_frames(heard, len(labels.keywords)) for heard in recordings.speech]
    recordings = recordings._replace(speech=speech)

    def tried(options: Options) -> Chosen:
        return Chosen(
            options, score_detector(recordings.streams, labels, options), score_detector(speech, labels, options)
        )

    per_target: dict[str, list[Chosen]] = {name: [] for name in TARGETS}
    for smoothing_ms in _SMOOTHINGS_MS:
        smoothed = msgspec.structs.replace(options, smoothing_ms=max(smoothing_ms, options.step_ms))
        for name, thresholds in candidates(recordings, labels, smoothed).items():
            common = float(np.median(list(thresholds.values())))
            per_target[name].append(tried(msgspec.structs.replace(smoothed, threshold=common, thresholds=thresholds)))
        print(f"smoothing {smoothing_ms} ms is done", flush=True)
    chosen = {}
    for name, some in per_target.items():
        best = min(some, key=lambda one: (one.cost, -one.options.smoothing_ms)).options
        variants = [
            tried(msgspec.structs.replace(best, release=release, refractory_ms=refractory_ms))
            for release, refractory_ms in itertools.product(_RELEASES, _REFRACTORIES_MS)
        ]
        chosen[name] = min(variants, key=lambda one: one.cost)
    return chosen


def measure(recognizer: Recognizer, pack: Pack, choices: Mapping[str, Options]) -> dict[str, Chosen]:
    """What the spotter that ships gives with each of these options."""
    recordings, keywords = listen(recognizer, pack, choices), recognizer.info.spec.labels.keywords
    unheard = [heard for heard in recordings.speech if heard.audio == "validation"]

    def scored(name: str, part: list[StreamResult]) -> Score:
        return score([heard.scored(name) for heard in part], keywords)

    return {
        name: Chosen(
            options,
            scored(name, recordings.streams),
            scored(name, recordings.speech),
            scored(name, unheard) if unheard else None,
        )
        for name, options in choices.items()
    }


def to_point(measured: Chosen) -> OperatingPoint:
    """A point as it is stored, with the rates that were measured."""
    options, speech = measured.options, measured.in_unheard or measured.in_speech
    return OperatingPoint(
        threshold=round(options.threshold, 3),
        thresholds=options.thresholds,
        smoothing_ms=options.smoothing_ms,
        release=options.release,
        refractory_ms=options.refractory_ms,
        false_alarms_per_hour=round(speech.false_alarms_per_hour, 2) if speech.hours else None,
        misses=round(measured.in_streams.miss_rate, 4),
        measured_hours=round(speech.hours, 2),
    )


def to_toml(points: Mapping[str, OperatingPoint]) -> str:
    """The points as they stand in a configuration."""
    tables = {
        name: {field: value for field, value in msgspec.to_builtins(point).items() if value is not None}
        for name, point in points.items()
    }
    return tomli_w.dumps({"operating_points": tables})


def to_markdown(measured: Mapping[str, Chosen]) -> str:
    """A table for docs/log.md."""
    lines = [
        "| point | target/h | false alarms/h, speech | never trained on | misses | wrong | false alarms/h, streams "
        "| p50 ms | p95 ms |",
        "|" + "---|" * 9,
    ]
    for name, one in measured.items():
        streams = one.in_streams
        lines.append(
            f"| {name} | {TARGETS[name]:g} | {_rate(one.in_speech)} | {_rate(one.in_unheard)} "
            f"| {100 * streams.miss_rate:.1f} % | {100 * streams.wrong_rate:.1f} % "
            f"| {streams.false_alarms_per_hour:.1f} | {streams.delay_p50_ms:.0f} | {streams.delay_p95_ms:.0f} |"
        )
    return "\n".join(lines)


def _rate(speech: Score | None) -> str:
    if speech is None:
        return "-"
    return f"{speech.false_alarms_per_hour:.2f} ({speech.n_false_alarms} in {speech.hours:.2f} h)"


def main() -> None:
    """Choose, measure, and print both the table and the TOML."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recognizer, pack = open_inputs(parse_inputs(parser))
    remembered, labels = cached(recognizer), recognizer.info.spec.labels
    options = msgspec.structs.replace(recognizer.info.options, keywords=(), thresholds={})
    recordings = listen(remembered, pack, {"as set": options})
    hours = recordings.speech_hours
    print(f"{len(recordings.streams)} streams, {hours:.2f} hours of running speech", flush=True)
    chosen = choose(recordings, labels, options)
    measured = measure(remembered, pack, {name: one.options for name, one in chosen.items()})
    hidden = [f"{rate:g}/h ({name})" for name, rate in TARGETS.items() if rate * hours < 1]
    if hidden:
        print(f"\n{hours:.2f} hours cannot show {' and '.join(hidden)}: none was allowed there\n")
    print(to_markdown(measured), end="\n\n")
    print(to_toml({name: to_point(one) for name, one in measured.items()}))


if __name__ == "__main__":
    run_program(main)
