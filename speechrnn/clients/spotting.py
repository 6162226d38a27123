"""The keywords in what one client sends, decided together with those of all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Resampler, Samples
from speechrnn.clients.admission import Admission, Client, Metrics
from speechrnn.clients.batching import Batcher
from speechrnn.detector import Detection
from speechrnn.recognizer import Recognizer
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

_MAX_EARLY_S = 0.25
_MAX_RATE = 1.05
_MAX_PUSH_SAMPLES = 4096  # so that many clients with large messages need little memory


class Shared(NamedTuple):
    """What the clients of one model share."""

    recognizer: Recognizer
    """The model."""
    batcher: Batcher
    """Runs the contexts of all clients."""
    admission: Admission
    """Who is let in."""
    metrics: Metrics
    """Counters of the server."""


class Decision(NamedTuple):
    """What became of one step of audio."""

    decided_s: float
    """End of the step in s of the audio."""
    posteriors: NDArray[np.float32]
    """Class probabilities [C]."""
    detections: list[Detection]
    """What was detected at this step."""
    lag_s: float
    """The server's part of the delay in s."""


class ClientSpotter:
    """Finds keywords in samples at `rate_hz` that one client sends. Raises ConfigError as `KeywordSpotter` does."""

    def __init__(self, client: Client, shared: Shared, options: Options, rate_hz: int) -> None:
        self._client = client
        self._shared = shared
        self._spotter = KeywordSpotter(shared.recognizer, options)
        self._resampler = Resampler(rate_hz, self._spotter.sample_rate_hz)
        self._step_s = options.step_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._spoken_s = 0.0

    async def push(self, samples: Samples, arrived_s: float) -> AsyncIterator[Decision]:
        """Take samples [T] that came at `arrived_s` on the event loop's clock, and yield each step they complete."""
        for begin in range(0, len(samples), _MAX_PUSH_SAMPLES):
            part = self._resampler.push(samples[begin : begin + _MAX_PUSH_SAMPLES])
            async for decision in self._decide(part, arrived_s):
                yield decision

    async def rest(self, arrived_s: float) -> AsyncIterator[Decision]:
        """The steps that what is left in the resampler completes; no audio comes after it."""
        async for decision in self._decide(self._resampler.push(np.zeros(0, dtype=np.float32), last=True), arrived_s):
            yield decision

    async def finish(self) -> tuple[float, list[Detection]]:
        """The length of the audio in s, and the detections that only its end completes."""
        duration_s, found = self._spotter.position_s, []
        for context in self._spotter.last_contexts():
            found += self._spotter.decide(await self._shared.batcher.posteriors(context, is_early=True))
        self._count(found)
        return duration_s, found

    async def _decide(self, samples: Samples, arrived_s: float) -> AsyncIterator[Decision]:
        for context in self._spotter.contexts(samples):
            is_early = self._is_early(arrived_s)
            posteriors = await self._shared.batcher.posteriors(context, is_early=is_early)
            found = self._spotter.decide(posteriors)
            lag_s = self._loop.time() - arrived_s
            self._shared.admission.record(self._client, None if is_early else lag_s)
            self._shared.metrics.decisions.inc()
            self._shared.metrics.lag.observe(lag_s)
            self._count(found)
            yield Decision(self._spotter.decided_s, posteriors, found, lag_s)

    def _is_early(self, arrived_s: float) -> bool:
        """Whether another step of audio came sooner than it can be spoken, by some tolerance in time and in rate."""
        self._spoken_s = max(self._spoken_s, arrived_s - _MAX_EARLY_S) + self._step_s / _MAX_RATE
        return self._spoken_s > arrived_s

    def _count(self, found: Iterable[Detection]) -> None:
        for detection in found:
            self._shared.metrics.words.labels(detection.label).inc()
