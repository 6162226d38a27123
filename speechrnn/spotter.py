"""Audio in blocks of any size to detections: the one path for files, pipes and microphones."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, check_samples
from speechrnn.detector import Detection, Detector
from speechrnn.recognizer import Recognizer
from speechrnn.spec import Options

_TAIL_S = 0.2


class KeywordSpotter:
    """Finds keywords in a stream of samples at the model's rate.

    The stream starts in silence; every step of samples gives one decision over the context that ends with it. The
    same audio gives the same posteriors and detections however it is cut into blocks. Spotters may share a recognizer.
    `latest` holds the posteriors [C] of the last step that `push` decided.
    """

    def __init__(self, recognizer: Recognizer, options: Options | None = None) -> None:
        spec = recognizer.info.spec
        self.recognizer = recognizer
        self.options = options or recognizer.info.options
        self.sample_rate_hz = spec.sample_rate_hz
        self._detector = Detector(spec.labels, self.options)
        self._step_samples = self.options.step_ms * spec.sample_rate_hz // 1000
        self._n_tail = round(_TAIL_S * spec.sample_rate_hz)
        self._context = np.zeros(spec.context_samples, dtype=np.float32)
        self._next = np.zeros(self._step_samples, dtype=np.float32)
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self._context[:] = 0
        self._n_next = 0
        self._n_samples = 0
        self._n_decided = 0
        self._n_heard = 0
        self._end_s = math.inf
        self.latest = np.zeros(len(self.recognizer.labels), dtype=np.float32)
        self._detector.reset()

    @property
    def position_s(self) -> float:
        """Length of the audio that was pushed."""
        return self._n_samples / self.sample_rate_hz

    @property
    def decided_s(self) -> float:
        """End of the last step that was completed, in the audio that was pushed."""
        return self._n_decided / self.sample_rate_hz

    def push(self, samples: Samples) -> list[Detection]:
        """Take the next samples [T], float32 in [-1, 1], and return the keywords that they complete.

        What a keyword was heard in, and the 200 ms that may hold its end, count as silence from then on: so one word
        does not fire twice, and the same word said again does.

        Raises AudioError for another type or shape, and for values that are not finite.
        """
        found = []
        for context in self.contexts(samples):
            found += self.decide(self.recognizer.posteriors(context[None])[0])
        return found

    def contexts(self, samples: Samples) -> Iterator[Samples]:
        """Take the next samples [T] and yield the context [context_samples] of each step that they complete.

        With `decide`, `push` in two halves, for those who run the contexts of many spotters at once: each context is
        decided before the next one is asked for, which depends on it. Raises AudioError as `push` does.
        """
        for context in self._contexts(samples):
            n_new = max(0, self._n_decided - self._n_heard)
            context[: max(0, len(context) - n_new)] = 0
            yield context

    def decide(self, posteriors: NDArray[np.float32]) -> list[Detection]:
        """Take the posteriors [C] of the context that `contexts` has just yielded; return what they complete."""
        self.latest = posteriors
        found = self._detector.push(posteriors[None])
        if found:
            self._n_heard = self._n_decided + self._n_tail
        return [_within(detection, self._end_s) for detection in found]

    def finish(self) -> list[Detection]:
        """End the stream: one context of silence follows it, so its last word is found too. Times stay within it."""
        found = []
        for context in self.last_contexts():
            found += self.decide(self.recognizer.posteriors(context[None])[0])
        return found

    def last_contexts(self) -> Iterator[Samples]:
        """Yield the contexts of the silence that ends the stream; with `decide`, `finish` in two halves.

        Each is decided before the next one is asked for. After the last one a new stream starts.
        """
        self._end_s = self.position_s
        n_silent = len(self._context) + -self._n_samples % self._step_samples
        yield from self.contexts(np.zeros(n_silent, dtype=np.float32))
        self.reset()

    def posteriors(self, samples: Samples) -> NDArray[np.float32]:
        """Take the next samples [T] and return the posteriors [n, C] of the steps that they complete, undetected.

        For those who decide for themselves. Here every context is as it was heard: unlike `push`, this makes nothing
        silent that a keyword was heard in. After a detection the two therefore differ, and a `Detector` over these rows
        takes the same word said twice in a row for one more often than `push` does. Use one of both on a stream.
        """
        rows = [self.recognizer.posteriors(context[None]) for context in self._contexts(samples)]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.recognizer.labels)), dtype=np.float32)

    def _contexts(self, samples: Samples) -> Iterator[Samples]:
        """A copy of the context [context_samples] of each step that the next samples [T] complete."""
        samples = check_samples(samples, "audio block")
        self._n_samples += len(samples)
        while len(samples):
            taken = samples[: self._step_samples - self._n_next]
            self._next[self._n_next : self._n_next + len(taken)] = taken
            self._n_next += len(taken)
            samples = samples[len(taken) :]
            if self._n_next == self._step_samples:
                self._n_next = 0
                self._n_decided += self._step_samples
                self._context = np.concatenate([self._context, self._next])[-len(self._context) :]
                yield self._context.copy()


def _within(found: Detection, duration_s: float) -> Detection:
    """A detection with no time after the end of the audio."""
    return msgspec.structs.replace(
        found,
        start_s=min(found.start_s, duration_s),
        end_s=min(found.end_s, duration_s),
        decided_s=min(found.decided_s, duration_s),
    )
