"""One WebSocket: audio in, decisions out, until either side ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from speechrnn.audio import Resampler, Samples
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError
from speechrnn.recognizer import Recognizer
from speechrnn.serving import protocol
from speechrnn.serving.admission import Admission, Metrics
from speechrnn.serving.batching import Batcher
from speechrnn.serving.connections import GoneError
from speechrnn.serving.protocol import End, ProtocolError
from speechrnn.serving.websocket import WebSocket
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

_CLOSING_S = 2.0
_MAX_EARLY_S = 0.25
_MAX_RATE = 1.05
_MAX_PUSH_SAMPLES = 4096  # so that many clients with large messages need little memory
_log = logging.getLogger(__name__)


class Service(NamedTuple):
    """What all conversations of a server share."""

    recognizer: Recognizer
    """The model."""
    options: Options
    """How it decides unless a client chooses."""
    ready: protocol.Ready
    """The answer to the start of a conversation."""
    batcher: Batcher
    """Runs the contexts of all clients."""
    admission: Admission
    """Who is let in."""
    metrics: Metrics
    """Counters of the server."""
    idle_s: float
    """Time in s after which a client that sends nothing is sent away."""


class Conversation:
    """One client. It is closed if it sends no step of audio, or reads no answer, for `service.idle_s`."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket = websocket
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._deadline = asyncio.timeout(service.idle_s)
        self._interruption: ProtocolError | None = None

    def interrupt(self, error: ProtocolError) -> None:
        """End the conversation with this error, unless it is ending already."""
        if self._interruption is None and not self._deadline.expired():
            self._interruption = error
            self._deadline.reschedule(self._loop.time())

    async def run(self) -> None:
        """Hold the conversation, tell the client why it ended, and count how."""
        try:
            await self._converse()
            self._service.metrics.ends.labels("finished").inc()
        except GoneError:
            self._service.metrics.ends.labels("left").inc()
        except ProtocolError as error:
            await self._end(error)
        except Exception:
            _log.exception("a conversation failed")
            await self._end(ProtocolError(End.BROKEN, "something failed in the server; see its log"))

    async def _end(self, error: ProtocolError) -> None:
        self._interruption = error  # from here on nothing else can end it
        self._service.metrics.ends.labels(error.end.counted_as).inc()
        with suppress(TimeoutError, GoneError):
            async with asyncio.timeout(_CLOSING_S):
                await self._websocket.send(protocol.encode(protocol.Error(str(error))))
        await self._websocket.close(error.end.code)

    async def _converse(self) -> None:
        try:
            async with self._deadline:
                start = protocol.decode_start(await self._websocket.receive())
                with self._service.admission.place(self):
                    self._websocket.connection.is_kept = True
                    await self._spot(start)
                await self._websocket.close()
        except TimeoutError:
            raise self._interruption or ProtocolError(
                End.IDLE, f"expected audio, and answers to be read, but nothing moved for {self._service.idle_s:g} s"
            ) from None

    async def _spot(self, start: protocol.Start) -> None:
        try:
            self._spotter = KeywordSpotter(self._service.recognizer, start.options(self._service.options))
        except ConfigError as error:
            raise ProtocolError(End.MALFORMED, str(error)) from None
        resampler = Resampler(start.rate_hz, self._spotter.sample_rate_hz)
        self._spoken_s = 0.0
        await self._websocket.send(protocol.encode(self._service.ready))
        while isinstance(message := await self._websocket.receive(), bytes):
            samples = protocol.decode_audio(message)
            for begin in range(0, len(samples), _MAX_PUSH_SAMPLES):
                await self._push(resampler.push(samples[begin : begin + _MAX_PUSH_SAMPLES]))
        protocol.decode_finish(message)
        await self._push(resampler.push(np.zeros(0, dtype=np.float32), last=True))
        await self._finish()

    async def _push(self, samples: Samples) -> None:
        """Answer each step that these samples [T] complete; each lets the conversation live on."""
        arrived_s = self._websocket.arrived_s
        for context in self._spotter.contexts(samples):
            is_early = self._is_early(arrived_s)
            posteriors = await self._service.batcher.posteriors(context, is_early=is_early)
            found = self._spotter.decide(posteriors)
            lag_s = self._loop.time() - arrived_s
            self._service.admission.record(self, None if is_early else lag_s)
            self._service.metrics.decisions.inc()
            self._service.metrics.lag.observe(lag_s)
            self._count(found)
            shown = [round(value, 4) for value in posteriors.tolist()]
            decision = protocol.Decision(round(self._spotter.decided_s, 4), shown, found, round(1000 * lag_s, 1))
            await self._websocket.send(protocol.encode(decision))
            self._live_on()

    def _is_early(self, arrived_s: float) -> bool:
        """Whether another step of audio came sooner than it can be spoken, by some tolerance in time and in rate."""
        step_s = self._service.options.step_ms / 1000
        self._spoken_s = max(self._spoken_s, arrived_s - _MAX_EARLY_S) + step_s / _MAX_RATE
        return self._spoken_s > arrived_s

    async def _finish(self) -> None:
        duration_s, found = self._spotter.position_s, []
        for context in self._spotter.last_contexts():
            found += self._spotter.decide(await self._service.batcher.posteriors(context, is_early=True))
        self._count(found)
        await self._websocket.send(protocol.encode(protocol.Finished(duration_s, found)))

    def _live_on(self) -> None:
        if self._interruption is None:
            self._deadline.reschedule(self._loop.time() + self._service.idle_s)

    def _count(self, found: Iterable[Detection]) -> None:
        for detection in found:
            self._service.metrics.words.labels(detection.label).inc()
