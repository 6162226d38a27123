"""Measures against hand computations, scipy, and what must hold whatever the numbers are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.metrics
from hypothesis import assume, given
from hypothesis import strategies as st

from speechrnn.errors import DataError
from speechrnn.evaluation import metrics

# Three keywords, unknown and a class without clips: 3 + 2 + 1 + 4 clips.
CONFUSION = np.array([[2, 1, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 3, 0], [0, 0, 0, 0, 0]])
NAN = np.nan


def drawn(n_clips: int = 400, n_classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that lean towards the truth, and the truth."""
    random = np.random.default_rng(seed)
    truth = random.integers(n_classes, size=n_clips)
    return random.normal(size=(n_clips, n_classes)) + 1.5 * np.eye(n_classes)[truth], truth


def test_the_confusion_matrix_has_the_truth_in_rows() -> None:
    found = metrics.confusion_matrix(np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0]), 3)
    np.testing.assert_array_equal(found, [[1, 1, 0], [0, 0, 0], [1, 0, 2]])


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (metrics.accuracy, 7 / 10),
        (lambda confusion: metrics.keyword_accuracy(confusion, 3), 4 / 6),
        (metrics.recall, [2 / 3, 1, 0, 3 / 4, NAN]),
        (metrics.precision, [2 / 3, 2 / 3, NAN, 3 / 4, NAN]),
        (metrics.f1, [2 / 3, 4 / 5, 0, 3 / 4, NAN]),
        (metrics.macro_f1, (2 / 3 + 4 / 5 + 0 + 3 / 4) / 4),
    ],
)
def test_scores_of_a_confusion_matrix_and_of_a_stack_of_them(
    measure: Callable[[np.ndarray], np.ndarray], expected: float | list[float]
) -> None:
    np.testing.assert_allclose(measure(CONFUSION), expected)
    stacked = measure(np.stack([CONFUSION, np.zeros_like(CONFUSION)]))
    np.testing.assert_allclose(stacked[0], expected)
    assert np.isnan(stacked[1]).all()


def test_resampling_draws_all_clips_of_a_group_together() -> None:
    truth, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    resampled = metrics.bootstrap(truth, predicted, np.array(["a", "a", "a", "b", "c"]), 2, n_resamples=200)
    n_of_a = resampled[:, 0].sum(axis=1) // 3
    np.testing.assert_array_equal(resampled[:, 0], n_of_a[:, None] * [2, 1])
    np.testing.assert_array_equal(n_of_a + resampled[:, 1, 1], 3)
    assert set(n_of_a) == {0, 1, 2, 3}


def test_resampling_depends_on_its_seed_alone() -> None:
    logits, truth = drawn()
    a, b, c = (
        metrics.bootstrap(truth, logits.argmax(1), np.arange(400) // 4, 4, n_resamples=20, seed=s) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_an_interval_of_independent_clips_is_near_the_binomial_one() -> None:
    logits, truth = drawn(1000)
    predicted = logits.argmax(1)
    low, high = metrics.interval(metrics.accuracy(metrics.bootstrap(truth, predicted, np.arange(1000), 4)))
    share = (predicted == truth).mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 1000)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.005)


def test_an_interval_is_wider_when_clips_stand_or_fall_together() -> None:
    truth = np.zeros(1000, dtype=np.int64)
    predicted = np.repeat(np.random.default_rng(0).integers(2, size=50), 20)  # 50 speakers: all right or all wrong
    alone, grouped = (
        np.diff(metrics.interval(metrics.accuracy(metrics.bootstrap(truth, predicted, groups, 2)))).item()
        for groups in (np.arange(1000), np.arange(1000) // 20)
    )
    assert grouped == pytest.approx(np.sqrt(20) * alone, rel=0.2)


def test_one_group_has_no_interval() -> None:
    resampled = metrics.bootstrap(np.array([0, 1]), np.array([0, 0]), np.array(["a", "a"]), 2, n_resamples=10)
    assert np.isnan(metrics.interval(metrics.accuracy(resampled))).all()


def test_an_interval_passes_over_resamples_without_the_class() -> None:
    values = np.stack([np.append(np.arange(101.0), NAN), np.full(102, NAN)], axis=1)
    np.testing.assert_allclose(metrics.interval(values), [[2.5, NAN], [97.5, NAN]])


def test_a_detection_curve_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4])
    is_target = np.array([True, True, False, True, True, False, False])
    curve = metrics.detection_curve(scores, is_target)
    np.testing.assert_allclose(curve.threshold, [np.inf, 0.9, 0.8, 0.6, 0.4])
    np.testing.assert_allclose(curve.false_alarm, [0, 0, 1 / 3, 1 / 3, 1])
    np.testing.assert_allclose(curve.miss, [1, 3 / 4, 1 / 2, 0, 0])
    assert metrics.miss_at(curve, 0.2) == 3 / 4
    assert metrics.miss_at(curve, 1 / 3) == 0
    assert metrics.equal_error_rate(curve) == pytest.approx(1 / 3)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=60).filter(
        lambda clips: len({is_target for _, is_target in clips}) == 2
    )
)
def test_a_detection_curve_counts_what_reaches_each_threshold(clips: list[tuple[int, bool]]) -> None:
    scores, is_target = np.array([score for score, _ in clips]), np.array([target for _, target in clips])
    curve = metrics.detection_curve(scores, is_target)
    for threshold, false_alarm, miss in zip(*curve, strict=True):
        assert false_alarm == pytest.approx((scores[~is_target] >= threshold).mean())
        assert miss == pytest.approx((scores[is_target] < threshold).mean())
    assert (np.diff(curve.threshold) < 0).all()
    assert (curve.false_alarm[0], curve.miss[-1]) == (0, 0)
    assert (curve.miss[0], curve.false_alarm[-1]) == (1, 1)
    statistic = scipy.stats.mannwhitneyu(scores[is_target], scores[~is_target]).statistic
    expected = statistic / is_target.sum() / (~is_target).sum()
    assert metrics.area_under_roc(curve) == pytest.approx(expected)
    for allowed in (0, 0.1, 0.5):
        thresholds = [t for t in [*scores, np.inf] if (scores[~is_target] >= t).mean() <= allowed]
        best = min((scores[is_target] < t).mean() for t in thresholds)
        assert metrics.miss_at(curve, allowed) == pytest.approx(best)


