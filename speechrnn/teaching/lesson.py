"""Teach a model own words: from a folder of recordings to a model file and a report, in about a minute."""

from __future__ import annotations

import datetime
import itertools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

import speechrnn
from speechrnn.data.tts import can_speak
from speechrnn.errors import ConfigError, Report
from speechrnn.files import check_place, write_whole
from speechrnn.labels import SILENCE, UNKNOWN, Labels
from speechrnn.recognizer import Recognizer, load, softmax
from speechrnn.spec import DEFAULT_MODEL, ModelInfo, OperatingPoint
from speechrnn.teaching.augmentation import augmented, plain
from speechrnn.teaching.head import Examples, Line, fit
from speechrnn.teaching.measuring import (
    LEVELS,
    Result,
    SpeechPosteriors,
    choose_levels,
    contexts_around,
    counted,
    summed,
    taken,
)
from speechrnn.teaching.model_file import Columns, Layer, base_scores, extended
from speechrnn.teaching.negatives import N_POSITIONS, Negatives, embed_all, find_negatives
from speechrnn.teaching.recordings import OwnRecordings, Take, read_folder, unpacked
from speechrnn.teaching.report import CHOSEN, Point, TeachReport, WordReport, bound_per_hour, figures
from speechrnn.teaching.voices import speak_word

RATES = {"strict": 0.5, "balanced": 2.0, "sensitive": 10.0}
"""False alarms per hour of all own words together that each operating point is chosen for."""
_CONTEXTS_PER_MINUTE = 6000
_MAX_PER_TAKE = 200
_N_FOLDS = 5
_POSITIVE_WEIGHT, _VOICES_RATE = 2.0, 0.5  # of all positive examples of a word, and of these the part of voices
_SPEECH_WEIGHT, _CLIPS_WEIGHT, _KEPT_WEIGHT, _OTHERS_WEIGHT = 2.0, 0.3, 2.0, 1.0
_MAX_PER_VOICE, _MIN_ALIKE, _OTHERS_QUANTILE = 20, 0.3, 0.95
_MIN_CONFUSED, _MIN_CLIPS, _N_CONFUSED = 0.05, 40, 3  # a clip counts once for each fold

Array = NDArray[np.float32]
Note = Callable[[str], object]


class Taught(NamedTuple):
    """What teaching gives."""

    recognizer: Recognizer
    """The model with the own words."""
    report: TeachReport
    """What was measured."""


class Scored(NamedTuple):
    """Coordinates of contexts, and what the network before scores in them."""

    rows: Array
    """Coordinates [n, d]."""
    scores: Array
    """Class scores [n, C]."""


class Studied(NamedTuple):
    """A recording as the network has it."""

    take: Take
    """The recording; of a synthetic voice, too."""
    examples: Scored
    """Contexts to learn from."""
    stream: Scored
    """Each step of a stream; none of a synthetic voice, which is not tested."""


def teach(
    folder: str | Path,
    *,
    model: str | Path = DEFAULT_MODEL,
    output: str | Path | None = None,
    keep: Iterable[str] | None = None,
    minutes: float = 1.0,
    voices: bool | None = None,
) -> Recognizer:
    """Add own words to a model, from recordings `FOLDER/WORD/*.wav`, at least three of each; ten are good.

    A zip archive of such a folder is taken, too. All keywords of the model stay, or those of `keep` (none if it is
    empty). In `minutes` of work the recordings are varied; with 0 they are learned as they are. With `voices` espeak-ng
    says the words, too; with None, where it is installed. The model is written to `output` if that is given. Raises
    DataError for recordings that will not do, ConfigError for words that are keywords already, ModelFileError for a
    model that cannot be taught.
    """
    return taught(folder, model=model, output=output, keep=keep, minutes=minutes, voices=voices).recognizer


