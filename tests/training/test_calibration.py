"""Calibration: what is known is found, it has the least cross-entropy, and it is built into the network as it is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch

from speechrnn.errors import DataError
from speechrnn.labels import Labels
from speechrnn.model.network import RecognizerNet
from speechrnn.spec import Classifier, LogMel, Spec
from speechrnn.training.calibration import (
    LogitCalibration,
    build_in,
    class_weights,
    fit_calibration,
    fit_class_bias,
    fit_temperature,
)

SMALL = Spec(
    labels=Labels(("yes", "no")),
    features=LogMel(n_mels=24, frame_ms=32.0, hop_ms=32.0),
    classifier=Classifier(hidden_size=8, n_layers=1),
)


def drawn(n_clips: int = 400, n_classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that lean towards the truth, and the truth."""
    random = np.random.default_rng(seed)
    truth = random.integers(n_classes, size=n_clips)
    return random.normal(size=(n_clips, n_classes)) + 1.5 * np.eye(n_classes)[truth], truth


def test_of_clips_drawn_from_the_posteriors_the_temperature_is_known() -> None:
    logits, _ = drawn(20000)
    posteriors = scipy.special.softmax(2 * logits, axis=1)
    truth = np.array([np.random.default_rng(i).choice(4, p=row) for i, row in enumerate(posteriors)])
    assert fit_temperature(2 * logits, truth) == pytest.approx(1, abs=0.03)
    assert fit_temperature(6 * logits, truth) == pytest.approx(3, abs=0.09)


@pytest.mark.parametrize("scale", [0.2, 1, 30])
@pytest.mark.parametrize("kind", ["logits", "log-posteriors"])
def test_the_temperature_has_the_least_cross_entropy(scale: float, kind: str) -> None:
    logits, truth = drawn()
    scores = scale * logits if kind == "logits" else scipy.special.log_softmax(scale * logits, axis=1)

    def loss(log_temperature: float) -> float:
        log_posteriors = scipy.special.log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(log_posteriors[np.arange(len(truth)), truth].mean())

    expected = np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-4, 4), options={"xatol": 1e-7}).x)
    assert fit_temperature(scores, truth) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("sign", "limit"), [(1, 0.01), (-1, 100)])
def test_a_temperature_without_an_optimum_stays_in_its_limits(sign: int, limit: float) -> None:
    truth = np.array([0, 1, 2, 0])
    assert fit_temperature(sign * 5 * np.eye(3)[truth], truth) == pytest.approx(limit)


@pytest.mark.parametrize("scores", [np.zeros((0, 3)), np.array([[0.0, -np.inf]]), np.array([[0.0, np.nan]])])
def test_a_temperature_needs_finite_clips(scores: np.ndarray) -> None:
    with pytest.raises(DataError, match="finite"):
        fit_temperature(scores, np.zeros(len(scores), dtype=np.int64))


@pytest.mark.parametrize("fractions", [(0.25, 0.25, 0.25, 0.25), (0.1, 0.1, 0.7, 0.1)])
def test_biases_undo_a_wrong_prior(fractions: tuple[float, ...]) -> None:
    """Posteriors for classes as they were drawn, moved by known biases: those are what is found, reversed."""
    random = np.random.default_rng(3)
    truth = random.choice(4, size=40000, p=fractions)
    scores = np.log(np.array(fractions)) + 2 * random.standard_normal((len(truth), 4))
    posteriors = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    drawn = np.array([random.choice(4, p=row) for row in posteriors[:8000]])
    wrong = np.array([0.8, -0.4, 0.1, -0.5])
    found = fit_class_bias(scores[:8000] + wrong, drawn, np.bincount(drawn) / len(drawn))
    np.testing.assert_allclose(found, -wrong, atol=0.15)


def test_biases_give_each_class_its_fraction() -> None:
    random = np.random.default_rng(4)
    truth = random.integers(3, size=3000)
    scores = random.standard_normal((3000, 3)) + 2 * np.eye(3)[truth] + np.array([1.0, 0, -2])
    fractions = np.array([0.5, 0.3, 0.2])
    shifted = scores + fit_class_bias(scores, truth, fractions)
    posteriors = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    weights = class_weights(truth, fractions)
    assert weights.sum() == pytest.approx(1)
    assert weights[truth == 1].sum() == pytest.approx(0.3)
    np.testing.assert_allclose(weights @ posteriors, fractions, atol=1e-6)


def test_biases_need_clips_of_every_class() -> None:
    with pytest.raises(DataError, match="clips of every class"):
        fit_class_bias(np.zeros((4, 3)), np.array([0, 0, 1, 1]), np.full(3, 1 / 3))


@pytest.mark.slow
def test_a_known_temperature_and_known_biases_are_found() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(4, size=20000)
    true = 2 * random.standard_normal((20000, 4))
    posteriors = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    labels = (posteriors.cumsum(axis=1) > random.random((20000, 1))).argmax(axis=1)
    bias = np.array([1.0, -2.0, 0.5, 0.5])
    found = fit_calibration((0.6 * true - bias).astype(np.float32), labels, np.bincount(labels) / len(labels))
    assert found.temperature == pytest.approx(0.6, rel=0.05)
    np.testing.assert_allclose(found.bias, bias, atol=0.1)


def test_a_calibration_is_built_into_the_last_layer() -> None:
    torch.manual_seed(0)
    net, samples = RecognizerNet(SMALL).eval(), 0.1 * torch.randn(3, 16000)
    before = net(samples).detach().numpy()
    found = LogitCalibration(0.7, np.array([0.5, -0.5, 1.0, -1.0]))
    build_in(net, found)
    np.testing.assert_allclose(net(samples).detach().numpy(), found.apply(before), rtol=1e-4, atol=1e-5)
