"""Calibration: thresholds of each keyword for stated numbers of false alarms per hour, measured on audio.

Misses and wrong words are counted on synthetic streams of labelled words (preset `tensorflow`, three seeds), false
alarms on running speech in which no keyword is spoken. For each smoothing, every keyword gets the threshold that costs
fewest errors, which are misses, wrong words and false alarms in the streams, while all together stay within the
target; at the sensitive point false alarms are no errors, for the target is what people who choose it accept. Where
the target allows less than a false alarm for each keyword, all have one threshold in common: so few alarms cannot
place one for each (docs/log.md). Where the speech is too short to show a target, since one false alarm would exceed
it, none is allowed, and the threshold goes up as far as no more words are missed; for a lower target that cannot be
shown either, up to where another 5 % are. Of smoothings that cost the same, the longest is taken: it has fewer of the
false alarms that the speech is too short to show. Release and refractory time come last, and the lag by which ends are
reported.
"""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.config import TRAINING_RATE_HZ, Calibration
from speechrnn.errors import DataError
from speechrnn.evaluation.metrics import Counts, poisson_upper_bound
from speechrnn.evaluation.streams import (
    KeywordScore,
    Score,
    StreamResult,
    score,
    score_detector,
    spot_with_truth,
    sweep_thresholds,
)
from speechrnn.evaluation.synthetic_streams import PRESETS, Material, Sound, make_stream
from speechrnn.evaluation.tables import Table, number, percent
from speechrnn.labels import Labels
from speechrnn.recognizer import Recognizer, cached
from speechrnn.spec import ModelInfo, OperatingPoint, Options, Spec

CHOSEN = "balanced"
"""The operating point by which a calibrated model decides where none is named."""
SENSITIVE = "sensitive"
"""The operating point with fewest misses."""
TARGETS = Calibration()
"""The targets where no others are named."""
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

Note = Callable[[str], object]


class Recordings(NamedTuple):
    """What calibration counts in: misses in streams, false alarms in running speech."""

    streams: list[StreamResult]
    """Streams with known words."""
    speech: list[StreamResult]
    """Running speech in which every detection is a false alarm."""

    @property
    def speech_hours(self) -> float:
        """Length of the running speech."""
        return sum(one.duration_s for one in self.speech) / 3600


class Measured(NamedTuple):
    """Options and what they were measured to give."""

    options: Options
    """The options."""
    in_streams: Score
    """Their score on synthetic streams."""
    in_speech: Score
    """Their score in all running speech."""

    def cost(self, point: str) -> float:
        """Misses, wrong words and false alarms, but those not at the sensitive point; 10 ms too late are one more."""
        streams, late_ms = self.in_streams, max(0.0, self.in_streams.delay_p95_ms - _LATEST_MS)
        n_alarms = 0 if point == SENSITIVE else streams.n_false_alarms + self.in_speech.n_false_alarms
        return streams.n_misses + streams.n_wrong + n_alarms + late_ms / 10


def calibrate(
    recognizer: Recognizer,
    material: Material,
    speech: Sequence[Sound],
    *,
    targets: Calibration = TARGETS,
    note: Note = lambda line: None,
) -> dict[str, Measured]:
    """Choose an operating point for each target, and measure what the spotter then gives.

    Streams are made of the words and noise of `material`, false alarms are counted in `speech`: best is speech that it
    was not trained on, of which training has fewer. `note`
    gets lines about progress. Raises DataError if a keyword has no clips, or there is no other word or no speech.
    """
    _check(recognizer.info.spec, material, speech)
    recognizer, labels = cached(recognizer), recognizer.info.spec.labels
    options = msgspec.structs.replace(recognizer.info.options, keywords=(), thresholds={})
    recordings = spot_recordings(recognizer, material, speech, {"as set": options})
    note(f"{len(recordings.streams)} streams, {recordings.speech_hours:.2f} hours of running speech")
    hidden = [f"{rate:g}/h ({name})" for name, rate in rates_of(targets).items() if rate * recordings.speech_hours < 1]
    if hidden:
        note(f"{recordings.speech_hours:.2f} hours cannot show {' and '.join(hidden)}: no false alarm is allowed there")
    chosen = choose(recordings, labels, options, targets, note)
    lag_ms = typical_lag_ms(options, chosen[CHOSEN].in_streams)
    note(f"posteriors rise {lag_ms:+d} ms from the end of their words")
    choices = {name: msgspec.structs.replace(one.options, lag_ms=lag_ms) for name, one in chosen.items()}
    return measure(recognizer, material, speech, choices)


def typical_lag_ms(options: Options, in_streams: Score) -> int:
    """The lag, to 10 ms, with which ends are reported where words end, by the ends that these options report."""
    error_ms = in_streams.end_error_p50_ms
    return options.lag_ms if math.isnan(error_ms) else options.lag_ms + 10 * round(error_ms / 10)


