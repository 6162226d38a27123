"""The score of an own word, the graph it is put into, and the choice of its threshold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from speechrnn.errors import ConfigError, ModelFileError
from speechrnn.labels import Labels
from speechrnn.recognizer import load, softmax
from speechrnn.spec import Options
from speechrnn.teaching.head import Examples, fit
from speechrnn.teaching.lesson import plan_labels
from speechrnn.teaching.measuring import LEVELS, Tally, choose_level, choose_levels, smoothed
from speechrnn.teaching.model_file import Columns, Layer, base_scores, extended
from speechrnn.teaching.negatives import Negatives, Space, Speech, Words, find_negatives, path_of
from tests.helpers import fake_recognizer, noise


def examples(rows: np.ndarray, offset: float = 0.0) -> Examples:
    return Examples(rows.astype(np.float32), np.full(len(rows), offset, dtype=np.float32))


def test_the_line_is_that_of_logistic_regression() -> None:
    random = np.random.default_rng(0)
    positive, negative = random.normal(1, 1, (30, 4)), random.normal(0, 1, (200, 4))
    line = fit([(examples(positive), 1.0)], [(examples(negative), 1.0)], np.eye(4, dtype=np.float32))
    weights = np.r_[np.full(30, 1 / 30), np.full(200, 1 / 200)]
    expected = LogisticRegression(C=1 / 0.03, tol=1e-8, max_iter=1000).fit(
        np.concatenate([positive, negative]), np.r_[np.ones(30), np.zeros(200)], sample_weight=weights
    )
    assert line.weights == pytest.approx(expected.coef_[0], abs=5e-3)
    assert line.bias == pytest.approx(expected.intercept_[0], abs=5e-3)


def test_an_offset_moves_the_bias_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    positive, negative = random.normal(1, 1, (30, 4)), random.normal(0, 1, (200, 4))
    lines = [
        fit([(examples(positive, offset), 1.0)], [(examples(negative, offset), 1.0)], np.eye(4, dtype=np.float32))
        for offset in (0.0, 5.0)
    ]
    assert lines[1].weights == pytest.approx(lines[0].weights, abs=1e-2)
    assert lines[1].bias - lines[0].bias == pytest.approx(5.0, abs=1e-2)


def test_own_words_are_added_and_what_is_dropped_becomes_unknown(tmp_path: Path) -> None:
    before = load("commands10")
    labels, columns = plan_labels(before.info.spec.labels, ["lights"], ["stop", "yes"])
    assert labels.names == ("stop", "yes", "lights", "unknown", "silence")
    random = np.random.default_rng(0)
    layer = Layer(random.normal(0, 0.1, (256, 1)).astype(np.float32), np.ones(1, np.float32))
    info = msgspec.structs.replace(
        before.info,
        spec=msgspec.structs.replace(before.info.spec, labels=labels),
        options=Options(),
        operating_points={},
    )
    path = tmp_path / "own.onnx"
    path.write_bytes(extended(before, layer, columns, info))
    contexts, after = noise(3, 16000), load(path)
    own = before.embed(contexts) @ layer.weights + layer.bias
    powers = np.exp(np.concatenate([before.logits(contexts), own], axis=1).astype(np.float64))
    of = dict(zip([*before.labels, "lights"], powers.T, strict=True))
    rest = sum(of[name] for name in ("unknown", "no", "up", "down", "left", "right", "on", "off", "go"))
    expected = (
        np.stack([of["stop"], of["yes"], of["lights"], rest, of["silence"]], axis=1) / powers.sum(axis=1)[:, None]
    )
    assert after.posteriors(contexts) == pytest.approx(expected, abs=1e-4)
    assert after.embed(contexts) == pytest.approx(before.embed(contexts), abs=1e-5)


def test_the_part_after_the_embedding_gives_the_scores_of_the_whole() -> None:
    recognizer, contexts = load("commands10"), noise(2, 16000)
    assert base_scores(recognizer)(recognizer.embed(contexts)) == pytest.approx(recognizer.logits(contexts), abs=1e-4)


@pytest.mark.parametrize(
    ("words", "keep", "part"),
    [(["yes"], None, "yes: is a keyword of the model already"), (["a"], ["nu"], "nu: cannot be kept")],
)
def test_words_that_collide_and_words_that_are_not_there_are_named(
    words: list[str], keep: list[str] | None, part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        plan_labels(Labels(("yes", "no")), words, keep)


def test_a_keyword_that_is_not_kept_may_be_an_own_word() -> None:
    labels, columns = plan_labels(Labels(("yes", "no")), ["yes"], [])
    assert labels.keywords == ("yes",)
    assert columns == Columns((), (1, 2), 3)


def test_a_model_without_stored_examples_is_refused() -> None:
    with pytest.raises(ModelFileError, match="export it again"):
        find_negatives(fake_recognizer())


def test_shipped_examples_belong_to_the_shipped_network() -> None:
    negatives = find_negatives(load("commands10"))
    assert path_of("commands10").stat().st_size < 5_000_000
    assert negatives.hours > 0.5
    assert {*negatives.speech.halves} == {*negatives.words.halves} == {0, 1}
    assert not {"back", "forward", "backward", "follow", "learn"} & {*negatives.words.names}


def test_what_is_stored_comes_back_to_an_eighth_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(0, 3, (20, 2)).astype(np.float32)
    space = Space(*(random.normal(size=shape).astype(np.float32) for shape in ((3,), (3, 2), (2, 2), (3,))))
    speech = Speech(rows, np.array([0, 12]), np.array([0, 1]), ("time", "Lights"), np.array([[2, 5], [9, 12]]))
    stored = Negatives(space, speech, Words(rows[:8].reshape(2, 4, 2), ("one", "two"), np.array([1, 0])), rows, 100)
    stored.save(tmp_path / "x.npz")
    again = Negatives.load(tmp_path / "x.npz")
    assert again.speech.rows == pytest.approx(rows, abs=0.05)
    assert again.words.rows == pytest.approx(stored.words.rows, abs=0.05)
    assert (again.words.names, again.speech.words, again.step_ms) == (("one", "two"), ("time", "Lights"), 100)
    assert np.flatnonzero(again.speech.says("lights")).tolist() == [9, 10, 11]
    assert again.speech.half_of_rows.tolist() == [0] * 12 + [1] * 8


def test_scores_that_are_smoothed_are_means_of_what_was() -> None:
    rows = np.array([[1.0], [0.0], [0.0], [0.0]], dtype=np.float32)
    assert smoothed(rows, Options(smoothing_ms=200))[:, 0].tolist() == [0.5, 0.5, 0.0, 0.0]
    assert softmax(np.zeros((1, 4), dtype=np.float32)).tolist() == [[0.25] * 4]


@pytest.mark.parametrize(
    ("missed", "false", "budget", "index"),
    [
        ([0, 0, 0, 0, 5], [9, 3, 1, 0, 0], 1.0, 2),  # as few missed at the third and the fourth
        ([0, 0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0], 1.0, 2),
        ([0, 1, 2, 3, 5], [9, 3, 1, 1, 0], 3.0, 1),
        ([0, 0, 0, 0, 0], [9, 9, 9, 9, 9], 1.0, 4),
    ],
)
def test_the_threshold_misses_fewest_within_the_budget(
    missed: list[int], false: list[int], budget: float, index: int
) -> None:
    assert choose_level([Tally(*pair) for pair in zip(missed, false, strict=True)], budget) == index


def test_thresholds_of_several_words_share_the_false_alarms_that_are_allowed() -> None:
    easy = [Tally(0, 0), Tally(0, 0), Tally(4, 0)]
    hard = [Tally(0, 5), Tally(1, 3), Tally(6, 0)]
    assert choose_levels({"a": easy, "b": hard}, 3.0) == {"a": 0, "b": 1}
    assert choose_levels({"a": hard, "b": hard}, 6.0) == {"a": 1, "b": 1}
    assert choose_levels({"a": hard, "b": hard}, 2.0) == {"a": 2, "b": 2}
    assert choose_levels({"a": [Tally(0, 9), Tally(2, 9)]}, 1.0) == {"a": 1}


def test_levels_rise() -> None:
    assert [*LEVELS] == sorted({*LEVELS})
