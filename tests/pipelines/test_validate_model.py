"""The figures by which a model is chosen: thresholds at given misses, false alarms by transcripts, and their sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from pipelines.validate_model import (
    Rows,
    Scores,
    SpeechResult,
    count_alarms,
    deciding,
    in_stream,
    missed,
    threshold_for,
    to_lines,
)
from speechrnn.detector import Detector
from speechrnn.spec import Options
from tests.helpers import FAKE_INFO, fake_recognizer

LABELS = FAKE_INFO.spec.labels
PLAIN = Options(smoothing_ms=100, threshold=0.6)


def rows_of(word: str, *scores: float) -> Rows:
    """Posteriors of a keyword, one after the other with silence between."""
    rows = np.zeros((20 * len(scores), len(LABELS.names)), dtype=np.float32)
    for number, score in enumerate(scores):
        rows[20 * number + 5 : 20 * number + 9, LABELS.names.index(word)] = score
    return rows


def test_a_clip_is_missed_if_its_own_word_is_not_detected() -> None:
    one, other = LABELS.keywords[:2]
    clips = [
        (one, rows_of(one, 0.9)),
        (one, rows_of(other, 0.9)),
        (one, rows_of(one, 0.5)),
        (other, rows_of(other, 0.7)),
    ]
    assert missed(Detector(LABELS, PLAIN), clips) == 0.5


@pytest.mark.parametrize(("misses", "highest"), [(0.0, 0.2), (0.25, 0.4), (0.5, 0.6), (0.75, 0.8)])
def test_the_threshold_is_the_highest_that_misses_no_more(misses: float, highest: float) -> None:
    word = LABELS.keywords[0]
    clips = [(word, rows_of(word, score)) for score in (0.2, 0.4, 0.6, 0.8)]
    found = threshold_for(clips, fake_recognizer(), PLAIN, misses)
    assert highest - 0.03 < found <= highest


def test_a_detection_of_a_word_that_is_said_is_no_false_alarm_and_each_counts_once() -> None:
    one, other = LABELS.keywords[:2]
    speech = [
        SpeechResult(rows_of(one, 0.9, 0.9, 0.9), Counter([one, one]), 6.0),
        SpeechResult(rows_of(other, 0.9), Counter(), 2.0),
    ]
    assert count_alarms(Detector(LABELS, PLAIN), speech) == (2, 2)


def test_a_clip_in_a_stream_stands_in_faint_noise() -> None:
    stream = in_stream(np.full(8000, 0.5, dtype=np.float32), 16000, seed=3)
    assert len(stream) == 19200 + 8000 + 16000
    assert np.abs(stream[19200:27200] - 0.5).max() < 0.01
    assert 0 < np.abs(stream[:19200]).max() < 0.01


@pytest.mark.parametrize(
    ("alarms", "errors", "expected"),
    [
        ([9, 9, 9], {"yes": 0.0}, np.log(19)),
        ([9, 9, 9], {"yes": 0.04, "no": 0.02}, np.log(19) + 0.3),
        ([9, 9, 9], {"yes": 0.0, "natural yes": 0.1, "natural no": 0.3}, np.log(19) + 0.4),
        ([9, 4, 0], {"yes": 0.0}, np.log([19, 9, 1]).mean()),
    ],
)
def test_the_figure_that_decides_adds_up(alarms: Sequence[int], errors: dict[str, float], expected: float) -> None:
    counts = {"talk alone": list(alarms), "talk anywhere": [99, 99, 99]}
    scores = Scores("m.onnx", speech_hours={"talk": 0.5}, clip_errors=errors, false_alarms=counts)
    assert deciding(scores) == pytest.approx(expected)


def test_the_figures_are_told_in_one_table() -> None:
    scores = Scores(
        "a.onnx",
        {"meetings": 2.0},
        {"yes": 0.02, "no": 0.04, "natural yes": 0.2},
        thresholds={"anywhere": [0.5], "alone": [0.4]},
        false_alarms={"meetings anywhere": [9], "meetings alone": [3]},
        natural_misses={"anywhere": [0.1], "alone": [0.3]},
        clip_misses={"anywhere": [0.07], "alone": [0.06]},
        deciding=1.5,
    )
    text = "\n".join(to_lines(scores))
    assert "3.0 % of the validation clips" in text
    assert "20.0 % of keywords in natural voices" in text
    assert "(meetings 2.00 h)" in text
    assert "| anywhere | 0.500 | 7.0 % | 10.0 % | 9 |" in text
    assert "| alone | 0.400 | 6.0 % | 30.0 % | 3 |" in text
    assert text.endswith(": 1.50.")