def taught(
    folder: str | Path,
    *,
    model: str | Path = DEFAULT_MODEL,
    output: str | Path | None = None,
    keep: Iterable[str] | None = None,
    minutes: float = 1.0,
    voices: bool | None = None,
    problem: Report = lambda error: None,
    note: Note = lambda line: None,
) -> Taught:
    """As `teach`, with the report; files that cannot be used go to `problem`, lines about progress to `note`."""
    if output is not None:
        check_place(Path(output))
    recognizer = load(model)
    negatives = find_negatives(recognizer)
    with unpacked(Path(folder)) as place:
        recordings = read_folder(place, recognizer.info.spec.sample_rate_hz, problem)
    words = tuple(recordings.takes)
    labels, columns = plan_labels(recognizer.info.spec.labels, words, keep)
    lesson = _Lesson(recognizer, negatives, labels, columns, words)
    note(f"{sum(map(len, recordings.takes.values()))} recordings of {len(words)} words")
    studied, others = lesson.study(recordings, minutes, can_speak() if voices is None else voices, note)
    note("learning, and measuring what is left out")
    report, points = lesson.measure(studied, others)
    lines = lesson.learn(studied, others, None)
    content = extended(recognizer, lesson.layer(lines), columns, lesson.info(report, points))
    return Taught(_loaded(content, None if output is None else Path(output)), report)


