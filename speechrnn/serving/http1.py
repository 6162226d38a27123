"""HTTP/1.1 on one connection: requests with bounds on size and time, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import h11
import msgspec

from speechrnn.clients.connections import Connection, GoneError
from speechrnn.serving import protocol

_MAX_HEAD_BYTES = 1 << 14
_HEAD_S = 20.0
_ANSWER_S = 20.0


class Request(NamedTuple):
    """The head of a request. Names of headers are in lower case; the values of one that came twice are joined."""

    method: str
    """Such as GET."""
    path: str
    """The path without the query."""
    query: Mapping[str, str]
    """Values of the query by name."""
    headers: Mapping[str, str]
    """Values by name in lower case; those of one that came twice are joined."""


class Response(NamedTuple):
    """An answer."""

    body: bytes
    """The content."""
    media_type: str = "application/json"
    """Its type."""
    status: HTTPStatus = HTTPStatus.OK
    """The status."""


class HttpError(Exception):
    """A request that is refused, with this status and message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status

    def response(self) -> Response:
        """The answer to it."""
        return Response(msgspec.json.encode(protocol.Error(str(self))), status=self.status)


class Http:
    """The requests of one connection, one after the other, and their answers, which carry `headers`."""

    def __init__(self, connection: Connection, headers: Mapping[str, str]) -> None:
        self.connection = connection
        self._headers = [*headers.items()]
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)

    async def request(self) -> Request | None:
        """The head of the next request; None if none comes. Raises HttpError if it is not HTTP, or too large."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        if self._h11.our_state is not h11.IDLE:
            return None
        try:
            async with asyncio.timeout(_HEAD_S):
                event = await self._next_event()
        except TimeoutError:
            return None
        return _request(event) if isinstance(event, h11.Request) else None

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the request, as it comes. Raises GoneError if its client leaves, HttpError if it is not HTTP."""
        if self._h11.they_are_waiting_for_100_continue:
            await self.connection.write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise GoneError
            yield bytes(event.data)

    def check_no_body(self) -> None:
        """Raise HttpError if the request has a body."""
        if not self._is_read():
            raise HttpError(HTTPStatus.BAD_REQUEST, "expected no body")

    async def left(self) -> None:
        """Return when the client has left; what else it sends is not read."""
        while await self.connection.read():
            pass

    @property
    def unread(self) -> bytes:
        """What came after the request."""
        return bytes(self._h11.trailing_data[0])

    async def respond(self, request: Request | None, response: Response) -> None:
        """Answer, and say so if the connection ends with it: after a body that was not read, and after an error."""
        is_last = response.status >= HTTPStatus.BAD_REQUEST or not self._is_read()
        headers = [("content-type", response.media_type), ("content-length", str(len(response.body)))]
        headers += [("date", formatdate(usegmt=True)), *self._headers, *([("connection", "close")] if is_last else [])]
        head = h11.Response(status_code=response.status, headers=headers, reason=response.status.phrase)
        events = [head, h11.Data(data=response.body), h11.EndOfMessage()]
        if request is not None and request.method == "HEAD":
            del events[1]
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                await self.connection.write(b"".join(self._h11.send(event) or b"" for event in events))

    def _is_read(self) -> bool:
        """Whether the request has no body that was not read."""
        try:
            return self._h11.their_state is not h11.SEND_BODY or isinstance(self._h11.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError:
            return False

    async def _next_event(self) -> Any:
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                self._h11.receive_data(await self.connection.read())
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            raise HttpError(status, f"expected a request of HTTP/1.1, got something else ({error})") from None
        return event


def _request(event: h11.Request) -> Request:
    headers: dict[str, str] = {}
    for name, value in event.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    path, _, query = event.target.decode("ascii", "replace").partition("?")
    return Request(event.method.decode("ascii"), path, dict(parse_qsl(query, keep_blank_values=True)), headers)
