"""Scoring: each rule on tables of detections, the counts over recordings, and curves over thresholds."""

from __future__ import annotations

import math
from collections import Counter

import msgspec
import numpy as np
import pytest

from speechrnn.detector import Detection
from speechrnn.evaluation.ground_truth import GroundTruth, Word
from speechrnn.evaluation.streams import (
    RULES,
    THRESHOLDS,
    ScoredRecording,
    StreamResult,
    build_curve,
    score,
    sweep_thresholds,
    to_table,
)
from speechrnn.labels import Labels
from speechrnn.spec import Options
from tests.helpers import FAKE_INFO

KEYWORDS = ("yes", "no")
WORDS = [Word("yes", 1.0, 1.5), Word("bed", 3.0, 3.5), Word("no", 5.0, 5.5), Word("no", 5.9, 6.4)]


def detection(label: str, decided_s: float, start_s: float | None = None) -> Detection:
    return Detection(label, decided_s - 0.6 if start_s is None else start_s, decided_s - 0.1, 0.9, decided_s)


def verdicts(rule: str, found: list[Detection]) -> list[tuple[str, int | None]]:
    judged = RULES[rule].judge(found, WORDS, KEYWORDS)
    return [(verdict.kind, None if verdict.word is None else WORDS.index(verdict.word)) for verdict in judged]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([detection("yes", 0.9)], [("hit", 0)]),
        ([detection("yes", 0.89)], [("false alarm", None)]),
        ([detection("yes", 2.5)], [("hit", 0)]),
        ([detection("yes", 2.51)], [("false alarm", None)]),
        ([detection("no", 1.7)], [("wrong", 0)]),
        ([detection("yes", 3.6)], [("false alarm", 1)]),
        ([detection("yes", 1.6), detection("yes", 2.0)], [("hit", 0), ("false alarm", 0)]),
        ([detection("no", 6.2), detection("no", 6.6)], [("hit", 2), ("hit", 3)]),
        ([detection("no", 6.6), detection("yes", 6.7)], [("hit", 3), ("wrong", 3)]),
    ],
)
def test_by_default_the_time_of_the_decision_tells(
    found: list[Detection], expected: list[tuple[str, int | None]]
) -> None:
    assert verdicts("default", found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([detection("yes", 2.0, start_s=0.25)], [("hit", 0)]),
        ([detection("yes", 2.0, start_s=0.24)], [("false alarm", None)]),
        ([detection("yes", 9.0, start_s=1.75)], [("hit", 0)]),
        ([detection("yes", 2.0, start_s=1.76)], [("false alarm", None)]),
        ([detection("no", 2.0, start_s=1.0)], [("wrong", 0)]),
        ([detection("no", 4.0, start_s=3.0)], [("wrong", 1)]),
        ([detection("yes", 2.0, start_s=1.0), detection("yes", 2.4, start_s=1.4)], [("hit", 0), ("wrong", 0)]),
        ([detection("yes", 2.0, start_s=0.9), detection("no", 2.4, start_s=1.0)], [("hit", 0), ("wrong", 0)]),
        ([detection("no", 6.5, start_s=5.7)], [("hit", 2)]),
        ([detection("no", 6.5, start_s=5.8)], [("hit", 3)]),
    ],
)
def test_tensorflow_compares_starts_with_a_tolerance_of_750_ms(
    found: list[Detection], expected: list[tuple[str, int | None]]
) -> None:
    assert verdicts("tensorflow", found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([detection("yes", 1.0)], [("hit", 0)]),
        ([detection("yes", 0.99)], [("false alarm", None)]),
        ([detection("yes", 2.5)], [("hit", 0)]),
        ([detection("yes", 1.6), detection("yes", 2.4)], [("hit", 0), ("not counted", 0)]),
        ([detection("no", 1.6)], [("false alarm", 0)]),
        (
            [detection("yes", 8.0), detection("no", 8.9), detection("yes", 9.1)],
            [("false alarm", None), ("not counted", None)] * 1 + [("false alarm", None)],
        ),
        (
            [detection("no", 6.2), detection("no", 6.3), detection("no", 6.4)],
            [("hit", 2), ("hit", 3), ("not counted", 2)],
        ),
    ],
)
def test_mlperf_counts_false_positives_within_a_second_once(
    found: list[Detection], expected: list[tuple[str, int | None]]
) -> None:
    assert verdicts("mlperf", found) == expected


def test_counts_are_summed_over_recordings_and_rates_are_per_keyword() -> None:
    found = [detection("yes", 1.7), detection("yes", 3.6), detection("yes", 5.9), detection("no", 6.6)]
    quiet = ScoredRecording("quiet", 1800.0, [detection("no", 700.0)], [])
    got = score([ScoredRecording("words", 1800.0, found, WORDS), quiet], KEYWORDS)
    assert (got.n_recordings, got.hours) == (2, 1.0)
    assert (got.n_spoken, got.n_hits, got.n_misses, got.n_wrong, got.n_false_alarms) == (3, 2, 1, 1, 2)
    assert [got.hit_rate, got.miss_rate, got.wrong_rate] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert [got.match_rate, got.false_alarm_rate] == pytest.approx([1.0, 2 / 3])
    assert got.false_alarms_per_hour == 2.0
    assert [got.delay_p50_ms, got.delay_p95_ms] == pytest.approx([200, 200])
    assert got.end_error_p50_ms == pytest.approx(100)
    assert msgspec.to_builtins(got.per_keyword["yes"]) == {
        "n_spoken": 1,
        "n_hits": 1,
        "n_wrong": 1,
        "n_false_alarms": 1,
    }
    assert [(alarm.audio, alarm.kind, alarm.spoken) for alarm in got.alarms] == [
        ("words", "false alarm", "bed"),
        ("words", "wrong", "no"),
        ("quiet", "false alarm", ""),
    ]


