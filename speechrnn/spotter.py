"""Audio in blocks of any size to posteriors and detections: the one path for files, pipes and microphones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, check_samples
from speechrnn.detector import Detection, Detector
from speechrnn.recognizer import Recognizer
from speechrnn.spec import Options, Spec

TAIL_S = 0.2
"""How long after the decision on a keyword the audio is silence in later contexts, in s."""


class Step(NamedTuple):
    """What became of one block of a stream."""

    block: Samples
    """The samples [T]."""
    posteriors: NDArray[np.float32] | None
    """Those [C] of the last step that the block completed; None if it completed none."""
    detections: list[Detection]
    """What was detected at the steps that the block completed."""
    position_s: float
    """Length of the stream in s up to the end of the block."""


class _ContextBuffer:
    """A stream in blocks [T], which starts in silence, to the context [context_samples] that ends with each step."""

    def __init__(self, spec: Spec, step_ms: int) -> None:
        self._step_samples = step_ms * spec.sample_rate_hz // 1000
        self._context = np.zeros(spec.context_samples, dtype=np.float32)
        self._pending = np.zeros(0, dtype=np.float32)
        self.n_pushed = 0
        """Samples that were pushed."""
        self.n_completed = 0
        """Samples in the steps whose context was taken."""

    @property
    def n_missing(self) -> int:
        """Samples that the last step, begun but not complete, still needs."""
        return -self.n_pushed % self._step_samples

    def push(self, samples: Samples) -> None:
        """Add samples [T], a copy of them. Raises AudioError for another type or shape, and if they are not finite."""
        self._pending = np.concatenate([self._pending, check_samples(samples, "audio block")])
        self.n_pushed += len(samples)

    @property
    def has_step(self) -> bool:
        """Whether the context of a further step can be taken."""
        return len(self._pending) >= self._step_samples

    def take(self) -> Samples:
        """A copy of the context [context_samples] that ends with the next step."""
        step, self._pending = np.split(self._pending, [self._step_samples])
        self._context = np.concatenate([self._context, step])[-len(self._context) :]
        self.n_completed += self._step_samples
        return self._context.copy()


class KeywordSpotter:
    """Finds keywords in a stream of samples at the model's rate.

    The stream starts in silence; every step of samples gives one decision over the context that ends with it. The
    same audio gives the same detections whatever the blocks that it arrives in. Spotters may share a recognizer.

    Raises ConfigError for options that name a word which is no keyword of the model.
    """

    def __init__(self, recognizer: Recognizer, options: Options | None = None) -> None:
        self.recognizer = recognizer
        self.options = options or recognizer.info.options
        self.sample_rate_hz = recognizer.info.spec.sample_rate_hz
        self._detector = Detector(recognizer.info.spec.labels, self.options)
        self._n_tail = round(TAIL_S * self.sample_rate_hz)
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self._buffer = _ContextBuffer(self.recognizer.info.spec, self.options.step_ms)
        self._silent_until = 0
        self._end_s = math.inf
        self._is_undecided = False
        self._detector.reset()

    @property
    def position_s(self) -> float:
        """Length of the audio that was pushed."""
        return self._buffer.n_pushed / self.sample_rate_hz

    @property
    def decided_s(self) -> float:
        """End of the last step whose context was taken, in the audio that was pushed."""
        return self._buffer.n_completed / self.sample_rate_hz

    def push(self, samples: Samples) -> list[Detection]:
        """Take the next samples [T], float32 in [-1, 1], and return the detections at the steps that they complete.

        After a detection, the audio up to 200 ms past the decision is silence in later contexts, so that one utterance
        fires once and a repetition fires again.

        Raises AudioError for another type or shape, and for values that are not finite.
        """
        return self.step(samples).detections

    def step(self, samples: Samples) -> Step:
        """As `push`, with the posteriors of the last step and the position in the stream."""
        self._add(samples)
        found: list[Detection] = []
        posteriors = None
        while self._buffer.has_step:
            posteriors = self.recognizer.posteriors(self._take()[None])[0]
            found += self._detect(posteriors)
        return Step(samples, posteriors, found, self.position_s)

    def contexts(self, samples: Samples) -> Iterator[Samples]:
        """Take the next samples [T] and yield the context [context_samples] of each step that they complete.

        With `decide`, `push` in two halves, for those who run the contexts of many spotters at once. Each context
        depends on the decision before it: RuntimeError is raised where one is asked for, or samples are pushed, before
        `decide` was given the posteriors of the last. Contexts that were not asked for come with the next samples.
        Raises AudioError as `push` does.
        """
        self._add(samples)
        return self._contexts()

    def decide(self, posteriors: NDArray[np.float32]) -> list[Detection]:
        """Take the posteriors [C] of the context that `contexts` has yielded, and return the detections at its step.

        Raises RuntimeError if there is no such context, or it was decided.
        """
        if not self._is_undecided:
            raise RuntimeError("decide: expected a context from `contexts` first, got none since the last decision")
        self._is_undecided = False
        return self._detect(posteriors)

    def finish(self) -> list[Detection]:
        """End the stream: one context of silence follows it, so its last word is found too. Times stay within it."""
        self._add_silence()
        found = self.push(np.zeros(0, dtype=np.float32))
        self.reset()
        return found

    def last_contexts(self) -> Iterator[Samples]:
        """Yield the contexts of the silence that ends the stream; with `decide`, `finish` in two halves.

        As with `contexts`, each is decided before the next one is asked for. After the last one a new stream starts.
        """
        self._add_silence()
        yield from self._contexts()
        self._check_decided()
        self.reset()

    def _add(self, samples: Samples) -> None:
        self._check_decided()
        self._buffer.push(samples)

    def _add_silence(self) -> None:
        """Once for a stream, also where its end was interrupted and is asked for again."""
        self._check_decided()
        if math.isinf(self._end_s):
            self._end_s = self.position_s
            n_silent = self.recognizer.info.spec.context_samples + self._buffer.n_missing
            self._buffer.push(np.zeros(n_silent, dtype=np.float32))

    def _take(self) -> Samples:
        context = self._buffer.take()
        n_audible = max(0, self._buffer.n_completed - self._silent_until)
        context[: max(0, len(context) - n_audible)] = 0
        return context

    def _detect(self, posteriors: NDArray[np.float32]) -> list[Detection]:
        found = self._detector.push(posteriors[None])
        if found:
            self._silent_until = self._buffer.n_completed + self._n_tail
        return [within(detection, self._end_s) for detection in found]

    def _contexts(self) -> Iterator[Samples]:
        while self._buffer.has_step:
            self._check_decided()
            self._is_undecided = True
            yield self._take()

    def _check_decided(self) -> None:
        if self._is_undecided:
            raise RuntimeError("contexts: expected a decision on the last context first; give its posteriors to decide")


def within(found: Detection, duration_s: float) -> Detection:
    """A detection with no time after the end of the audio."""
    return msgspec.structs.replace(
        found,
        start_s=min(found.start_s, duration_s),
        end_s=min(found.end_s, duration_s),
        decided_s=min(found.decided_s, duration_s),
    )


def posteriors(
    recognizer: Recognizer, blocks: Iterable[Samples], *, step_ms: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Yield the posteriors [C] of each step of a stream in blocks [T], float32 in [-1, 1] at the model's rate.

    For those who decide for themselves. The step is that of the model's options if not given. Every context holds the
    audio as it is; a `KeywordSpotter` replaces what a keyword was detected in by silence, so after a detection the two
    differ. Raises AudioError for blocks of another type or shape, and for values that are not finite.
    """
    buffer = _ContextBuffer(recognizer.info.spec, step_ms or recognizer.info.options.step_ms)
    for block in blocks:
        buffer.push(block)
        while buffer.has_step:
            yield recognizer.posteriors(buffer.take()[None])[0]
