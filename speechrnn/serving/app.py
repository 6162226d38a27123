"""The web server: the page, what listens behind it, and its counters."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from speechrnn.errors import ConfigError, DeviceError
from speechrnn.recognizer import Recognizer
from speechrnn.serving import guard, metrics, protocol
from speechrnn.serving.admission import Admission
from speechrnn.serving.batching import Batcher
from speechrnn.serving.conversation import Conversation, Service
from speechrnn.serving.uploads import MAX_UPLOAD_BYTES, Uploads
from speechrnn.spec import Options

_GRACE_S = 3
_WEB = Path(__file__).parent / "web"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def page() -> list[Route]:
    """A route for each file of the page; they are read now, so that no request opens a file."""
    files = {f"/{path.name}": path for path in sorted(_WEB.iterdir()) if path.suffix in _TYPES}
    files["/"] = files.pop("/index.html")
    return [Route(name, _constant(path.read_bytes(), _TYPES[path.suffix])) for name, path in files.items()]


def _constant(body: bytes, media_type: str) -> Callable[[Request], Response]:
    return lambda request: Response(body, media_type=media_type)


class App:
    """What one server does for its clients, with one recognizer that was loaded from a file.

    At most `max_clients` clients are served at once, and no more than can be in real time. One that sends no step of
    audio or reads no answer for `idle_s` is closed. Raises ConfigError for options that do not fit the model.
    """

    def __init__(self, recognizer: Recognizer, options: Options, *, max_clients: int = 64, idle_s: float = 20) -> None:
        labels = recognizer.info.spec.labels
        options.check_labels(labels)
        if recognizer.path is None:
            raise ConfigError("expected a recognizer that was loaded from a file, for recordings are given to another")
        self.metrics = metrics.Metrics()
        self.batcher = Batcher(recognizer, lambda n_contexts: self.metrics.batches.inc())
        self.admission = Admission(max_clients, options.step_ms / 1000, lambda: self.batcher.context_s)
        self.uploads = Uploads(recognizer.path, labels, options, self.metrics)
        self._ready = protocol.ready(recognizer.path.stem, recognizer.info, options, MAX_UPLOAD_BYTES)
        self._service = Service(recognizer, options, self._ready, self.batcher, self.admission, self.metrics, idle_s)

    async def listen(self, websocket: WebSocket) -> None:
        """Hold a conversation."""
        await websocket.accept()
        await Conversation(websocket, self._service).run()

    async def model(self, request: Request) -> Response:
        """What listens here."""
        return _json(protocol.encode(self._ready))

    async def health(self, request: Request) -> Response:
        """That the server is well, and how full."""
        state = {"status": "ok", "clients": self.admission.n_clients, "capacity": self.admission.capacity}
        return _json(msgspec.json.encode(state))

    async def counters(self, request: Request) -> Response:
        """All counters in Prometheus' text form."""
        self.metrics.clients.set(self.admission.n_clients)
        self.metrics.capacity.set(self.admission.capacity)
        return Response(self.metrics.text(), media_type=metrics.MEDIA_TYPE)


def _json(body: str | bytes) -> Response:
    return Response(body, media_type="application/json")


def make_asgi(app: App, names: Sequence[str] = ()) -> ASGIApp:
    """The whole ASGI application; `names` are hosts under which it may be opened besides this machine's own."""

    @asynccontextmanager
    async def lifespan(starlette: Starlette) -> AsyncIterator[None]:
        async with app.batcher:
            yield

    routes = [
        *page(),
        Route(protocol.MODEL_PATH, app.model),
        Route(protocol.TRANSCRIBE_PATH, app.uploads.handle, methods=["POST"]),
        Route("/health", app.health),
        Route("/metrics", app.counters),
        WebSocketRoute(protocol.LISTEN_PATH, app.listen),
    ]
    return guard.Guard(Starlette(routes=routes, lifespan=lifespan), names)


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

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.uploads.interrupt()
        await super().shutdown(sockets)


def make_server(
    app: App, *, names: Sequence[str] = (), certfile: Path | None = None, keyfile: Path | None = None
) -> uvicorn.Server:
    """The server, to be run on sockets of `bind`."""
    return _Server(
        uvicorn.Config(
            make_asgi(app, names),
            http=guard.Http,
            ws=guard.WebSocket,
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
        app,
    )


def addresses(listening: socket.socket, scheme: str) -> list[str]:
    """Where the page can be opened."""
    host, port = listening.getsockname()[:2]
    hosts = ["localhost", socket.gethostname()] if ipaddress.ip_address(host).is_unspecified else [host]
    return [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/" for host in hosts]


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
