"""Scores of a recognizer on a folder laid out as LABEL/*.wav: as it is, with the words shifted, and in noise.

How scores are computed is in metrics, how they are shown in report and plots.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from speechrnn.audio import Samples, speech_power
from speechrnn.data.clips import Split
from speechrnn.data.speech_commands import splits_of
from speechrnn.decoding import read
from speechrnn.errors import AudioError, DataError
from speechrnn.evaluation import metrics
from speechrnn.evaluation.metrics import Counts, Floats
from speechrnn.folders import find_audio
from speechrnn.labels import FOLDER_LABELS, SILENCE, UNKNOWN, Labels
from speechrnn.recognizer import Array, Recognizer, centred

BACKGROUND_FOLDER = "_background_noise_"
ANY_KEYWORD = "any keyword"
SHIFT_MS = 100
SNRS_DB = (20.0, 10.0, 5.0, 0.0)
FAINTEST_NOISE_DB = -60.0
"""Stretches of noise below this level of full scale, such as the padding of short sounds, are not used."""
N_RESAMPLES = 1000
_SEED = 0
_CLIPS_AT_ONCE = 32
_SPEAKER = re.compile(r"(?:^|_)([^_]+)_nohash_")  # Speech Commands: [WORD_]SPEAKER_nohash_TAKE

Interval = tuple[float, float]


class FolderScore(msgspec.Struct):
    """How the clips of one folder were labelled."""

    n: int = 0
    """Clips of the folder."""
    correct: int = 0
    """Those classified as its class."""
    predicted: dict[str, int] = msgspec.field(default_factory=dict)
    """Clips by the class that they got."""


class ClassScore(msgspec.Struct):
    """Scores of one class of the model, rates in [0, 1]; NaN, in JSON null, where there are no clips to count."""

    n: int
    """Clips of the class."""
    precision: float
    """Fraction of the clips that got the class which belong to it."""
    recall: float
    """Fraction of its clips that got it."""
    f1: float
    """Harmonic mean of precision and recall."""
    recall_interval: Interval
    """95 % bootstrap interval of the recall."""


class DetectionCurve(msgspec.Struct):
    """How well a score tells keywords from everything else: each curve from the strictest threshold to the loosest.

    The infinite first threshold, at which nothing is found, is null in JSON.
    """

    n_targets: int
    """Clips of the keyword, or of any."""
    n_others: int
    """The other clips."""
    area_under_roc: float
    """Area in [0, 1] under the receiver operating characteristic."""
    equal_error_rate: float
    """Rate in [0, 1] at which false alarms and misses are equal."""
    miss_at_1_percent_false_alarms: float
    """Lowest miss rate with a false-alarm rate of at most 0.01."""
    threshold: list[float]
    """Lowest score that counts as found."""
    false_alarm: list[float]
    """False-alarm rate in [0, 1] at each threshold."""
    miss: list[float]
    """Miss rate in [0, 1] at each threshold."""


class ReliabilityDiagram(msgspec.Struct):
    """Confidence against accuracy, in bins of equal width of confidence; empty bins hold NaN, in JSON null."""

    expected_calibration_error: float
    """Mean distance in [0, 1] of confidence and accuracy (Guo et al., 2017, arXiv 1706.04599)."""
    n: list[int]
    """Clips in each bin of confidence."""
    confidence: list[float]
    """Mean confidence in each bin."""
    accuracy: list[float]
    """Fraction of the clips in each bin that are classified correctly."""


class Condition(msgspec.Struct):
    """Scores of clips that were shifted, or to which noise was added."""

    n: int
    """Clips."""
    accuracy: float
    """Fraction of them that got their class."""
    keyword_accuracy: float
    """Fraction of the keyword clips that got their class."""
    shift_ms: int = 0
    """Shift of the clips in ms, later if positive."""
    snr_db: float | None = None
    """Signal-to-noise ratio in dB; None without added noise."""


class Evaluation(msgspec.Struct):
    """Scores of a model on a folder of clips; rates in [0, 1], NaN, in JSON null, where there are no clips to count."""

    accuracy: float
    """Fraction of the clips that got their class."""
    n: int
    """Clips that were scored."""
    labels: list[str]
    """Classes of the model, in the order of `confusion`."""
    confusion: list[list[int]]
    """Counts [C][C] of clips by true class (rows) and predicted class (columns)."""
    per_folder: dict[str, FolderScore]
    """Scores by name of the folder."""
    failed: list[str]
    """A line for each file that cannot be read."""
    left_out: list[str]
    """Files in folders without a class in the model."""
    keywords: list[str]
    """Keywords of the model."""
    keyword_accuracy: float
    """Fraction of the keyword clips that got their class."""
    macro_f1: float
    """Mean F1 of the classes that have clips."""
    unknown_recall: float
    """Fraction of the unknown clips that got that class."""
    intervals: dict[str, Interval]
    """95 % bootstrap intervals of the scores of these names."""
    n_speakers: int
    """Speakers that are resampled for the intervals."""
    n_single_files: int
    """Files that name no speaker and are resampled one by one."""
    per_class: dict[str, ClassScore]
    """Scores by class."""
    detection: dict[str, DetectionCurve]
    """The curve of each keyword and of any keyword, by name."""
    calibration: ReliabilityDiagram
    """How far posteriors can be trusted."""
    shift: list[Condition]
    """Scores with clips shifted."""
    noise: list[Condition]
    """Scores in noise, empty where none was given."""

    def recall(self, label: str) -> float:
        """Fraction of the clips of a class that got it; NaN if there are none."""
        return self.per_class[label].recall


Track = Callable[[Iterable[Path], int], Iterable[Path]]


class _Clip(NamedTuple):
    """A clip of at least one context with its class, the noise meant for it, and what it is resampled with."""

    samples: Samples
    truth: int
    folder: str
    group: str
    noise: Samples


class _Change(NamedTuple):
    """What is done to a clip before it is classified; by default nothing."""

    shift_ms: int = 0
    snr_db: float | None = None

    def __call__(self, clip: _Clip, sample_rate_hz: int) -> Samples:
        if self.snr_db is not None:
            return add_noise(clip.samples, clip.noise, self.snr_db, sample_rate_hz)
        return shifted(clip.samples, self.shift_ms * sample_rate_hz // 1000)


_SHIFTS = tuple(_Change(shift_ms=shift_ms) for shift_ms in (-SHIFT_MS, 0, SHIFT_MS))
_NOISES = tuple(_Change(snr_db=snr_db) for snr_db in SNRS_DB)


def clips_of(folder: Path, split: Split | None) -> list[Path]:
    """All clips below a folder laid out as LABEL/*.wav, or those of one split of a Speech Commands tree.

    Raises DataError if it is no folder, or none with such a split, AudioError if it has no audio.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder laid out as LABEL/*.wav; for single clips: speechrnn classify")
    files = find_audio(folder)
    if split is None:
        return files
    if any(FOLDER_LABELS.get(file.parent.name) == UNKNOWN for file in files):
        raise DataError(
            f"{folder}: has a folder of unknown words, as archives of test clips do; score it without a split"
        )
    splits = splits_of(folder)
    chosen = [file for file in files if splits(file) == split]
    if not chosen:
        raise DataError(f"{folder}: none of its {len(files)} clips is of the {split} split; expected Speech Commands")
    return chosen


def evaluate(
    recognizer: Recognizer,
    folder: Path,
    track: Track = lambda paths, n: paths,
    *,
    noise: Path | None = None,
    split: Split | None = None,
) -> Evaluation:
    """Classify every clip below `folder`; the name of the folder that holds a clip is its true label.

    Folders that are no label of the model count as unknown. The long recordings of `_background_noise_` are cut into
    contexts end to end, each of them a clip of silence. Clips are scored as they are and shifted by 100 ms, of a
    short one the context that it stands in; where `noise` is a folder of recordings, clips that hold speech are scored
    in noise, too, drawn by a fixed seed. `split` picks the clips of one split of a Speech Commands tree.
    Raises DataError and AudioError as `clips_of` does, and if no clip has a class in the model or no noise can be used.
    """
    spec = recognizer.info.spec
    files = clips_of(folder, split)
    known = [file for file in files if spec.labels.of_folder(file.parent.name) is not None]
    left_out = [str(file) for file in files if spec.labels.of_folder(file.parent.name) is None]
    stretches = None if noise is None else read_noise(noise, spec.sample_rate_hz, spec.context_samples)
    clips = _read_clips(recognizer, track(known, len(known)), stretches)
    changes = _SHIFTS if noise is None else _SHIFTS + _NOISES
    predictions = _classify(recognizer, clips, changes)
    if not predictions.truth:
        expected = ", ".join(spec.labels.names)
        raise DataError(f"{folder}: no clip could be scored; expected {expected} as names of folders with audio")
    return _score(spec.labels, predictions, left_out)


class _Failure(NamedTuple):
    """A file that cannot be read, and why."""

    message: str


def _read_clips(recognizer: Recognizer, files: Iterable[Path], noise: Samples | None) -> Iterator[_Clip | _Failure]:
    """The clips of files, or the failure of one that cannot be read."""
    spec = recognizer.info.spec
    random = np.random.default_rng(_SEED)
    for file in files:
        try:
            samples = read(file, spec.sample_rate_hz)
        except AudioError as error:
            yield _Failure(str(error))
            continue
        label = spec.labels.of_folder(file.parent.name)
        truth = spec.labels.names.index(str(label))
        for part in _parts(samples, file.parent.name, spec.context_samples):
            drawn = part[:0] if noise is None else noise[random.integers(len(noise))]
            yield _Clip(part, truth, file.parent.name, _group(file), drawn)


def _parts(samples: Samples, folder: str, n_samples: int) -> list[Samples]:
    """The clips of one recording [T], none shorter than a context; a remainder of background noise is dropped."""
    if len(samples) <= n_samples:
        return [centred(samples, n_samples)]
    if folder == BACKGROUND_FOLDER:
        return list(samples[: len(samples) // n_samples * n_samples].reshape(-1, n_samples))
    return [samples]


def _group(file: Path) -> str:
    """The speaker that a file name gives, or the file itself."""
    speaker = _SPEAKER.search(file.name)
    return f"speaker {speaker[1]}" if speaker else str(file)


class _Predictions(NamedTuple):
    """All clips with their posteriors after each change; in noise, only of the clips that hold speech.

    `failed` has a line for each file that cannot be read.
    """

    truth: list[int]
    folders: list[str]
    groups: list[str]
    posteriors: dict[_Change, list[Array]]
    failed: list[str]


def _classify(recognizer: Recognizer, clips: Iterator[_Clip | _Failure], changes: Sequence[_Change]) -> _Predictions:
    spec = recognizer.info.spec
    predictions = _Predictions([], [], [], {change: [] for change in changes}, [])
    while items := list(itertools.islice(clips, _CLIPS_AT_ONCE)):
        batch = [item for item in items if isinstance(item, _Clip)]
        predictions.failed.extend(item.message for item in items if isinstance(item, _Failure))
        speech = [clip for clip in batch if spec.labels.names[clip.truth] != SILENCE]
        for change, rows in predictions.posteriors.items():
            changed = [change(clip, spec.sample_rate_hz) for clip in (batch if change.snr_db is None else speech)]
            if changed:
                rows.append(recognizer.classify_all(changed))
        predictions.truth.extend(clip.truth for clip in batch)
        predictions.folders.extend(clip.folder for clip in batch)
        predictions.groups.extend(clip.group for clip in batch)
    return predictions


def shifted(samples: Samples, n_samples: int) -> Samples:
    """A clip [T] moved later by `n_samples`, or earlier if negative, with zeros moved in."""
    moved = np.zeros_like(samples)
    if n_samples >= 0:
        moved[n_samples:] = samples[: len(samples) - n_samples]
    else:
        moved[:n_samples] = samples[-n_samples:]
    return moved


def add_noise(samples: Samples, noise: Samples, snr_db: float, sample_rate_hz: int) -> Samples:
    """A clip [T] with noise [T'], repeated as needed, at a ratio of `snr_db` between speech power and noise power.

    Where the sum would exceed full scale, all of it is made quieter.
    """
    noise_power = float(np.square(noise, dtype=np.float64).mean())
    gain = np.sqrt(speech_power(samples, sample_rate_hz) / noise_power) * 10 ** (-snr_db / 20)
    mixed = samples + gain * np.resize(noise, len(samples))
    return np.asarray(mixed / max(1.0, float(np.abs(mixed).max())), dtype=np.float32)


def read_noise(folder: Path, sample_rate_hz: int, n_samples: int) -> Samples:
    """Stretches [N, n_samples] of all recordings below a folder, end to end, but the faint ones.

    Raises AudioError where one cannot be read, DataError if no stretch is left.
    """
    recordings = [read(file, sample_rate_hz) for file in find_audio(folder)]
    stretches = np.concatenate([r[: len(r) // n_samples * n_samples].reshape(-1, n_samples) for r in recordings])
    powers = np.square(stretches).mean(axis=1)
    loud: Samples = stretches[powers >= 10 ** (FAINTEST_NOISE_DB / 10)]
    if not len(loud):
        raise DataError(
            f"{folder}: expected noise recordings of at least {n_samples / sample_rate_hz:g} s, "
            f"louder than {FAINTEST_NOISE_DB:g} dB of full scale; found none"
        )
    return loud


def _score(labels: Labels, predictions: _Predictions, left_out: list[str]) -> Evaluation:
    truth, n_keywords = np.array(predictions.truth), len(labels.keywords)
    posteriors = {change: np.concatenate(rows) for change, rows in predictions.posteriors.items() if rows}
    plain = posteriors[_Change()]
    predicted = plain.argmax(axis=1)
    confusion = metrics.confusion_matrix(truth, predicted, len(labels.names))
    resampled = metrics.bootstrap(
        truth, predicted, np.array(predictions.groups), len(labels.names), n_resamples=N_RESAMPLES, seed=_SEED
    )
    n_groups = len(set(predictions.groups))
    n_speakers = len({group for group in predictions.groups if group.startswith("speaker ")})
    scores = {name: float(measure(confusion)) for name, measure in _measures(labels).items()}
    speech = np.array([labels.names[label] != SILENCE for label in truth])
    in_noise = [change for change in posteriors if change.snr_db is not None]
    return Evaluation(
        **scores,
        n=len(truth),
        labels=list(labels.names),
        confusion=confusion.tolist(),
        per_folder=_by_folder(predictions.folders, truth, predicted, labels.names),
        failed=predictions.failed,
        left_out=left_out,
        keywords=list(labels.keywords),
        intervals={name: _interval(measure(resampled)) for name, measure in _measures(labels).items()},
        n_speakers=n_speakers,
        n_single_files=n_groups - n_speakers,
        per_class=_by_class(labels.names, confusion, resampled),
        detection=_detection(plain, truth, labels),
        calibration=_calibration(plain, truth),
        shift=[_condition(change, posteriors[change], truth, n_keywords) for change in _SHIFTS],
        noise=[
            _condition(_Change(), plain[speech], truth[speech], n_keywords),
            *(_condition(change, posteriors[change], truth[speech], n_keywords) for change in in_noise),
        ]
        if in_noise
        else [],
    )


def _measures(labels: Labels) -> dict[str, Callable[[Counts], Floats]]:
    """The scores of the whole that have an interval, each of confusion matrices [..., C, C]."""
    unknown = len(labels.keywords)
    return {
        "accuracy": metrics.accuracy,
        "keyword_accuracy": lambda confusion: metrics.keyword_accuracy(confusion, unknown),
        "macro_f1": metrics.macro_f1,
        "unknown_recall": lambda confusion: (
            metrics.recall(confusion)[..., unknown] if labels.unknown else np.full(confusion.shape[:-2], np.nan)
        ),
    }


def _interval(values: Floats) -> Interval:
    low, high = metrics.interval(values)
    return float(low), float(high)


def _by_folder(
    folders: Sequence[str], truth: Counts, predicted: Counts, names: Sequence[str]
) -> dict[str, FolderScore]:
    scores: dict[str, FolderScore] = {}
    for folder, true, found in zip(folders, truth, predicted, strict=True):
        score = scores.setdefault(folder, FolderScore())
        score.n += 1
        score.correct += bool(true == found)
        score.predicted[names[found]] = score.predicted.get(names[found], 0) + 1
    return scores


def _by_class(names: Sequence[str], confusion: Counts, resampled: Counts) -> dict[str, ClassScore]:
    precision, recall, f1 = metrics.precision(confusion), metrics.recall(confusion), metrics.f1(confusion)
    intervals = [_interval(metrics.recall(resampled)[:, i]) for i in range(len(names))]
    return {
        name: ClassScore(int(confusion[i].sum()), float(precision[i]), float(recall[i]), float(f1[i]), intervals[i])
        for i, name in enumerate(names)
    }


def _detection(posteriors: Array, truth: Counts, labels: Labels) -> dict[str, DetectionCurve]:
    """Keywords against clips of no keyword: all by their highest posterior, then each by its own."""
    n_keywords = len(labels.keywords)
    is_other = truth >= n_keywords
    scores = {ANY_KEYWORD: (posteriors[:, :n_keywords].max(axis=1), ~is_other)}
    scores |= {word: (posteriors[:, i], truth == i) for i, word in enumerate(labels.keywords)}
    found = {}
    for name, (score, is_target) in scores.items():
        if not is_target.any() or not is_other.any():
            continue
        used = is_target | is_other
        curve = metrics.detection_curve(score[used], is_target[used])
        found[name] = DetectionCurve(
            int(is_target.sum()),
            int(is_other.sum()),
            metrics.area_under_roc(curve),
            metrics.equal_error_rate(curve),
            metrics.miss_at(curve, 0.01),
            *(column.tolist() for column in curve),
        )
    return found


def _calibration(posteriors: Array, truth: Counts) -> ReliabilityDiagram:
    bins = metrics.reliability(posteriors, truth)
    return ReliabilityDiagram(metrics.expected_calibration_error(bins), *(column.tolist() for column in bins))


def _condition(change: _Change, posteriors: Array, truth: Counts, n_keywords: int) -> Condition:
    confusion = metrics.confusion_matrix(truth, posteriors.argmax(axis=1), posteriors.shape[1])
    accuracy, of_keywords = metrics.accuracy(confusion), metrics.keyword_accuracy(confusion, n_keywords)
    return Condition(len(truth), float(accuracy), float(of_keywords), change.shift_ms, change.snr_db)