def _check(spec: Spec, material: Material, speech: Sequence[Sound]) -> None:
    if spec.sample_rate_hz != TRAINING_RATE_HZ:
        raise DataError(f"calibration: expected a model of {TRAINING_RATE_HZ} Hz, got one of {spec.sample_rate_hz}")
    missing = ", ".join(word for word in spec.labels.keywords if not material.keywords.get(word))
    if missing:
        raise DataError(f"calibration: expected clips of every keyword, got none of {missing}")
    if not speech:
        raise DataError("calibration: expected running speech to count false alarms in, got none")


def rates_of(targets: Calibration) -> dict[str, float]:
    """The false alarms per hour that are aimed at, by the name of the operating point, strictest first."""
    return {"strict": targets.strict, CHOSEN: targets.balanced, SENSITIVE: targets.sensitive}


def calibrated(info: ModelInfo, points: Mapping[str, Measured]) -> ModelInfo:
    """The same model with these operating points, and deciding by that called `balanced`."""
    operating_points = {name: to_point(one) for name, one in points.items()}
    options = operating_points[CHOSEN].applied_to(info.options)
    options = msgspec.structs.replace(options, lag_ms=points[CHOSEN].options.lag_ms)
    return msgspec.structs.replace(info, options=options, operating_points=operating_points)


def spot_recordings(
    recognizer: Recognizer,
    material: Material,
    speech: Sequence[Sound],
    choices: Mapping[str, Options],
) -> Recordings:
    """What each of these options finds in streams and in speech, with the posteriors."""
    recipe = PRESETS["tensorflow" if material.noise else "clean"]
    streams = [make_stream(material, recipe, seed) for seed in _SEEDS]
    return Recordings(
        [spot_with_truth(recognizer, [samples], words, choices) for samples, words in streams],
        [spot_with_truth(recognizer, (sound.read() for sound in speech), [], choices, audio="speech")],
    )


def active_frames(recording: StreamResult, n_keywords: int) -> StreamResult:
    """A recording cut down to the steps about those in which some keyword is not improbable: others fire nothing."""
    active = (recording.posteriors[:, :n_keywords].max(axis=1) > _QUIET).astype(float)
    near = np.convolve(active, np.ones(2 * _N_BESIDE + 1), "same") > 0.5
    return recording._replace(posteriors=recording.posteriors[near])


