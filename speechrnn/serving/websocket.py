"""One WebSocket: whole messages in and out, no more of them than a client may send."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as HandshakeRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from speechrnn.clients.connections import Connection, GoneError, Pace
from speechrnn.clients.ends import End, ProtocolError
from speechrnn.serving.http1 import HttpError, Request
from speechrnn.serving.protocol import MAX_MESSAGE_BYTES

_HANDSHAKE = ("upgrade", "connection", "sec-websocket-version", "sec-websocket-key")
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_MAX_FRAMES_PER_S = 500
_MAX_FRAMES_AT_ONCE = 1000
_MAX_FRAGMENTS = 64
_TOO_LARGE = 1009
_CLOSING_S = 2.0


class WebSocket:
    """The server's end of a WebSocket, once `accept` has made it one."""

    def __init__(self, connection: Connection, request: Request, unread: bytes) -> None:
        self.connection = connection
        self._unread = unread
        self._pace = Pace(_MAX_FRAMES_PER_S, _MAX_FRAMES_AT_ONCE)
        self._frames: list[Frame] = []
        self._parts: list[bytes] = []
        self._protocol = ServerProtocol(max_size=MAX_MESSAGE_BYTES)
        head = "".join(f"{name}: {request.headers[name]}\r\n" for name in _HANDSHAKE if name in request.headers)
        self._protocol.receive_data(f"GET / HTTP/1.1\r\n{head}\r\n".encode("latin-1"))

    async def accept(self) -> None:
        """Answer the handshake. Raises HttpError if it is not one."""
        (request,) = self._protocol.events_received()
        assert isinstance(request, HandshakeRequest)
        response = self._protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            raise HttpError(HTTPStatus(response.status_code), "expected the handshake of a WebSocket, version 13")
        self._protocol.send_response(response)
        await self._flush()

    @property
    def arrived_s(self) -> float:
        """When the end of the last message came, on the event loop's clock."""
        return self.connection.arrived_s

    async def receive(self) -> str | bytes:
        """The next message. Raises GoneError if the client leaves, ProtocolError for what is not a WebSocket's."""
        while True:
            while self._frames:
                if (message := self._take(self._frames.pop(0))) is not None:
                    return message
            await self._read()

    async def send(self, text: str) -> None:
        """Send a message. Raises GoneError if the client has left."""
        if self._protocol.state is not State.OPEN:
            raise GoneError
        self._protocol.send_text(text.encode())
        await self._flush()

    async def close(self, code: int = 1000) -> None:
        """Close, and wait a while for the client to do so, too."""
        with suppress(TimeoutError, GoneError, ProtocolError):
            async with asyncio.timeout(_CLOSING_S):
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(code)
                    await self._flush()
                while not self._protocol.eof_sent:
                    self._frames.clear()
                    await self._read()

    async def _read(self) -> None:
        """Take in the next piece, as fast as the client may send."""
        data, self._unread = self._unread or await self.connection.read(), b""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._frames += (frames := [event for event in self._protocol.events_received() if isinstance(event, Frame)])
        await self._flush()
        if self._protocol.parser_exc is not None:
            self._raise()
        await self._pace.spend(len(frames))

    def _raise(self) -> None:
        """Raise what ended the reading of frames."""
        sent = self._protocol.close_sent
        if sent is None or isinstance(self._protocol.parser_exc, EOFError):
            raise GoneError
        if sent.code == _TOO_LARGE:
            raise ProtocolError(End.TOO_LARGE, f"expected messages of at most {MAX_MESSAGE_BYTES} bytes")
        raise ProtocolError(End.MALFORMED, f"expected a WebSocket's frames ({sent.reason})")

    def _take(self, frame: Frame) -> str | bytes | None:
        """The message that a frame completes. Raises GoneError if it closes."""
        if frame.opcode is Opcode.CLOSE:
            raise GoneError
        if frame.opcode not in _DATA:
            return None
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if len(self._parts) > _MAX_FRAGMENTS:
            raise ProtocolError(End.MALFORMED, f"expected messages in at most {_MAX_FRAGMENTS} fragments")
        return self._whole() if frame.fin else None

    def _whole(self) -> str | bytes:
        message, self._parts = b"".join(self._parts), []
        try:
            return message.decode() if self._is_text else message
        except UnicodeDecodeError:
            raise ProtocolError(End.MALFORMED, "expected text in UTF-8, got other bytes") from None

    async def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data:
            await self.connection.write(data)
