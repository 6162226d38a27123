"""Audio in blocks of any size to detections: the one path for files, pipes and microphones."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, check_samples
from speechrnn.detector import Detection, Detector
from speechrnn.runtime import Recognizer
from speechrnn.spec import Options


class KeywordSpotter:
    """Finds keywords in a stream of samples at the model's rate.

    The stream starts in silence; every step of samples gives one decision over the context that ends with it. The
    same audio gives the same posteriors and detections however it is cut into blocks. Spotters may share a recognizer.
    `latest` holds the posteriors [C] of the last step.
    """

    def __init__(self, recognizer: Recognizer, options: Options | None = None) -> None:
        spec = recognizer.info.spec
        self.recognizer = recognizer
        self.options = options or recognizer.info.options
        self.sample_rate_hz = spec.sample_rate_hz
        self._detector = Detector(spec.labels, self.options)
        self._step_samples = self.options.step_ms * spec.sample_rate_hz // 1000
        self._context = np.zeros(spec.context_samples, dtype=np.float32)
        self._next = np.zeros(self._step_samples, dtype=np.float32)
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self._context[:] = 0
        self._n_next = 0
        self._n_samples = 0
        self.latest = np.zeros(len(self.recognizer.labels), dtype=np.float32)
        self._detector.reset()

    @property
    def position_s(self) -> float:
        """Length of the audio that was pushed."""
        return self._n_samples / self.sample_rate_hz

    def push(self, samples: Samples) -> list[Detection]:
        """Take the next samples [T], float32 in [-1, 1], and return the keywords that they complete.

        Raises AudioError for another type or shape, and for values that are not finite.
        """
        return self._detector.push(self.posteriors(samples))

    def finish(self) -> list[Detection]:
        """End the stream: one context of silence follows it, so its last word is found too. Times stay within it."""
        duration_s = self.position_s
        n_silent = len(self._context) + -self._n_samples % self._step_samples
        detections = self.push(np.zeros(n_silent, dtype=np.float32))
        self.reset()
        return [
            msgspec.structs.replace(
                found,
                start_s=min(found.start_s, duration_s),
                end_s=min(found.end_s, duration_s),
                decided_s=min(found.decided_s, duration_s),
            )
            for found in detections
        ]

    def posteriors(self, samples: Samples) -> NDArray[np.float32]:
        """Take the next samples [T] and return the posteriors [n, C] of the steps that they complete, undetected.

        For those who decide for themselves; `push` calls this and then the detector.
        """
        samples = check_samples(samples, "audio block")
        rows = []
        self._n_samples += len(samples)
        while len(samples):
            taken = samples[: self._step_samples - self._n_next]
            self._next[self._n_next : self._n_next + len(taken)] = taken
            self._n_next += len(taken)
            samples = samples[len(taken) :]
            if self._n_next == self._step_samples:
                self._n_next = 0
                self._context = np.concatenate([self._context, self._next])[-len(self._context) :]
                rows.append(self.recognizer.posteriors(self._context[None]))
        if rows:
            self.latest = rows[-1][0]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.recognizer.labels)), dtype=np.float32)