def allocate_thresholds(errors: Counts, alarms: Counts, budget: float) -> list[int]:
    """Index of the threshold of each keyword with fewest errors and at most `budget` false alarms in all.

    Takes counts [n keywords, n thresholds], thresholds rising. A Lagrangian search: one price of a false alarm in
    errors holds for all keywords; the lowest that keeps the budget is taken, and of equally good thresholds the middle
    one.
    """
    indices = [errors.shape[1] - 1] * len(errors)
    for price in _PRICES[::-1]:
        costs = errors + price * alarms
        tried = [int(ties[len(ties) // 2]) for row in costs for ties in [np.flatnonzero(row <= row.min() + 1e-9)]]
        if alarms[np.arange(len(alarms)), tried].sum() > budget:
            break
        indices = tried
    return indices


def tighten(missed: Counts, indices: Sequence[int], allowed: NDArray[np.float64]) -> list[int]:
    """Indices of the highest thresholds by keyword that miss at most `allowed` more words than those at `indices`."""
    return [
        int(np.flatnonzero(row <= row[index] + more).max())
        for row, index, more in zip(missed, indices, allowed, strict=True)
    ]


def candidates(
    recordings: Recordings, labels: Labels, options: Options, targets: Calibration
) -> dict[str, dict[str, float]]:
    """Thresholds of each keyword for each target, with the smoothing that the options have."""
    levels = [float(level) for level in np.round(1 / (1 + np.exp(-_LOGITS)), 3)]
    in_streams = sweep_thresholds(recordings.streams, labels, options, "default", levels)
    in_speech = sweep_thresholds(recordings.speech, labels, options, "default", levels)
    missed = _table(in_streams, lambda one: one.n_spoken - one.n_hits)
    wrong = _table(in_streams, lambda one: one.n_wrong)
    others = _table(in_streams, lambda one: one.n_false_alarms)
    alarms = _table(in_speech, lambda one: one.n_false_alarms)
    n_spoken = np.array([one.n_spoken for one in in_streams[0].per_keyword.values()])
    one_each = (missed, wrong, others, alarms, n_spoken)
    in_common = tuple(table.sum(axis=0, keepdims=True) for table in one_each)
    found, n_hidden = {}, 0
    for name, rate in reversed(rates_of(targets).items()):
        budget = rate * recordings.speech_hours
        missed, wrong, others, alarms, n_spoken = one_each if budget >= len(labels.keywords) else in_common
        errors = missed + wrong if name == SENSITIVE else missed + wrong + others
        indices = allocate_thresholds(errors, alarms, budget)
        if budget < 1:
            indices = tighten(missed, indices, _STRICTER * n_hidden * n_spoken)
            n_hidden += 1
        found[name] = dict(
            zip(labels.keywords, [levels[i] for i in np.resize(indices, len(labels.keywords))], strict=True)
        )
    return found


def _table(scores: Sequence[Score], count: Callable[[KeywordScore], int]) -> Counts:
    """Counts [n keywords, n thresholds]."""
    return np.array([[count(one) for one in result.per_keyword.values()] for result in scores], dtype=np.int64).T


def choose(
    recordings: Recordings, labels: Labels, options: Options, targets: Calibration, note: Note = lambda line: None
) -> dict[str, Measured]:
    """The best options that were found for each target, judged by the plain detector."""
    speech = [active_frames(one, len(labels.keywords)) for one in recordings.speech]
    recordings = recordings._replace(speech=speech)

    def tried(options: Options) -> Measured:
        return Measured(
            options, score_detector(recordings.streams, labels, options), score_detector(speech, labels, options)
        )

    per_target: dict[str, list[Measured]] = {name: [] for name in rates_of(targets)}
    for smoothing_ms in _SMOOTHINGS_MS:
        smoothed = msgspec.structs.replace(options, smoothing_ms=max(smoothing_ms, options.step_ms))
        for name, thresholds in candidates(recordings, labels, smoothed, targets).items():
            common = float(np.median(list(thresholds.values())))
            apart = {keyword: threshold for keyword, threshold in thresholds.items() if threshold != common}
            per_target[name].append(tried(msgspec.structs.replace(smoothed, threshold=common, thresholds=apart)))
        note(f"smoothing of {smoothing_ms} ms tried")
    return {name: _with_best_release(name, some, tried) for name, some in per_target.items()}


def _with_best_release(point: str, some: Sequence[Measured], tried: Callable[[Options], Measured]) -> Measured:
    """Of several smoothings the best for a point, with the release and refractory time that suit it."""
    best = min(some, key=lambda one: (one.cost(point), -one.options.smoothing_ms)).options
    variants = [
        tried(msgspec.structs.replace(best, release=release, refractory_ms=refractory_ms))
        for release, refractory_ms in itertools.product(_RELEASES, _REFRACTORIES_MS)
    ]
    return min(variants, key=lambda one: one.cost(point))


def measure(
    recognizer: Recognizer,
    material: Material,
    speech: Sequence[Sound],
    choices: Mapping[str, Options],
) -> dict[str, Measured]:
    """What the spotter that ships gives with each of these options."""
    recordings = spot_recordings(recognizer, material, speech, choices)

    def scored(name: str, part: list[StreamResult]) -> Score:
        return score([one.scored(name) for one in part], recognizer.info.spec.labels.keywords)

    return {
        name: Measured(
            options,
            scored(name, recordings.streams),
            scored(name, recordings.speech),
        )
        for name, options in choices.items()
    }


def to_point(measured: Measured) -> OperatingPoint:
    """A point as a model file stores it, with what was measured, and on how much."""
    options, streams, speech = measured.options, measured.in_streams, measured.in_speech
    return OperatingPoint(
        threshold=round(options.threshold, 3),
        thresholds=options.thresholds,
        smoothing_ms=options.smoothing_ms,
        release=options.release,
        refractory_ms=options.refractory_ms,
        false_alarms_per_hour=round(speech.false_alarms_per_hour, 2),
        false_alarms_per_hour_bound=round(poisson_upper_bound(speech.n_false_alarms) / speech.hours, 2),
        n_false_alarms=speech.n_false_alarms,
        measured_hours=round(speech.hours, 4),
        misses=round(streams.miss_rate, 4),
        n_keywords=streams.n_spoken,
        measured=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    )


def to_table(measured: Mapping[str, Measured], targets: Calibration) -> Table:
    """What each operating point gives, in running speech and on streams."""
    rates = rates_of(targets)
    rows = [
        (
            name,
            f"{rates[name]:g}",
            _rate(one.in_speech),
            percent(one.in_streams.miss_rate),
            percent(one.in_streams.wrong_rate),
            number(one.in_streams.false_alarms_per_hour, ".1f"),
            number(one.in_streams.delay_p50_ms, ".0f"),
            number(one.in_streams.delay_p95_ms, ".0f"),
        )
        for name, one in measured.items()
    ]
    head = ("point", "target/h", "false alarms/h, speech", "misses", "wrong", "false alarms/h, streams")
    return Table((*head, "delay p50 ms", "p95 ms"), "<><>>>>>", rows)


def _rate(speech: Score) -> str:
    bound = poisson_upper_bound(speech.n_false_alarms) / speech.hours
    return f"{speech.false_alarms_per_hour:.2f} ({speech.n_false_alarms} in {speech.hours:.2f} h, below {bound:.2g})"
