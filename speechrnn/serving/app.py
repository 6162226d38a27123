"""The web server around the service: the page, who may come in, and how long they may take."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from speechrnn.errors import ConfigError, DeviceError
from speechrnn.serving import protocol
from speechrnn.serving.conversation import Service

_REQUEST_S = 20.0
_CLOSED_S = 5.0
_GRACE_S = 3
_MAX_CONNECTIONS = 256
_WEB = Path(__file__).parent / "web"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
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


def page() -> list[Route]:
    """A route for each file of the page; they are read now, so that no request opens a file."""
    files = {f"/{path.name}": path for path in sorted(_WEB.iterdir()) if path.suffix in _TYPES}
    files["/"] = files.pop("/index.html")
    return [Route(name, _constant(path.read_bytes(), _TYPES[path.suffix])) for name, path in files.items()]


def _constant(body: bytes, media_type: str) -> Callable[[Request], Response]:
    return lambda request: Response(body, media_type=media_type)


def make_app(service: Service, names: Sequence[str] = ()) -> ASGIApp:
    """The whole ASGI application; `names` are hosts under which it may be opened besides this machine's own."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with service.batcher:
            yield

    routes = [
        *page(),
        Route(protocol.MODEL_PATH, service.model),
        Route(protocol.TRANSCRIBE_PATH, service.transcribe, methods=["POST"]),
        Route("/health", service.health),
        Route("/metrics", service.counters),
        WebSocketRoute(protocol.LISTEN_PATH, service.listen),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), names)


class _Http(H11Protocol):
    """HTTP with a bound on connections, and on the time until a request is there as a whole."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        self._expect_request()

    def on_response_complete(self) -> None:
        self._expect_request()
        super().on_response_complete()

    def _expect_request(self) -> None:
        last = self.scope

        def close_without_request() -> None:
            if self.scope is last:
                self.transport.abort()

        self.loop.call_later(_REQUEST_S, close_without_request)


class _WebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that is closed even if its client does not read what was sent last."""

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        if self.close_sent:  # by the protocol, for a message that was too large
            raise ClientDisconnected
        await super().send(message)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self.loop.call_later(_CLOSED_S, self.transport.abort)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there, on a free port if `port` is 0. Raises DeviceError if it cannot."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).split(" (")[0].lower()
        raise DeviceError(f"{host}, port {port}: cannot listen there ({reason}); give --host or --port") from None


def check_certificate(certfile: Path | None, keyfile: Path | None) -> None:
    """Raise ConfigError if these do not make a TLS server."""
    if certfile is None:
        if keyfile is not None:
            raise ConfigError("--keyfile: expected --certfile with it")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
    except OSError as error:
        reason = "not a certificate with its key" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"--certfile {certfile}: cannot be used ({reason}); give a PEM file, and --keyfile") from None


class _Server(uvicorn.Server):
    """Lets nobody wait for work that the end of the server interrupts."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.interrupt()
        await super().shutdown(sockets)


def make_server(
    service: Service, *, names: Sequence[str] = (), certfile: Path | None = None, keyfile: Path | None = None
) -> uvicorn.Server:
    """The server, to be run on sockets of `bind`."""
    return _Server(
        uvicorn.Config(
            make_app(service, names),
            http=_Http,
            ws=_WebSocket,
            ws_max_size=protocol.MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            proxy_headers=False,
            server_header=False,
            ssl_certfile=certfile,
            ssl_keyfile=keyfile,
            access_log=False,
            log_config=None,
            log_level="error",
            timeout_graceful_shutdown=_GRACE_S,
        ),
        service,
    )


def addresses(listening: socket.socket, scheme: str) -> list[str]:
    """Where the page can be opened."""
    host, port = listening.getsockname()[:2]
    hosts = ["localhost", socket.gethostname()] if ipaddress.ip_address(host).is_unspecified else [host]
    return [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/" for host in hosts]


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
