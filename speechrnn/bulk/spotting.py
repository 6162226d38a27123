"""Recordings to detections, many at once: the decisions of `KeywordSpotter`, on frames that are computed once.

A detection silences what it was found in, and so changes the contexts after it. Contexts are taken ahead as if nothing
were found, and what was taken ahead of a detection is taken again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, check_samples
from speechrnn.bulk.network import Network
from speechrnn.detector import Detection, Detector
from speechrnn.recognizer import Recognizer
from speechrnn.spec import Options
from speechrnn.spotter import TAIL_S, within

Array = NDArray[np.float32]


class _Queue:
    """Rows [n, F] that are added at the end and dropped at the beginning, and seldom moved."""

    def __init__(self) -> None:
        self._room: Array = np.zeros((0, 0), dtype=np.float32)
        self._start = self._end = 0

    @property
    def rows(self) -> Array:
        """The rows that are there, where they lie until the next are added."""
        return self._room[self._start : self._end]

    def add(self, new: Array) -> None:
        """Add rows [m, F]."""
        kept, n = self.rows, self._end - self._start
        if self._end + len(new) > len(self._room):
            self._room = np.empty((2 * (n + len(new)), new.shape[1]), dtype=np.float32)
            if n:
                self._room[:n] = kept
            self._start, self._end = 0, n
        self._room[self._end :][: len(new)] = new
        self._end += len(new)

    def drop(self, n: int) -> None:
        """Drop the first rows, at most all."""
        self._start = min(self._start + n, self._end)


class FrameSpotter:
    """Finds keywords in one recording, as `KeywordSpotter` does; contexts may be taken several steps ahead.

    Push its samples and finish it; meanwhile take contexts, run them, and decide on their posteriors.
    """

    def __init__(
        self, recognizer: Recognizer, options: Options, network: Network, *, keeps_posteriors: bool = False
    ) -> None:
        self._network = network
        self._rate_hz = recognizer.info.spec.sample_rate_hz
        self._context_samples = recognizer.info.spec.context_samples
        self._step_samples = options.step_ms * self._rate_hz // 1000
        self._step_frames = self._step_samples // network.hop_samples
        self._n_tail = round(TAIL_S * self._rate_hz)
        self._detector = Detector(recognizer.info.spec.labels, options)
        # Samples are counted from the beginning of the silence before the stream, one context long. Those that are
        # kept, and the frames, begin where the context of the next step does.
        self._n_dropped = self._step_samples
        self._samples = np.zeros(self._context_samples - self._step_samples, dtype=np.float32)
        self._frames = _Queue()
        self._silent_until = 0
        self._n_pushed = self._n_decided = 0
        self.is_finished = False
        """Whether nothing more is pushed."""
        self.detections: list[Detection] = []
        """What was detected; whole when the recording is finished and decided."""
        self.posteriors: list[Array] = []
        """The posteriors [C] of each step that was decided, if they are kept."""
        self._keeps_posteriors = keeps_posteriors

    @property
    def duration_s(self) -> float:
        """Length of what was pushed."""
        return self._n_pushed / self._rate_hz

    @property
    def n_ready(self) -> int:
        """Steps whose contexts can be taken now."""
        n_samples = len(self._samples) - (self._context_samples - self._step_samples)
        return max(0, n_samples // self._step_samples)

    @property
    def is_done(self) -> bool:
        """Whether the recording is finished, and every step decided."""
        return self.is_finished and not self.n_ready

    def push(self, samples: Samples) -> None:
        """Add the next samples [T]. Raises AudioError for another type or shape, and if they are not finite."""
        self._add(check_samples(samples, "audio block"))
        self._n_pushed += len(samples)

    def finish(self) -> None:
        """End the recording: one context of silence follows it."""
        n_missing = -self._n_pushed % self._step_samples
        self._add(np.zeros(self._context_samples + n_missing, dtype=np.float32))
        self.is_finished = True

    def abandon(self) -> None:
        """End the recording with nothing detected, for it cannot be read."""
        self.is_finished = True
        self._samples = self._samples[:0]
        self.detections, self.posteriors = [], []

    def contexts(self, n: int) -> list[Array | None]:
        """The frames [N, F] of the contexts of the next steps, at most `n`, as they are if nothing is detected.

        None stands for a context that is digital silence.
        """
        numbers = range(min(n, self.n_ready))
        starts = [number * self._step_frames for number in numbers if self._is_audible(number)]
        frames = self._computed(starts[-1] + self._network.n_frames) if starts else self._frames.rows
        found = {start: frames[start : start + self._network.n_frames] for start in starts}
        return [found.get(number * self._step_frames) for number in numbers]

    def _is_audible(self, number: int) -> bool:
        """Whether the context of one of the next steps is more than digital silence."""
        context = self._samples[number * self._step_samples :][: self._context_samples]
        return bool(context[-1]) or bool(context.any())

    def decide(self, posteriors: Sequence[Array]) -> None:
        """Take the posteriors [C] of contexts that were taken; those behind a detection are left to the next time."""
        for row in posteriors:
            if self._keeps_posteriors:
                self.posteriors.append(row)
            self._n_decided += 1
            found = self._detector.push(row[None])
            if found:
                self.detections += found
                self._advance()
                self._silence()
                return
        self._advance()

    def result(self) -> list[Detection]:
        """The detections, no time of them after the end of the recording."""
        return [within(found, self.duration_s) for found in self.detections]

    def _add(self, samples: Samples) -> None:
        n_silent = self._silent_until - self._n_dropped - len(self._samples)
        if n_silent > 0:
            samples = samples.copy()
            samples[:n_silent] = 0
        self._samples = np.concatenate([self._samples, samples])

    def _computed(self, n_frames: int) -> Array:
        """The frames that are kept, at least so many; their samples are there."""
        n_known = len(self._frames.rows)
        if n_known < n_frames:
            n_whole = (len(self._samples) - self._network.frame_samples) // self._network.hop_samples + 1
            for new in self._run(n_known, n_frames - n_known):
                self._frames.add(new[: n_whole - len(self._frames.rows)])
        return self._frames.rows

    def _run(self, first: int, n: int) -> Array:
        """Frames [B, M, F] from the frame `first` of those kept on, at least `n`, the last perhaps past the end."""
        network, hop, length = self._network, self._network.hop_samples, self._context_samples
        n_new = network.n_frames - network.n_before
        n_stretches, start = -(-n // n_new), (first - network.n_before) * hop
        part = np.zeros((n_stretches - 1) * n_new * hop + length, dtype=np.float32)
        known = self._samples[max(0, start) : max(0, start + len(part))]
        part[max(0, -start) :][: len(known)] = known
        stretches = np.lib.stride_tricks.sliding_window_view(part, length)[:: n_new * hop]
        return network.frames(np.ascontiguousarray(stretches))[:, network.n_before :]

    def _advance(self) -> None:
        """Drop what no context needs after the steps that were decided."""
        n_steps, self._n_decided = self._n_decided, 0
        self._n_dropped += n_steps * self._step_samples
        self._samples = self._samples[n_steps * self._step_samples :]
        self._frames.drop(n_steps * self._step_frames)

    def _silence(self) -> None:
        """Silence what a keyword was found in and a little more, and compute anew what that changes."""
        completed = self._n_dropped - self._step_samples + self._context_samples
        self._silent_until = completed + self._n_tail
        self._samples = self._samples.copy()
        self._samples[: self._silent_until - self._n_dropped] = 0
        n_silent = -(-(self._silent_until - self._n_dropped) // self._network.hop_samples)
        n_changed = min(len(self._frames.rows), n_silent + self._network.n_before)
        if n_changed > 0:
            self._frames.rows[:n_changed] = np.concatenate(self._run(0, n_changed))[:n_changed]


def run_contexts(spotters: Sequence[FrameSpotter], network: Network, n_contexts: int) -> None:
    """Decide the next steps of several recordings in one batch of at most `n_contexts`, the same number of each."""
    taken = [spotter.contexts(max(1, n_contexts // len(spotters))) for spotter in spotters]
    batch = [context for contexts in taken for context in contexts if context is not None]
    posteriors = iter(network.posteriors(batch) if batch else ())
    for spotter, contexts in zip(spotters, taken, strict=True):
        spotter.decide([network.silence if context is None else next(posteriors) for context in contexts])
