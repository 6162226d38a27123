"""Who may come in, and how long a connection may take."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_REQUEST_S = 20.0
_CLOSED_S = 5.0
_MAX_CONNECTIONS = 256
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Guard:
    """Lets in who speaks to this server by a name it has, from its own page or from no page; adds security headers.

    A foreign page cannot reach it even by a name of its own that it points at this machine: only addresses,
    `localhost`, this machine's name and those in `names` are taken.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, a WebSocket, or the server's start and end."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        problem = None if scope["type"] == "lifespan" else self._problem(Headers(scope=scope))
        app = PlainTextResponse(problem, HTTPStatus.FORBIDDEN) if problem else self._app
        await app(scope, receive, send_with_headers)

    def _problem(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if not self._is_known(host):
            return f"This server is not known as {host or 'nothing'}; start it with --name NAME.\n"
        if origin is not None and urlsplit(origin.lower()).netloc != host:
            return f"Only pages of this server may use it, not those of {origin}.\n"
        return None

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


class Http(H11Protocol):
    """HTTP with a bound on connections, and on the time until a request is there as a whole."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection beyond the bound."""
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        self._expect_request()

    def on_response_complete(self) -> None:
        """Wait for another request, for so long."""
        self._expect_request()
        super().on_response_complete()

    def _expect_request(self) -> None:
        last = self.scope

        def close_without_request() -> None:
            if self.scope is last:
                self.transport.abort()

        self.loop.call_later(_REQUEST_S, close_without_request)


class WebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that is closed even if its client does not read what was sent last."""

    async def send(self, message: Any) -> None:
        """Send, unless the protocol has closed."""
        await self.writable.wait()
        if self.close_sent:  # by the protocol, for a message that was too large
            raise ClientDisconnected
        await super().send(message)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Wait a while for the client to close, too."""
        super().on_task_complete(task)
        self.loop.call_later(_CLOSED_S, self.transport.abort)
