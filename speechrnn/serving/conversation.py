"""One WebSocket: audio in, decisions out, until either side ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from speechrnn.audio import Resampler, Samples
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError
from speechrnn.recognizer import Recognizer
from speechrnn.serving import protocol
from speechrnn.serving.admission import Admission
from speechrnn.serving.batching import Batcher
from speechrnn.serving.metrics import Metrics
from speechrnn.serving.protocol import ProtocolError
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

_CLOSING_S = 2.0
_ENDS = {protocol.MALFORMED: "malformed", protocol.IDLE: "idle", protocol.BROKEN: "broken", protocol.FULL: "full"}
_log = logging.getLogger(__name__)


class Service(NamedTuple):
    """What all conversations of a server share."""

    recognizer: Recognizer
    options: Options
    ready: protocol.Ready
    batcher: Batcher
    admission: Admission
    metrics: Metrics
    idle_s: float


class Conversation:
    """One client. It is closed if it sends no step of audio, or reads no answer, for `service.idle_s`."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket = websocket
        self._service = service
        self._deadline = asyncio.timeout(service.idle_s)

    async def run(self) -> None:
        """Hold the conversation, tell the client why it ended, and count how."""
        try:
            await self._converse()
            self._service.metrics.ends.labels("finished").inc()
        except WebSocketDisconnect:
            self._service.metrics.ends.labels("left").inc()
        except ProtocolError as error:
            await self._end(error)
        except Exception:
            _log.exception("a conversation failed")
            await self._end(ProtocolError(protocol.BROKEN, "something failed in the server; see its log"))

    async def _end(self, error: ProtocolError) -> None:
        self._service.metrics.ends.labels(_ENDS[error.code]).inc()
        with suppress(TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(_CLOSING_S):
                await self._websocket.send_text(protocol.encode(protocol.Error(str(error))))
                await self._websocket.close(error.code)

    async def _converse(self) -> None:
        try:
            async with self._deadline:
                start = protocol.decode_start(await self._receive())
                with self._service.admission.place():
                    await self._spot(start)
                await self._websocket.close()
        except TimeoutError:
            raise ProtocolError(
                protocol.IDLE,
                f"expected audio, and answers to be read, but nothing moved for {self._service.idle_s:g} s",
            ) from None

    async def _spot(self, start: protocol.Start) -> None:
        try:
            self._spotter = KeywordSpotter(self._service.recognizer, start.options(self._service.options))
        except ConfigError as error:
            raise ProtocolError(protocol.MALFORMED, str(error)) from None
        resampler = Resampler(start.rate_hz, self._spotter.sample_rate_hz)
        await self._websocket.send_text(protocol.encode(self._service.ready))
        while isinstance(message := await self._receive(), bytes):
            await self._push(resampler.push(protocol.decode_audio(message)))
        protocol.decode_finish(message)
        await self._push(resampler.push(np.zeros(0, dtype=np.float32), last=True))
        await self._finish()

    async def _push(self, samples: Samples) -> None:
        """Answer each step that these samples [T] complete; each lets the conversation live on."""
        loop = asyncio.get_running_loop()
        arrived_s = loop.time()
        for context in self._spotter.contexts(samples):
            posteriors = await self._service.batcher.posteriors(context)
            found = self._spotter.decide(posteriors)
            lag_s = loop.time() - arrived_s
            self._count(found, lag_s)
            shown = [round(value, 4) for value in posteriors.tolist()]
            decision = protocol.Decision(round(self._spotter.decided_s, 4), shown, found, round(1000 * lag_s, 1))
            await self._websocket.send_text(protocol.encode(decision))
            self._deadline.reschedule(loop.time() + self._service.idle_s)

    async def _finish(self) -> None:
        duration_s = self._spotter.position_s
        executor = self._service.batcher.executor
        found = await asyncio.get_running_loop().run_in_executor(executor, self._spotter.finish)
        self._count_words(found)
        await self._websocket.send_text(protocol.encode(protocol.Finished(duration_s, found)))

    def _count(self, found: Iterable[Detection], lag_s: float) -> None:
        self._service.admission.record(lag_s)
        self._service.metrics.decisions.inc()
        self._service.metrics.lag.observe(lag_s)
        self._count_words(found)

    def _count_words(self, found: Iterable[Detection]) -> None:
        for detection in found:
            self._service.metrics.words.labels(detection.label).inc()

    async def _receive(self) -> str | bytes:
        """The next message. Raises WebSocketDisconnect where there is none."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        text: str | None = message.get("text")
        data: bytes = message.get("bytes") or b""
        return data if text is None else text
