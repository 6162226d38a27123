"""Rows of posteriors in, detections out: no audio and no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechrnn.detector import Detection, Detector
from speechrnn.errors import ConfigError
from speechrnn.labels import Labels
from speechrnn.spec import Options
from tests.helpers import assert_one_line, cuts

LABELS = Labels(("yes", "no"))
Rows = NDArray[np.float64]


def rows(yes: Sequence[float], no: Sequence[float] | None = None, unknown: Sequence[float] | None = None) -> Rows:
    """Posteriors [n, 4]: what these leave goes to silence."""
    rest = [0.0] * len(yes)
    posteriors = np.array([yes, no or rest, unknown or rest], dtype=float).T
    return np.column_stack([posteriors, 1 - posteriors.sum(axis=1)])


def options(**changes: Any) -> Options:
    settings: dict[str, Any] = {"threshold": 0.6, "release": 0.7, "smoothing_ms": 300, "refractory_ms": 500}
    return Options(**(settings | changes))


def detect(posteriors: Rows, **changes: Any) -> list[Detection]:
    return Detector(LABELS, options(**changes)).push(posteriors)


def decided(detections: list[Detection]) -> list[tuple[str, float]]:
    return [(found.label, found.decided_s) for found in detections]


@pytest.mark.parametrize(
    ("what", "yes", "changes", "decided_s"),
    [
        ("a plateau fires once", [0] * 3 + [1] * 8 + [0] * 4, {}, [0.5]),
        ("a plateau without end fires once", [1] * 60, {}, [0.2]),
        ("the stream begins in silence", [1], {}, []),
        ("a single spike is smoothed away", [0, 0, 1, 0, 0, 0], {}, []),
        ("without smoothing a spike fires", [0, 0, 1, 0, 0, 0], {"smoothing_ms": 100}, [0.3]),
        ("two steps of 0.9 have a mean of 0.6", [0, 0.9, 0.9, 0], {}, [0.3]),
        ("a mean at the threshold fires", [0.5] * 5, {"threshold": 0.5}, [0.3]),
        ("a mean below the threshold does not", [0.499] * 5, {"threshold": 0.5}, []),
        ("more smoothing waits longer", [1] * 9, {"smoothing_ms": 500}, [0.3]),
        ("steps of another length", [0] * 3 + [1] * 9, {"step_ms": 50, "smoothing_ms": 150}, [0.25]),
        ("a word after a gap fires again", [1] * 4 + [0] * 4 + [1] * 4, {}, [0.2, 1.0]),
        ("a shallow dip does not release", [1] * 8 + [0.5] * 4 + [1] * 4, {}, [0.2]),
        ("a dip below the release level does", [1] * 8 + [0.3] * 4 + [1] * 4, {}, [0.2, 1.4]),
        ("a higher release level takes less of a dip", [1] * 8 + [0.5] * 4 + [1] * 4, {"release": 0.9}, [0.2, 1.3]),
        ("a gap within the refractory time is ignored", [1] * 4 + [0] * 4 + [1] * 4, {"refractory_ms": 900}, [0.2]),
        ("release is tried again until rested", [1] * 4 + [0] * 9 + [1] * 4, {"refractory_ms": 900}, [0.2, 1.5]),
        ("a refractory time of whole steps", [1] * 4 + [0] * 4 + [1] * 4, {"refractory_ms": 700}, [0.2, 1.0]),
        ("a refractory time is rounded up to steps", [1] * 4 + [0] * 4 + [1] * 4, {"refractory_ms": 701}, [0.2]),
        ("no refractory time, only release", [1, 1, 0, 0, 1, 1], {"refractory_ms": 0}, [0.2, 0.6]),
    ],
)
def test_when_a_keyword_fires(what: str, yes: list[float], changes: dict[str, Any], decided_s: list[float]) -> None:
    assert decided(detect(rows(yes), **changes)) == [("yes", time_s) for time_s in decided_s], what


QUIET = {"quiet_before": 0.5, "smoothing_ms": 200}


@pytest.mark.parametrize(
    ("what", "unknown", "decided_s"),
    [
        ("silence before", [0] * 20, [2.2]),
        ("the context 600 ms before is the last that counts", [1] * 15 + [0.5] + [1] * 4, [2.2]),
        ("a later one does not", [1] * 16 + [0] + [1] * 3, []),
        ("the context 1.1 s before is the first that counts", [1] * 10 + [0] + [1] * 9, [2.2]),
        ("an earlier one does not", [1] * 9 + [0] + [1] * 10, []),
        ("silence below the bound", [1] * 12 + [0.51] * 3 + [1] * 5, []),
        ("the start of a stream", [1] * 9, [1.1]),
        ("no more after 1.1 s of speech", [1] * 10, []),
    ],
)
def test_a_keyword_fires_only_after_quiet_where_that_is_wanted(
    what: str, unknown: list[float], decided_s: list[float]
) -> None:
    n = len(unknown)
    found = detect(rows([0] * n + [1] * 3, unknown=unknown + [0] * 3), **QUIET)
    assert decided(found) == [("yes", time_s) for time_s in decided_s], what


def test_another_keyword_just_before_counts_as_quiet() -> None:
    yes, no = [0.0] * 20 + [1] * 3, [0.0] * 20 + [0] * 3
    later = rows(yes + [0] * 13, no=no + [0] * 7 + [1] * 6, unknown=[0] * 23 + [1] * 7 + [0] * 6)
    assert decided(detect(later, **QUIET)) == [("yes", 2.2), ("no", 3.2)]
    assert decided(detect(later, **QUIET, keywords=("no",))) == [("no", 3.2)]  # also where it is not asked for


def test_a_keyword_in_speech_is_counted_and_held_until_it_is_over() -> None:
    detector = Detector(LABELS, options(**QUIET))
    assert detector.push(rows([0] * 20 + [1] * 9 + [0] * 20, unknown=[1] * 20 + [0] * 9 + [0] * 20)) == []
    assert detector.n_in_speech == 1


@pytest.mark.parametrize("n_rows", [1, 2, 7, 60])
def test_quiet_is_the_same_however_the_rows_come(n_rows: int) -> None:
    random = np.random.default_rng(5)
    unknown = np.repeat(random.random(60) < 0.7, 3).astype(float)
    yes = np.repeat(random.random(60) < 0.3, 3) * (1 - unknown)
    stream = rows(list(yes), unknown=list(unknown))
    whole, parts = Detector(LABELS, options(**QUIET)), Detector(LABELS, options(**QUIET))
    found = [one for first in range(0, len(stream), n_rows) for one in parts.push(stream[first : first + n_rows])]
    assert found == whole.push(stream)
    assert found
    assert parts.n_in_speech == whole.n_in_speech > 0


def test_quiet_needs_a_class_for_silence() -> None:
    with pytest.raises(ConfigError) as caught:
        Detector(Labels(("yes", "no"), silence=False), options(**QUIET))
    assert_one_line(caught.value, "quiet_before", "silence")


def test_two_keywords_in_a_row_both_fire() -> None:
    found = detect(rows([1] * 3 + [0] * 5, no=[0] * 3 + [1] * 5))
    assert decided(found) == [("yes", 0.2), ("no", 0.5)]


def test_the_mean_decides_between_keywords_not_the_last_step() -> None:
    found = detect(rows([1, 0.5, 0.4, 0], no=[0, 0.5, 0.6, 0]))
    assert decided(found) == [("yes", 0.3)]


def test_only_the_higher_of_two_keywords_fires() -> None:
    found = detect(rows([0.45] * 9, no=[0.55] * 9), threshold=0.4)
    assert [label for label, _ in decided(found)] == ["no"]


@pytest.mark.parametrize("unknown", [0.0, 0.5, 1.0])
def test_unknown_and_silence_never_fire(unknown: float) -> None:
    assert detect(rows([0] * 50, unknown=[unknown] * 50), threshold=0.01) == []


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ({}, ["yes", "no"]),
        ({"no": 0.9}, ["yes"]),
        ({"yes": 0.9}, ["no"]),
        ({"yes": 0.81, "no": 0.79}, ["no"]),
    ],
)
def test_a_keyword_may_have_its_own_threshold(thresholds: dict[str, float], expected: list[str]) -> None:
    found = detect(rows([0.8] * 9 + [0] * 9, no=[0] * 9 + [0.8] * 9), thresholds=thresholds)
    assert [detection.label for detection in found] == expected


def test_the_score_is_the_mean_at_the_decision() -> None:
    assert [found.score for found in detect(rows([0.5, 0.75, 0.87654, 1, 1]))] == [0.7088]


def test_the_score_never_exceeds_one() -> None:
    assert [found.score for found in detect(rows([1 + 1e-7] * 9), threshold=1.0)] == [1.0]


@pytest.mark.parametrize(
    ("rises_at", "changes", "start_s", "end_s"),
    [
        (10, {}, 0.5, 1.0),
        (10, {"word_ms": 400}, 0.6, 1.0),
        (10, {"lag_ms": 300}, 0.2, 0.7),
        (10, {"lag_ms": -100}, 0.6, 1.1),
        (10, {"lag_ms": -200}, 0.6, 1.1),  # no word ends after it was decided
        (10, {"step_ms": 50, "smoothing_ms": 150}, 0.0, 0.5),
        (10, {"smoothing_ms": 900}, 0.5, 1.0),
        (3, {}, 0.0, 0.3),
        (3, {"lag_ms": 250}, 0.0, 0.05),
        (3, {"lag_ms": 1000}, 0.0, 0.0),
        (1, {}, 0.0, 0.1),
    ],
)
def test_a_word_ends_where_its_posterior_rose_less_the_lag(
    rises_at: int, changes: dict[str, Any], start_s: float, end_s: float
) -> None:
    (found,) = detect(rows([0] * (rises_at - 1) + [1] * 10), **changes)
    assert (found.start_s, found.end_s) == pytest.approx((start_s, end_s))


def test_a_rise_is_to_at_least_half_of_the_threshold() -> None:
    (found,) = detect(rows([0] * 5 + [0.3] * 5 + [1] * 5), threshold=0.8, release=0.2)
    assert found.end_s == pytest.approx(1.1)


@pytest.mark.parametrize("rest", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("release", [0.2, 0.7, 1.0])
def test_a_repeated_word_has_times_of_its_own(rest: float, release: float) -> None:
    found = detect(rows([0] * 5 + [1] * 5 + [rest] * 10 + [1] * 5), threshold=0.8, release=release)
    ends_s = [0.6, 2.1] if rest < 0.8 * release else [0.6]
    assert [detection.end_s for detection in found] == pytest.approx(ends_s)


def some_rows(n: int) -> st.SearchStrategy[Rows]:
    """Posteriors that rest and rise for a few steps at a time."""
    levels = st.sampled_from([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.7, 0.2), (0.3, 0.4)])
    runs = st.lists(st.tuples(levels, st.integers(1, 6)), min_size=n, max_size=n)
    return runs.map(lambda parts: np.array([level for level, length in parts for _ in range(length)]))


@given(posteriors=some_rows(12), places=cuts(40))
def test_detections_do_not_depend_on_how_rows_are_pushed(posteriors: Rows, places: list[int]) -> None:
    detector = Detector(LABELS, options(refractory_ms=300))
    pushed = [found for part in np.split(posteriors, places) for found in detector.push(part)]
    assert pushed == detect(posteriors, refractory_ms=300)


@given(posteriors=some_rows(8))
def test_times_are_in_order_and_never_negative(posteriors: Rows) -> None:
    for found in detect(posteriors, refractory_ms=0, lag_ms=250):
        assert 0 <= found.start_s <= found.end_s <= found.decided_s


@given(before=some_rows(5), posteriors=some_rows(8))
def test_reset_forgets_everything(before: Rows, posteriors: Rows) -> None:
    detector = Detector(LABELS, options())
    detector.push(before)
    detector.reset()
    assert detector.push(posteriors) == detect(posteriors)


@pytest.mark.parametrize("word", ["maybe", "unknown", "silence"])
def test_a_threshold_for_what_is_no_keyword_is_refused(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Detector(LABELS, options(thresholds={word: 0.5, "yes": 0.5}))
    assert_one_line(caught.value, word, "yes, no")


@pytest.mark.parametrize("smoothing_ms", [100, 300])
def test_posteriors_that_are_not_numbers_never_fire_and_what_follows_them_does(smoothing_ms: int) -> None:
    lost = np.full((5, 4), np.nan)
    partly = rows([1.0] * 5)
    partly[:, 1] = np.nan
    detector = Detector(LABELS, options(smoothing_ms=smoothing_ms))
    assert detector.push(np.concatenate([lost, partly])) == []
    assert [found.label for found in detector.push(rows([0, 0, 0, 1, 1, 1]))] == ["yes"]
