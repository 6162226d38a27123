"""Measures of a classifier, from posteriors [N, C] and true classes [N]. Pure numpy: knows no file and no model.

Classes are numbers; keywords come first. Rates lie in [0, 1], and are NaN where there is nothing to count.
"""

from __future__ import annotations

from math import exp, lgamma, log, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.errors import DataError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def confusion_matrix(truth: Counts, predicted: Counts, n_classes: int) -> Counts:
    """Counts [C, C] of clips by true class (rows) and predicted class (columns), both [N]."""
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def ratio(part: NDArray[Any] | float, whole: NDArray[Any] | float) -> Floats:
    """Part over whole, element by element with broadcasting; NaN where the whole is 0."""
    shape = np.broadcast_shapes(np.shape(part), np.shape(whole))
    ratios: Floats = np.divide(part, whole, out=np.full(shape, np.nan), where=np.asarray(whole) > 0)
    return ratios


def accuracy(confusion: Counts) -> Floats:
    """Fraction of all clips that got their class, of confusion matrices [..., C, C]: [...]."""
    return ratio(_correct(confusion).sum(-1), confusion.sum((-2, -1)))


def keyword_accuracy(confusion: Counts, n_keywords: int) -> Floats:
    """Fraction of the clips of all keywords that got their class: [...]."""
    return ratio(_correct(confusion)[..., :n_keywords].sum(-1), confusion[..., :n_keywords, :].sum((-2, -1)))


def recall(confusion: Counts) -> Floats:
    """Fraction of the clips of each class that got it: [..., C]."""
    return ratio(_correct(confusion), confusion.sum(-1))


def precision(confusion: Counts) -> Floats:
    """Fraction of the clips that got a class which belong to it: [..., C]."""
    return ratio(_correct(confusion), confusion.sum(-2))


def f1(confusion: Counts) -> Floats:
    """Harmonic mean of precision and recall of each class: [..., C]."""
    return ratio(2 * _correct(confusion), confusion.sum(-1) + confusion.sum(-2))


def macro_f1(confusion: Counts) -> Floats:
    """Mean F1 of the classes that have clips: [...]."""
    present = confusion.sum(-1) > 0
    return ratio(np.where(present, f1(confusion), 0).sum(-1), present.sum(-1))


def _correct(confusion: Counts) -> Counts:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def bootstrap(
    truth: Counts, predicted: Counts, groups: NDArray[Any], n_classes: int, *, n_resamples: int = 1000, seed: int = 0
) -> Counts:
    """Confusion matrices [n_resamples, C, C] of as many groups as there are, drawn with replacement.

    Clips with the same value in `groups` [N], such as those of one speaker, are drawn together, for they are no
    independent evidence. A single group says nothing of the spread: the matrices hold zeros then, of which every
    score is NaN.
    """
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), n_classes**2))
    np.add.at(counts, (group, truth * n_classes + predicted), 1)
    if len(names) == 1:
        counts[:] = 0
    random = np.random.default_rng(seed)
    draws = (
        np.bincount(random.integers(len(names), size=len(names)), minlength=len(names)) for _ in range(n_resamples)
    )
    return np.stack([draw @ counts for draw in draws]).astype(np.int64).reshape(n_resamples, n_classes, n_classes)


def interval(values: Floats) -> Floats:
    """The 2.5 % and 97.5 % percentiles [2, ...] of resampled values [R, ...], passing over NaN."""
    found = np.full((2, *values.shape[1:]), np.nan)
    some = ~np.isnan(values).all(axis=0)
    found[:, some] = np.nanpercentile(values[:, some], [2.5, 97.5], axis=0)
    return found


class DetCurve(NamedTuple):
    """Error rates by threshold, each [K], from the strictest to the loosest; only corners are kept."""

    threshold: Floats
    """Lowest score that counts as found."""
    false_alarm: Floats
    """Fraction of the others that reach it."""
    miss: Floats
    """Fraction of the targets that do not."""


def detection_curve(scores: NDArray[Any], is_target: NDArray[np.bool_]) -> DetCurve:
    """The curve of scores [N], of which some are of targets. The first threshold is infinite: nothing is found.

    Raises DataError unless there are both targets and others.
    """
    n_targets = int(is_target.sum())
    n_others = len(is_target) - n_targets
    if not n_targets or not n_others:
        raise DataError(f"expected targets and others to tell apart, got {n_targets} and {n_others}")
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are found together
    hits = np.concatenate([[0], np.cumsum(is_target[order])[ends]])
    alarms = np.concatenate([[0], ends + 1]) - hits
    threshold = np.concatenate([[np.inf], np.asarray(scores[order][ends], dtype=np.float64)])
    inside = np.zeros(len(hits), dtype=bool)
    for counts in (hits, alarms):
        inside[1:-1] |= (counts[:-2] == counts[1:-1]) & (counts[1:-1] == counts[2:])
    keep = ~inside
    return DetCurve(threshold[keep], alarms[keep] / n_others, 1 - hits[keep] / n_targets)


def area_under_roc(curve: DetCurve) -> float:
    """Chance that a target scores higher than another clip, equal scores counting half."""
    hit = 1 - curve.miss
    return float((np.diff(curve.false_alarm) * (hit[1:] + hit[:-1]) / 2).sum())


def equal_error_rate(curve: DetCurve) -> float:
    """The rate at which false alarms and misses are equal, on straight lines between the points of the curve."""
    excess = curve.false_alarm - curve.miss
    after = int(np.argmax(excess >= 0))  # never the first: there nothing is found, so the excess is -1
    weight = excess[after] / (excess[after] - excess[after - 1])
    return float(weight * curve.miss[after - 1] + (1 - weight) * curve.miss[after])


def miss_at(curve: DetCurve, false_alarm: float) -> float:
    """The lowest miss rate with at most this false-alarm rate."""
    return float(curve.miss[curve.false_alarm <= false_alarm].min())


def poisson_upper_bound(n: int, confidence: float = 0.95) -> float:
    """The expected count that is excluded with this confidence by having counted `n` events (Garwood, 1936).

    One-sided and exact: with this mean, at most `n` events have the probability 1 - `confidence`. For none it is 3.0.
    """
    low, high = float(n), n + 10 * sqrt(n + 1)
    for _ in range(60):
        middle = (low + high) / 2
        if sum(exp(k * log(middle) - middle - lgamma(k + 1)) for k in range(n + 1)) > 1 - confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class Reliability(NamedTuple):
    """Confidence against accuracy, each [n_bins], by bins of confidence."""

    n: Counts
    """Clips."""
    confidence: Floats
    """Mean confidence."""
    accuracy: Floats
    """Fraction of the clips classified correctly."""


def reliability(posteriors: NDArray[Any], truth: Counts, n_bins: int = 15) -> Reliability:
    """Clips by confidence, the highest posterior, in bins of equal width over [0, 1]; empty bins hold NaN."""
    confidence = posteriors.max(axis=1).astype(np.float64)
    correct = posteriors.argmax(axis=1) == truth
    bins = np.minimum((confidence * n_bins).astype(np.int64), n_bins - 1)
    n = np.bincount(bins, minlength=n_bins)
    sums = (np.bincount(bins, weights=values, minlength=n_bins) for values in (confidence, correct))
    return Reliability(n, *(ratio(values, n) for values in sums))


def expected_calibration_error(found: Reliability) -> float:
    """Mean distance of confidence and accuracy over bins, each weighing its clips (Guo et al., 2017)."""
    distance = np.where(found.n > 0, np.abs(found.accuracy - found.confidence), 0)
    return float((distance * found.n).sum() / found.n.sum())
