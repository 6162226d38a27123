"""Posteriors to detections: smoothing, thresholds, release, refractory. Knows numbers and names, no audio."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.labels import SILENCE, Labels
from speechrnn.spec import Options


class Detection(msgspec.Struct, frozen=True):
    """A detected keyword, with times on the sample clock of the stream."""

    label: str
    """The keyword."""
    start_s: float
    """Start in s from the start of the stream: the end less the typical length of a word."""
    end_s: float
    """End in s from the start of the stream."""
    score: float
    """Mean posterior in (0, 1] with which it fired."""
    decided_s: float
    """Time of the decision in s of the stream; NaN where it is not known, of detections that other programs wrote."""


class Detector:
    """Turns one row of posteriors per step into detections.

    A keyword fires when the mean of its last posteriors reaches its threshold and is the highest. It is then held
    until that mean falls below `release` times the threshold and `refractory_ms` have passed. Where the options want
    quiet before a keyword, one within speech is held as if it had fired, but does not; `n_in_speech` counts those.
    A keyword that is not among those chosen is treated like the others, and not returned.
    """

    def __init__(self, labels: Labels, options: Options) -> None:
        options.check_labels(labels)
        self._keywords = labels.keywords
        self._options = options
        self._wanted = {*(options.keywords or labels.keywords)}
        self._thresholds = np.array([options.threshold_of(word) for word in labels.keywords])
        # Crossing this level upwards marks the rise of a word, for the estimate of its end. It is never below the
        # release level, so every release is followed by a rise.
        self._rise_levels = self._thresholds * max(0.5, options.release)
        self._n_smoothed = max(1, round(options.smoothing_ms / options.step_ms))
        self._n_refractory = -(-options.refractory_ms // options.step_ms)
        self._silence = labels.names.index(SILENCE) if options.quiet_before else -1
        self._n_quiet_from = options.quiet_from_ms // options.step_ms
        self._n_quiet_to = options.quiet_to_ms // options.step_ms
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        n = len(self._keywords)
        self._step = 0
        self._last = np.zeros((self._n_smoothed, n))
        self._held = np.zeros(n, dtype=bool)
        self._fired = np.full(n, -self._n_refractory)
        self._rose = np.zeros(n, dtype=np.int64)
        self._quiet: deque[bool] = deque([True] * self._n_quiet_from, maxlen=self._n_quiet_from)
        self._last_fired = -self._n_quiet_from
        self.n_in_speech = 0

    def push(self, posteriors: NDArray[np.floating]) -> list[Detection]:
        """Take the posteriors of further steps [n, C], keywords first, and return what fires at them."""
        found: list[Detection] = []
        for row in posteriors:
            found += self._decide(row[: len(self._keywords)])
            self._quiet.append(bool(row[self._silence] >= self._options.quiet_before))
        return found

    def _is_alone(self) -> bool:
        """Whether it was quiet some time before the step that is decided, or a keyword has fired since then."""
        n_quiet = self._n_quiet_from - self._n_quiet_to + 1
        return self._step - self._last_fired <= self._n_quiet_from or any(islice(self._quiet, n_quiet))

    def _decide(self, row: NDArray[np.floating]) -> Iterable[Detection]:
        self._step += 1
        self._rose[(self._last[-1] < self._rise_levels) & (row >= self._rise_levels)] = self._step
        self._last[:-1] = self._last[1:]
        self._last[-1] = row
        mean = np.add.reduce(self._last) / self._n_smoothed  # as `mean`, to the same bits, in half its time
        rested = self._step - self._fired >= self._n_refractory
        self._held &= ~((mean < self._options.release * self._thresholds) & rested)
        best = int(mean.argmax())
        if self._held[best] or not mean[best] >= self._thresholds[best]:  # so that NaN never fires
            return []
        self._held[best] = True
        self._fired[best] = self._step
        is_wanted = self._keywords[best] in self._wanted
        if self._options.quiet_before and not self._is_alone():
            self.n_in_speech += is_wanted
            return []
        self._last_fired = self._step
        return [self._detection(best, float(mean[best]))] if is_wanted else []

    def _detection(self, keyword: int, score: float) -> Detection:
        """The word ended about when its posterior rose, less the model's typical lag; its length is the typical one."""
        options = self._options
        end_ms = min(max(0, int(self._rose[keyword]) * options.step_ms - options.lag_ms), self._step * options.step_ms)
        start_ms = max(0, end_ms - options.word_ms)
        decided_s = self._step * options.step_ms / 1000
        return Detection(self._keywords[keyword], start_ms / 1000, end_ms / 1000, round(score, 4), decided_s)
