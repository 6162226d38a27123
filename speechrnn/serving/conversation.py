"""One WebSocket: audio in, decisions out, until either side ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NamedTuple

from speechrnn.clients.connections import GoneError
from speechrnn.clients.ends import End, ProtocolError
from speechrnn.clients.spotting import ClientSpotter, Decision, Shared
from speechrnn.errors import ConfigError
from speechrnn.serving import protocol
from speechrnn.serving.websocket import WebSocket
from speechrnn.spec import Options

_CLOSING_S = 2.0
_log = logging.getLogger(__name__)


class Service(NamedTuple):
    """What all conversations of a server share."""

    shared: Shared
    """The model, what runs it, and who is let in."""
    options: Options
    """How it decides unless a client chooses."""
    ready: protocol.Ready
    """The answer to the start of a conversation."""
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
            self._service.shared.metrics.ends.labels("finished").inc()
        except GoneError:
            self._service.shared.metrics.ends.labels("left").inc()
        except ProtocolError as error:
            await self._end(error)
        except Exception:
            _log.exception("a conversation failed")
            await self._end(ProtocolError(End.BROKEN, "something failed in the server; see its log"))

    async def _end(self, error: ProtocolError) -> None:
        self._interruption = error  # from here on nothing else can end it
        self._service.shared.metrics.ends.labels(error.end.counted_as).inc()
        with suppress(TimeoutError, GoneError):
            async with asyncio.timeout(_CLOSING_S):
                await self._websocket.send(protocol.encode(protocol.Error(str(error))))
        await self._websocket.close(error.end.code)

    async def _converse(self) -> None:
        try:
            async with self._deadline:
                start = protocol.decode_start(await self._websocket.receive())
                with self._service.shared.admission.place(self):
                    self._websocket.connection.is_kept = True
                    await self._spot(start)
                await self._websocket.close()
        except TimeoutError:
            raise self._interruption or ProtocolError(
                End.IDLE, f"expected audio, and answers to be read, but nothing moved for {self._service.idle_s:g} s"
            ) from None

    async def _spot(self, start: protocol.Start) -> None:
        spotter = self._spotter(start)
        await self._websocket.send(protocol.encode(self._service.ready))
        while isinstance(message := await self._websocket.receive(), bytes):
            await self._answer(spotter.push(protocol.decode_audio(message), self._websocket.arrived_s))
        protocol.decode_finish(message)
        await self._answer(spotter.rest(self._websocket.arrived_s))
        await self._websocket.send(protocol.encode(protocol.Finished(*await spotter.finish())))

    def _spotter(self, start: protocol.Start) -> ClientSpotter:
        try:
            options = start.options(self._service.options)
            return ClientSpotter(self, self._service.shared, options, start.rate_hz)
        except ConfigError as error:
            raise ProtocolError(End.MALFORMED, str(error)) from None

    async def _answer(self, decisions: AsyncIterator[Decision]) -> None:
        """Answer each step; each lets the conversation live on."""
        async for made in decisions:
            shown = [round(value, 4) for value in made.posteriors.tolist()]
            decision = protocol.Decision(round(made.decided_s, 4), shown, made.detections, round(1000 * made.lag_s, 1))
            await self._websocket.send(protocol.encode(decision))
            self._live_on()

    def _live_on(self) -> None:
        if self._interruption is None:
            self._deadline.reschedule(self._loop.time() + self._service.idle_s)