@pytest.mark.parametrize(
    ("scores", "rate"), [([4, 3, 2, 1], 0), ([1, 2, 3, 4], 1), ([4, 2, 3, 1], 0.5), ([1, 1, 1, 1], 0.5)]
)
def test_the_equal_error_rate_of_two_targets_and_two_others(scores: list[int], rate: float) -> None:
    curve = metrics.detection_curve(np.array(scores), np.array([True, True, False, False]))
    assert metrics.equal_error_rate(curve) == pytest.approx(rate)


def test_the_equal_error_rate_of_two_normal_distributions() -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(1, 1, 20000), random.normal(-1, 1, 20000)])
    curve = metrics.detection_curve(scores, np.arange(40000) < 20000)
    assert metrics.equal_error_rate(curve) == pytest.approx(scipy.stats.norm.cdf(-1), abs=0.005)
    assert metrics.area_under_roc(curve) == pytest.approx(scipy.stats.norm.cdf(np.sqrt(2)), abs=0.005)


@pytest.mark.parametrize("is_target", [[True, True], [False, False]])
def test_a_curve_needs_both_kinds_of_clips(is_target: list[bool]) -> None:
    with pytest.raises(DataError, match=r"targets and others .* got (2 and 0|0 and 2)"):
        metrics.detection_curve(np.array([0.1, 0.2]), np.array(is_target))


def test_reliability_and_calibration_error_by_hand() -> None:
    posteriors = np.array([[0.9, 0.1], [0.85, 0.15], [0.3, 0.7], [0.4, 0.6], [1.0, 0.0]])
    found = metrics.reliability(posteriors, np.array([0, 1, 1, 0, 0]), n_bins=5)
    np.testing.assert_array_equal(found.n, [0, 0, 0, 2, 3])
    np.testing.assert_allclose(found.confidence, [NAN, NAN, NAN, 0.65, 2.75 / 3])
    np.testing.assert_allclose(found.accuracy, [NAN, NAN, NAN, 1 / 2, 2 / 3])
    expected = (2 * (0.65 - 0.5) + 3 * (2.75 / 3 - 2 / 3)) / 5
    assert metrics.expected_calibration_error(found) == pytest.approx(expected)


def test_clips_drawn_from_the_posteriors_are_calibrated() -> None:
    logits, _ = drawn(20000)
    posteriors = scipy.special.softmax(2 * logits, axis=1)
    truth = np.array([np.random.default_rng(i).choice(4, p=row) for i, row in enumerate(posteriors)])
    assert metrics.expected_calibration_error(metrics.reliability(posteriors, truth)) < 0.02
    too_sure = scipy.special.softmax(6 * logits, axis=1)
    assert metrics.expected_calibration_error(metrics.reliability(too_sure, truth)) > 0.05


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_measures_of_classes_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    confusion = metrics.confusion_matrix(truth, predicted, 4)
    np.testing.assert_array_equal(confusion, sklearn.metrics.confusion_matrix(truth, predicted, labels=range(4)))
    assert metrics.accuracy(confusion) == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    expected = sklearn.metrics.precision_recall_fscore_support(truth, predicted, labels=range(4), zero_division=np.nan)
    for measure, values in zip((metrics.precision, metrics.recall, metrics.f1), expected, strict=False):
        np.testing.assert_allclose(measure(confusion), values)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=60))
def test_curves_are_those_of_scikit_learn(clips: list[tuple[int, bool]]) -> None:
    scores, is_target = np.array([score for score, _ in clips]), np.array([target for _, target in clips])
    assume(is_target.any() and not is_target.all())
    curve = metrics.detection_curve(scores, is_target)
    points = set(zip(np.round(curve.false_alarm, 9), np.round(curve.miss, 9), strict=True))
    false_alarm, hit, _ = sklearn.metrics.roc_curve(is_target, scores, drop_intermediate=False)
    assert points <= set(zip(np.round(false_alarm, 9), np.round(1 - hit, 9), strict=True))
    assert metrics.area_under_roc(curve) == pytest.approx(sklearn.metrics.roc_auc_score(is_target, scores))


@pytest.mark.parametrize(("n", "expected"), [(0, 2.996), (1, 4.744), (4, 9.154), (100, 118.08)])
def test_the_upper_bound_of_a_count_is_that_of_the_chi_squared_distribution(n: int, expected: float) -> None:
    assert metrics.poisson_upper_bound(n) == pytest.approx(expected, rel=1e-3)
    assert metrics.poisson_upper_bound(n) == pytest.approx(scipy.stats.chi2.ppf(0.95, 2 * n + 2) / 2)
