"""Calibration of posteriors: one temperature, and one bias for each class, fitted to validation logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from speechrnn.errors import DataError
from speechrnn.evaluation.metrics import Counts, Floats
from speechrnn.model.network import RecognizerNet

_COLDEST, _HOTTEST = 0.01, 100.0
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.25, 4.0
_N_ROUNDS, _N_HALVINGS, _N_BIAS_STEPS = 20, 50, 200


class LogitCalibration(NamedTuple):
    """Temperature and prior correction of logits."""

    temperature: float
    """What logits are divided by, after the bias."""
    bias: Floats
    """What is added to them [C]."""

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated logits [B, C]."""
        return ((logits + self.bias) / self.temperature).astype(np.float32)


def fit_calibration(logits: NDArray[np.float32], labels: Counts, fractions: Floats) -> LogitCalibration:
    """Temperature and biases that suit validation logits [B, C], for classes with these fractions of all contexts [C].

    Scaling as in Guo et al. (2017, arXiv 1706.04599). The temperature lies between 1/4 and 4, for contexts that are all
    right say little. Raises DataError for a class without clips or logits that are not finite.
    """
    found, weights = LogitCalibration(1.0, np.zeros(logits.shape[1])), class_weights(labels, fractions)
    for _ in range(_N_ROUNDS):
        temperature = fit_temperature(logits + found.bias, labels, weights)
        temperature = float(np.clip(temperature, _MIN_TEMPERATURE, _MAX_TEMPERATURE))
        found = LogitCalibration(temperature, temperature * fit_class_bias(logits / temperature, labels, fractions))
    return found


@torch.no_grad()
def build_in(net: RecognizerNet, calibration: LogitCalibration) -> None:
    """Build a calibration into the last layer of a network."""
    output = net.classifier.output
    output.bias.add_(torch.from_numpy(calibration.bias))
    for parameter in output.parameters():
        parameter.div_(calibration.temperature)


def fit_temperature(log_posteriors: NDArray[Any], truth: Counts, weights: NDArray[Any] | None = None) -> float:
    """The temperature T at which softmax(log_posteriors / T) has the least mean cross-entropy with `truth` [N].

    Takes logits or log-posteriors [N, C], classes, and the weight of each clip [N] (None: the same). Above 1 the model
    was overconfident, below 1 underconfident. The loss is convex in 1 / T, so halving finds where its slope is 0; the
    result lies in [0.01, 100], at an end where the clips are all right, or no better than chance. Raises DataError for
    no clips or values that are not finite.
    """
    scores = np.asarray(log_posteriors, dtype=np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        raise DataError("temperature: expected finite log-posteriors of at least one clip; clip zeros before the log")
    scores = scores - scores.max(axis=1, keepdims=True)
    of_truth = scores[np.arange(len(truth)), truth]
    coldest, hottest = np.log(_COLDEST), np.log(_HOTTEST)
    for _ in range(_N_HALVINGS):
        middle = (coldest + hottest) / 2
        powers = np.exp(scores / np.exp(middle))
        expected = (powers * scores).sum(axis=1) / powers.sum(axis=1)
        if np.average(expected - of_truth, weights=weights) > 0:  # the truth would gain from more heat
            coldest = middle
        else:
            hottest = middle
    return float(np.exp((coldest + hottest) / 2))


def fit_class_bias(log_posteriors: NDArray[Any], truth: Counts, fractions: NDArray[Any]) -> Floats:
    """Prior correction (logit adjustment): biases [C] for log-posteriors [N, C], of mean 0.

    With clips weighted as in `class_weights`, the cross-entropy is least where the mean posterior of each class is its
    fraction of all contexts [C]; every step moves the biases towards that. Raises DataError for a class without clips.
    """
    scores = np.asarray(log_posteriors, dtype=np.float64)
    weights, fractions = class_weights(truth, fractions), np.asarray(fractions) / np.sum(fractions)
    bias = np.zeros(scores.shape[1])
    for _ in range(_N_BIAS_STEPS):
        shifted = scores + bias
        powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
        bias -= np.log(weights @ (powers / powers.sum(axis=1, keepdims=True)) / fractions)
    centred: Floats = bias - bias.mean()
    return centred


def class_weights(truth: Counts, fractions: NDArray[Any]) -> Floats:
    """Weights of clips [N], of sum 1, that give each class its fraction [C]. Raises DataError if one has no clips."""
    n_of = np.bincount(truth, minlength=len(fractions))
    if not n_of.all():
        raise DataError("fractions of classes: expected clips of every class")
    weights: Floats = (np.asarray(fractions, dtype=np.float64) / np.sum(fractions) / n_of)[truth]
    return weights
