"""Scores of own words, learned from few examples: logistic regression on the embedding, against what the model knows.

The score of a word competes with the scores that the model gives already: the regression has the logarithm of their
sum as its offset, so its weights say what is to be added to tell the word from all of them. Weights are penalised by
how much a score would change between contexts of one and the same word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

_PENALTY = 0.03
_N_STEPS, _N_HALVINGS, _TOLERANCE = 25, 6, 1e-6
_RIDGE = 1e-9
_LIMIT = 40.0
_NEGLIGIBLE = 1e-12


class Examples(NamedTuple):
    """Examples of one kind."""

    rows: Array
    """Coordinates of their embeddings [n, d]."""
    offsets: Array
    """Logarithm of the sum of the exponentials of what else competes [n]."""


class Line(NamedTuple):
    """A score that is a linear function of coordinates."""

    weights: Floats
    """[d]."""
    bias: float
    """What is added."""

    def apply(self, rows: Array) -> Array:
        """Scores [n] of coordinates [n, d]."""
        return np.asarray(rows @ self.weights.astype(np.float32) + np.float32(self.bias), dtype=np.float32)


class _Regression(NamedTuple):
    """Weighted logistic regression with offsets and a quadratic penalty; the last column of the rows is 1."""

    rows: Array
    offsets: Array
    weights: Floats
    truth: NDArray[np.bool_]
    penalty: Floats

    def margins(self, line: Floats) -> Floats:
        return np.asarray(self.rows @ line.astype(np.float32) - self.offsets, dtype=np.float64)

    def loss(self, line: Floats) -> float:
        margins = self.margins(line)
        losses = np.logaddexp(0, margins) - self.truth * margins
        return float(self.weights @ losses + line @ self.penalty @ line / 2)

    def step(self, line: Floats) -> Floats:
        """The step of Newton's method; rows that are decided hardly bend the loss and are left out of its curvature."""
        posteriors = 1 / (1 + np.exp(-np.clip(self.margins(line), -_LIMIT, _LIMIT)))
        slopes = self.rows.T @ (self.weights * (posteriors - self.truth)) + self.penalty @ line
        curvatures = self.weights * posteriors * (1 - posteriors)
        matter = curvatures > _NEGLIGIBLE
        some = self.rows[matter]
        hessian = (some * curvatures[matter, None].astype(np.float32)).T @ some + self.penalty
        return np.asarray(np.linalg.solve(hessian + _RIDGE * np.eye(len(line)), slopes))

    def solve(self, line: Floats) -> Floats:
        """The line with the least loss, from this one on: each step is halved until it helps."""
        loss = self.loss(line)
        for _ in range(_N_STEPS):
            step = self.step(line)
            tried = [(self.loss(line - step / 2**n), n) for n in range(_N_HALVINGS)]
            best, n = min(tried)
            if loss - best < _TOLERANCE:
                break
            line, loss = line - step / 2**n, best
        return line


def fit(
    positives: Sequence[tuple[Examples, float]], negatives: Sequence[tuple[Examples, float]], within: Array
) -> Line:
    """The line that tells positives from negatives; each group of both has a total weight. Deterministic."""
    groups = [(one, weight) for one, weight in (*positives, *negatives) if len(one.rows)]
    n_positive = sum(len(one.rows) for one, _ in positives)
    rows = np.concatenate([one.rows for one, _ in groups])
    start = np.zeros(rows.shape[1] + 1)
    start[-1] = float(np.median(np.concatenate([one.offsets for one, _ in positives]))) - 1
    penalty = np.zeros((len(start), len(start)))
    penalty[:-1, :-1] = _PENALTY * within
    found = _Regression(
        np.concatenate([rows, np.ones((len(rows), 1), dtype=np.float32)], axis=1),
        np.concatenate([one.offsets for one, _ in groups]),
        np.concatenate([np.full(len(one.rows), weight / len(one.rows)) for one, weight in groups]),
        np.arange(len(rows)) < n_positive,
        penalty,
    ).solve(start)
    return Line(found[:-1], float(found[-1]))
