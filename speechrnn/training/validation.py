"""The scores of a network on the validation set, and the calibration that they are of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from speechrnn.data.cutting import Batch
from speechrnn.data.examples import Validation
from speechrnn.evaluation import metrics
from speechrnn.evaluation.metrics import Floats
from speechrnn.model.network import RecognizerNet
from speechrnn.training.batches import to_float
from speechrnn.training.calibration import LogitCalibration, fit_calibration

NEW_WORDS = "new words"


class ValidationScores(NamedTuple):
    """Scores of calibrated posteriors, rates in [0, 1]."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Fraction of the contexts that got their class."""
    balanced_accuracy: float
    """Mean recall of the classes, which does not depend on how many clips each has."""
    calibration_error: float
    """Expected calibration error (Guo et al., 2017, arXiv 1706.04599)."""
    recalls: dict[str, float]
    """Recall of each class and, where there are any, of the words held out."""
    calibration: LogitCalibration
    """Temperature and biases with which these were measured."""

    def summary(self) -> dict[str, float]:
        """Loss and accuracies by name."""
        return {
            "validation_loss": self.loss,
            "validation_accuracy": self.accuracy,
            "validation_balanced_accuracy": self.balanced_accuracy,
        }


@torch.no_grad()
def predict(net: RecognizerNet, batch: Batch, device: torch.device, rows_at_once: int = 256) -> Tensor:
    """Logits [B, C] of raw contexts, on the CPU."""
    was_training = net.training
    net.eval()
    parts = [
        net(to_float(rows, device)).cpu()
        for rows in np.array_split(batch.samples, -(-len(batch.samples) // rows_at_once))
    ]
    net.train(was_training)
    return torch.cat(parts)


def validate(net: RecognizerNet, validation: Validation, fractions: Floats, device: torch.device) -> ValidationScores:
    """Score a network, calibrated for classes with these fractions of all contexts [C], and leave it as it is.

    Raises FloatingPointError if its scores are not finite.
    """
    batch = validation.batch
    labels = torch.from_numpy(batch.labels)
    logits = predict(net, batch, device).numpy()
    if not np.isfinite(logits).all():
        raise FloatingPointError("the scores of validation contexts are not finite")
    calibration = fit_calibration(logits, batch.labels, fractions)
    calibrated = torch.from_numpy(calibration.apply(logits))
    correct, names = calibrated.argmax(1) == labels, net.spec.labels.names
    recalls = {name: float(correct[labels == i].float().mean()) for i, name in enumerate(names)}
    balanced = sum(recalls.values()) / len(names)
    if validation.is_held_out.any():
        recalls[NEW_WORDS] = float(correct[torch.from_numpy(validation.is_held_out)].float().mean())
    reliability = metrics.reliability(calibrated.softmax(1).numpy(), batch.labels)
    return ValidationScores(
        loss=float(nn.functional.cross_entropy(calibrated, labels)),
        accuracy=float(correct.float().mean()),
        balanced_accuracy=balanced,
        calibration_error=metrics.expected_calibration_error(reliability),
        recalls=recalls,
        calibration=calibration,
    )