@pytest.mark.parametrize(
    ("spoken", "detected", "n_hits", "n_false_alarms"),
    [("", "", 0, 0), ("", "yes", 0, 1), ("yes", "yes", 1, 0), ("yes yes no", "yes", 1, 0), ("no", "no no yes", 1, 2)],
)
def test_with_a_transcript_a_keyword_may_be_detected_as_often_as_it_was_spoken(
    spoken: str, detected: str, n_hits: int, n_false_alarms: int
) -> None:
    truth: GroundTruth = Counter(["the", *spoken.split()])
    found = [detection(label, float(at)) for at, label in enumerate(detected.split())]
    got = score([ScoredRecording("a", 3600.0, found, truth)], KEYWORDS)
    assert (got.n_spoken, got.n_hits, got.false_alarms_per_hour) == (len(spoken.split()), n_hits, n_false_alarms)
    assert math.isnan(got.delay_p50_ms)
    assert "as often as it was spoken" in got.statement


@pytest.mark.parametrize("rule", RULES)
def test_where_the_time_of_the_decision_is_not_known_the_end_counts_and_there_is_no_delay(rule: str) -> None:
    found = [Detection("yes", 1.0, 1.4, 0.9, math.nan), Detection("no", 8.0, 8.4, 0.9, math.nan)]
    got = score([ScoredRecording("a", 60.0, found, WORDS)], KEYWORDS, rule)
    assert (got.n_hits, got.n_false_alarms) == (1, 1)
    assert [math.isnan(got.delay_p50_ms), math.isnan(got.delay_p95_ms)] == [True, True]
    assert "p50 - ms, p95 - ms" in to_table(got)
    assert b'"delay_p50_ms":null' in msgspec.json.encode(got)


@pytest.mark.parametrize("truth", [[Word("licht", 1.0, 1.5), Word("an", 3.0, 3.5)], Counter(["licht", "an"])])
def test_a_keyword_with_capitals_is_found_in_truth_which_has_none(truth: GroundTruth) -> None:
    got = score([ScoredRecording("a", 1800.0, [detection("Licht", 1.6)], truth)], ["Licht"])
    assert (got.n_spoken, got.n_hits, got.n_false_alarms) == (1, 1, 0)


def test_where_nothing_was_spoken_there_are_alarms_per_hour_but_no_rates() -> None:
    got = score([ScoredRecording("a", 1800.0, [detection("yes", 3.0)], [])], KEYWORDS)
    assert got.false_alarms_per_hour == 2.0
    assert math.isnan(got.miss_rate)
    assert b'"miss_rate":null' in msgspec.json.encode(got)


def posteriors(*peaks: float) -> np.ndarray:
    """Rows of a keyword with these probabilities, a second each, two seconds apart."""
    rows = np.zeros((30 * len(peaks), 4), dtype=np.float32)
    for number, peak in enumerate(peaks):
        rows[30 * number + 10 : 30 * number + 20, 0] = peak
    return rows


def test_a_curve_is_what_the_detector_gives_at_every_threshold() -> None:
    labels, options = Labels(KEYWORDS), Options(smoothing_ms=100, threshold=0.7, thresholds={"yes": 0.99})
    words = [Word("yes", 0.8, 1.2), Word("yes", 3.8, 4.2)]
    recordings = [
        StreamResult("words", 6.0, words, {"as set": [detection("yes", 1.3)]}, posteriors(0.9, 0.4)),
        StreamResult("speech", 3594.0, [], {"as set": []}, posteriors(0.6)),
    ]
    results = sweep_thresholds(recordings, labels, options, "default", (0.3, 0.5, 0.7, 0.95))
    assert [(result.n_misses, result.n_false_alarms) for result in results] == [(0, 1), (1, 1), (1, 0), (2, 0)]
    curve = build_curve(recordings, labels, {"as set": options}, "default")
    assert [point.threshold for point in curve.detector] == list(THRESHOLDS)
    missed = [point.miss_rate for point in curve.detector]
    assert missed == sorted(missed)
    assert (missed[0], missed[-1]) == (0, 1)
    assert msgspec.to_builtins(curve.spotter) == {
        "as set": {
            "threshold": 0.7,
            "thresholds": {"yes": 0.99},
            "miss_rate": 0.5,
            "wrong_rate": 0.0,
            "false_alarms_per_hour": 0.0,
        }
    }
    assert "thresholds" not in msgspec.to_builtins(curve.detector[0])


@pytest.mark.parametrize("rule", RULES)
def test_the_table_states_the_rule_and_every_keyword(rule: str) -> None:
    text = to_table(
        score([ScoredRecording("a", 60.0, [detection("yes", 3.6)], WORDS)], FAKE_INFO.spec.labels.keywords, rule)
    )
    assert RULES[rule].statement in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["no"] == ["2", "0", "2", "0", "0"]
    assert "bed for yes (1)" in text