def _loaded(content: bytes, output: Path | None) -> Recognizer:
    """The model of this content, written to `output` once it is known to load."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        recognizer = load(path)
        if output is None:
            recognizer.path = None
            return recognizer
    write_whole(output, content)
    return load(output)


def plan_labels(before: Labels, words: Sequence[str], keep: Iterable[str] | None) -> tuple[Labels, Columns]:
    """The classes of a model with own words, and which of the classes before go into them.

    Raises ConfigError for a word to keep that is none of its keywords, and for an own word that is one and stays.
    """
    kept = before.keywords if keep is None else tuple(keep)
    strange = ", ".join(word for word in kept if word not in before.keywords)
    if strange:
        raise ConfigError(f"{strange}: cannot be kept, no keyword of the model; expected {', '.join(before.keywords)}")
    twice = ", ".join(word for word in words if word in kept)
    if twice:
        raise ConfigError(f"{twice}: is a keyword of the model already; rename the folder, or do not keep that keyword")
    dropped = [word for word in before.keywords if word not in kept and word not in words]
    merged = [before.names.index(word) for word in dropped] + [before.names.index(UNKNOWN)] * before.unknown
    labels = Labels((*kept, *words), bool(merged), before.silence)
    silence = before.names.index(SILENCE) if before.silence else None
    return labels, Columns(tuple(before.names.index(word) for word in kept), tuple(merged), silence)


class _Lesson:
    """One model, its negatives and the words to learn."""

    def __init__(
        self,
        recognizer: Recognizer,
        negatives: Negatives,
        labels: Labels,
        columns: Columns,
        words: tuple[str, ...],
    ) -> None:
        self._recognizer, self._negatives = recognizer, negatives
        self._labels, self._columns, self._words = labels, columns, words
        self._scores_before = base_scores(recognizer)
        info, space = recognizer.info, negatives.space
        self._spec = info.spec
        kept = {word: info.options.thresholds[word] for word in labels.keywords if word in info.options.thresholds}
        self._options = msgspec.structs.replace(info.options, keywords=(), thresholds=kept)
        flat = negatives.words.rows.reshape(-1, space.directions.shape[1])
        is_kept = [name in labels.keywords for name in negatives.words.names]
        self._is_kept = np.repeat(np.array(is_kept, dtype=bool), N_POSITIONS)
        self._speech, self._clips, self._noise = map(self._scored, (negatives.speech.rows, flat, negatives.noise))

    def _scored(self, rows: Array) -> Scored:
        return Scored(rows, self._scores_before(self._negatives.space.restore(rows)))

    def _embedded(self, contexts: Iterable[Array]) -> Scored:
        embeddings = embed_all(self._recognizer, contexts)
        return Scored(self._negatives.space.reduce(embeddings), self._scores_before(embeddings))

    def study(
        self, recordings: OwnRecordings, minutes: float, voices: bool, note: Note
    ) -> tuple[dict[str, list[Studied]], Scored | None]:
        """Embed varied contexts of all recordings, as many as the minutes allow, and those of others, if any."""
        n_all = sum(map(len, recordings.takes.values())) + len(recordings.others)
        n = min(_MAX_PER_TAKE, round(minutes * _CONTEXTS_PER_MINUTE / n_all))
        studied = {
            word: [self._study(take, n, recordings.rooms, number) for number, take in enumerate(some)]
            for word, some in recordings.takes.items()
        }
        for word in studied if voices else ():
            spoken = self._study_voices(word, min(n, _MAX_PER_VOICE), recordings.rooms)
            if self._are_alike(word, studied[word], spoken):
                studied[word] += spoken
            else:
                note(f"'{word}': synthetic voices do not say it as the recordings do, and are left out")
        others = [self._vary(take, n, recordings.rooms, number) for number, take in enumerate(recordings.others)]
        return studied, _joined(others) if others else None

    def _study(self, take: Take, n: int, rooms: Sequence[Array], seed: int) -> Studied:
        stream = self._embedded(contexts_around(take.samples, (take.start, take.end), self._options, self._spec))
        return Studied(take, self._vary(take, n, rooms, seed), stream)

    def _study_voices(self, word: str, n: int, rooms: Sequence[Array]) -> list[Studied]:
        nothing = Scored(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))
        takes = speak_word(word, self._spec.sample_rate_hz)
        return [Studied(take, self._vary(take, n, rooms, number), nothing) for number, take in enumerate(takes)]

    def _are_alike(self, word: str, takes: Sequence[Studied], voices: Sequence[Studied]) -> bool:
        """Whether enough voices are nearer to the recordings of a word than all but a few clips of other words are."""
        line = self._learn(word, {word: takes}, None, self._in_half(None))
        others = self._margins(line, self._clips).reshape(-1, N_POSITIONS).mean(axis=1)
        bar = np.quantile(
            others[[name.casefold() != word.casefold() for name in self._negatives.words.names]], _OTHERS_QUANTILE
        )
        spoken = [self._margins(line, one.examples).mean() >= bar for one in voices]
        return bool(spoken) and bool(np.mean(spoken) >= _MIN_ALIKE)

    def _margins(self, line: Line, one: Scored) -> Array:
        """How far the score of a word is above all that competes with it [n]."""
        return line.apply(one.rows) - self._competed(one).offsets

    def _vary(self, take: Take, n: int, rooms: Sequence[Array], seed: int) -> Scored:
        """Varied contexts of a recording, or with none of them the recording as it is."""
        size, rate_hz = self._spec.context_samples, self._spec.sample_rate_hz
        if n == 0:
            return self._embedded(plain(take, size))
        random = np.random.default_rng((seed, len(take.samples)))
        return self._embedded(augmented(take, n, size, rate_hz, rooms, random))

    def learn(self, studied: Mapping[str, Sequence[Studied]], others: Scored | None, half: int | None) -> list[Line]:
        """A line for each word, from these recordings and one half of the negatives, or all."""
        in_half = self._in_half(half)
        return [self._learn(word, studied, others, in_half) for word in self._words]

    def _learn(
        self,
        word: str,
        studied: Mapping[str, Sequence[Studied]],
        others: Scored | None,
        in_half: Sequence[NDArray[np.bool_]],
    ) -> Line:
        not_said = in_half[0] & ~self._negatives.speech.says(word)
        not_named = in_half[1] & ~np.repeat(
            [name.casefold() == word.casefold() for name in self._negatives.words.names], N_POSITIONS
        )
        shipped = [
            (_joined([_picked(self._speech, not_said), self._noise]), _SPEECH_WEIGHT),
            (_picked(self._clips, not_named & ~self._is_kept), _CLIPS_WEIGHT),
            (_picked(self._clips, not_named & self._is_kept), _KEPT_WEIGHT),
        ]
        own = [_joined([one.examples for one in some]) for other, some in studied.items() if other != word]
        groups = shipped + [(one, _OTHERS_WEIGHT) for one in own + ([] if others is None else [others])]
        return fit(self._weighted(_positives(studied[word])), self._weighted(groups), self._negatives.space.within)

    def _weighted(self, groups: Sequence[tuple[Scored, float]]) -> list[tuple[Examples, float]]:
        return [(self._competed(one), weight) for one, weight in groups]

    def _competed(self, one: Scored) -> Examples:
        columns = self._columns
        competing = [*columns.kept, *columns.merged, *([] if columns.silence is None else [columns.silence])]
        return Examples(one.rows, np.logaddexp.reduce(one.scores[:, competing], axis=1))

    def _in_half(self, half: int | None) -> list[NDArray[np.bool_]]:
        halves = self._negatives.speech.half_of_rows, np.repeat(self._negatives.words.halves, N_POSITIONS)
        return [np.full(len(one), True) if half is None else one == half for one in halves]

    def _posteriors(self, lines: Sequence[Line], one: Scored) -> Array:
        own = np.stack([line.apply(one.rows) for line in lines], axis=1)
        return softmax(self._columns.apply(one.scores, own))

    def layer(self, lines: Sequence[Line]) -> Layer:
        """The lines as a layer on embeddings."""
        space = self._negatives.space
        weights = space.directions @ np.stack([line.weights for line in lines], axis=1)
        bias = np.array([line.bias for line in lines]) - space.mean @ weights
        return Layer(weights.astype(np.float32), bias.astype(np.float32))

    def measure(
        self, studied: Mapping[str, list[Studied]], others: Scored | None
    ) -> tuple[TeachReport, dict[str, dict[str, float]]]:
        """Learn without a part of the recordings in turn, and from one half of the negatives; measure on the rest.

        Also the thresholds of each word at each operating point.
        """
        folds = fold_takes(studied)
        n_folds = 1 + max(fold for some in folds.values() for fold in some)
        results, learned = [], []
        for fold in range(n_folds):
            known, left_out = _parted(studied, folds, fold)
            learned.append(self.learn(known, others, fold % 2))
            results.append(self._counted(learned[-1], left_out, 1 - fold % 2))
        result = summed(results)
        levels = {name: choose_levels(result.tallies, rate * result.hours) for name, rate in RATES.items()}
        confused = self._confused(learned, levels[CHOSEN])
        report = TeachReport(
            [self._word_report(word, studied[word], result, levels, confused[word]) for word in self._words],
            self._negatives.hours,
            "speakers" if _are_told_apart(studied) else "recordings",
        )
        return report, {name: {word: LEVELS[at] for word, at in some.items()} for name, some in levels.items()}

    def _counted(self, lines: Sequence[Line], left_out: Mapping[str, Sequence[Studied]], half: int) -> Result:
        takes = {
            word: [(one.take.path.name, self._posteriors(lines, one.stream)) for one in some]
            for word, some in left_out.items()
        }
        negatives = self._negatives
        speech = SpeechPosteriors.of(
            self._posteriors(lines, self._speech), negatives.speech, self._words, half, negatives.step_ms
        )
        return counted(takes, speech, self._labels, self._options)

    def _confused(self, learned: Sequence[Sequence[Line]], levels: Mapping[str, int]) -> dict[str, dict[str, float]]:
        """Of each own word, the other words most often taken for it, and how often."""
        n_of, n_taken = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
        for fold, lines in enumerate(learned):
            posteriors = self._posteriors(lines, self._clips).reshape(-1, N_POSITIONS, len(self._labels.names))
            for word in self._words:
                column = self._labels.names.index(word)
                words = self._negatives.words
                of, more = taken(posteriors, words, 1 - fold % 2, column, LEVELS[levels[word]])
                n_of[word] += of
                n_taken[word] += more
        return {
            word: _largest(
                {
                    other: n_taken[word][other] / n
                    for other, n in n_of[word].items()
                    if n >= _MIN_CLIPS and other.casefold() != word.casefold()
                }
            )
            for word in self._words
        }

    def _word_report(
        self,
        word: str,
        studied: Sequence[Studied],
        result: Result,
        levels: Mapping[str, Mapping[str, int]],
        confused: dict[str, float],
    ) -> WordReport:
        tested = [one for one in studied if len(one.stream.rows)]
        points = {}
        for name, some in levels.items():
            tally = result.tallies[word][some[word]]
            rate = tally.n_false / result.hours if result.hours else 0.0
            n_in_all = rate * self._negatives.hours
            bound = bound_per_hour(n_in_all, self._negatives.hours)
            points[name] = Point(LEVELS[some[word]], tally.n_missed, round(rate, 2), round(bound, 2))
        return WordReport(
            word,
            len(tested),
            len({one.take.speaker for one in tested} - {""}),
            float(np.median([one.take.end - one.take.start for one in tested])) / self._spec.sample_rate_hz,
            points,
            confused,
            _largest({other: n / len(tested) for other, n in result.taken_for[word].items()}),
            sorted(result.odd[word]),
        )

    def info(self, report: TeachReport, points: Mapping[str, Mapping[str, float]]) -> ModelInfo:
        """What the new model file says of itself; figures of operating points are those of the own words."""
        before = self._recognizer.info
        known = before.operating_points
        operating_points = {name: self._point(name, own, report, known.get(name)) for name, own in points.items()}
        n_takes, scores = figures(report)
        provenance = msgspec.structs.replace(
            before.provenance,
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            speechrnn_version=speechrnn.__version__,
            data={**before.provenance.data, **n_takes},
            scores=scores,
        )
        return msgspec.structs.replace(
            before,
            spec=msgspec.structs.replace(before.spec, labels=self._labels),
            options=operating_points[CHOSEN].applied_to(self._options),
            operating_points=operating_points,
            provenance=provenance,
        )

    def _point(
        self, name: str, own: Mapping[str, float], report: TeachReport, before: OperatingPoint | None
    ) -> OperatingPoint:
        start = before or OperatingPoint(threshold=self._options.threshold, thresholds=self._options.thresholds)
        kept = {word: value for word, value in start.thresholds.items() if word in self._labels.keywords}
        n_takes = sum(one.n_takes for one in report.words)
        rate = sum(one.points[name].false_alarms_per_hour for one in report.words)
        return OperatingPoint(
            threshold=start.threshold,
            thresholds={**kept, **own},
            smoothing_ms=self._options.smoothing_ms,
            release=self._options.release,
            refractory_ms=self._options.refractory_ms,
            false_alarms_per_hour=round(rate, 2),
            misses=round(sum(one.points[name].n_missed for one in report.words) / n_takes, 4),
            measured_hours=round(report.hours, 4),
            n_false_alarms=round(rate * report.hours),
            false_alarms_per_hour_bound=round(bound_per_hour(rate * report.hours, report.hours), 2),
            n_keywords=n_takes,
            measured=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        )


def fold_takes(studied: Mapping[str, Sequence[Studied]]) -> dict[str, list[int]]:
    """The fold in which each recording is left out: one of up to five for each word.

    By speaker where names tell several of every word apart. That of a synthetic voice is -1: it is always learned from.
    """
    by_speaker = _are_told_apart(studied)
    return {word: _folds_of(some, by_speaker) for word, some in studied.items()}


def _folds_of(studied: Sequence[Studied], by_speaker: bool) -> list[int]:
    """The fold of each recording of a word; every word has two folds or more, so that some of it is always left."""
    tested = [len(one.stream.rows) > 0 for one in studied]
    groups = [one.take.speaker if by_speaker else str(number) for number, one in enumerate(studied)]
    order = {group: rank for rank, group in enumerate(dict.fromkeys(itertools.compress(groups, tested)))}
    return [order[group] % _N_FOLDS if is_tested else -1 for group, is_tested in zip(groups, tested, strict=True)]


def _parted(
    studied: Mapping[str, Sequence[Studied]], folds: Mapping[str, Sequence[int]], fold: int
) -> tuple[dict[str, list[Studied]], dict[str, list[Studied]]]:
    """The recordings of each word that are not in a fold, and those that are."""
    pairs = {word: list(zip(some, folds[word], strict=True)) for word, some in studied.items()}
    return (
        {word: [one for one, at in some if at != fold] for word, some in pairs.items()},
        {word: [one for one, at in some if at == fold] for word, some in pairs.items()},
    )


def _are_told_apart(studied: Mapping[str, Sequence[Studied]]) -> bool:
    """Whether every word is said by two speakers or more that the names of files tell apart."""
    return all(len({one.take.speaker for one in some if len(one.stream.rows)} - {""}) > 1 for some in studied.values())


def _largest(rates: Mapping[str, float]) -> dict[str, float]:
    """The few largest of these rates, if they are worth a line."""
    order = sorted(rates, key=lambda name: -rates[name])[:_N_CONFUSED]
    return {name: round(rates[name], 3) for name in order if rates[name] >= _MIN_CONFUSED}


def _positives(studied: Sequence[Studied]) -> list[tuple[Scored, float]]:
    """The examples of a word: those of its recordings, and those of synthetic voices, with their weights."""
    takes = [one.examples for one in studied if len(one.stream.rows)]
    voices = [one.examples for one in studied if not len(one.stream.rows)]
    if not voices:
        return [(_joined(takes), _POSITIVE_WEIGHT)]
    return [
        (_joined(takes), _POSITIVE_WEIGHT * (1 - _VOICES_RATE)),
        (_joined(voices), _POSITIVE_WEIGHT * _VOICES_RATE),
    ]


def _joined(parts: Sequence[Scored]) -> Scored:
    return Scored(np.concatenate([one.rows for one in parts]), np.concatenate([one.scores for one in parts]))


def _picked(one: Scored, mask: NDArray[np.bool_]) -> Scored:
    return Scored(one.rows[mask], one.scores[mask])
