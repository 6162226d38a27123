"""The web server: the page, what listens behind it, and its counters."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from speechrnn.clients import server
from speechrnn.clients.admission import Admission, Metrics
from speechrnn.clients.batching import Batcher
from speechrnn.clients.connections import Connection, GoneError
from speechrnn.clients.ends import End, ProtocolError
from speechrnn.clients.spotting import Shared
from speechrnn.errors import ConfigError
from speechrnn.recognizer import Recognizer
from speechrnn.serving import protocol, uploads
from speechrnn.serving.conversation import Conversation, Service
from speechrnn.serving.guard import SECURITY_HEADERS, Guard
from speechrnn.serving.http1 import Http, HttpError, Request, Response
from speechrnn.serving.takes import Takes
from speechrnn.serving.uploads import Uploads
from speechrnn.serving.websocket import WebSocket
from speechrnn.spec import Options

_MAX_CONNECTIONS = 256
_N_WITHOUT_PLACE = 64
_WEB = Path(__file__).parent / "web"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_log = logging.getLogger(__name__)


def page() -> dict[str, Response]:
    """Each file of the page by its path; they are read now, so that no request opens a file."""
    files = {f"/{path.name}": path for path in sorted(_WEB.iterdir()) if path.suffix in _TYPES}
    files["/"] = files.pop("/index.html")
    return {name: Response(path.read_bytes(), _TYPES[path.suffix]) for name, path in files.items()}


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
        self.metrics = Metrics()
        self.batcher = Batcher(recognizer, lambda n_contexts: self.metrics.batches.inc())
        self.admission = Admission(max_clients, options.step_ms / 1000, lambda: self.batcher.context_s)
        self.uploads = Uploads(recognizer.path, labels, options, self.metrics)
        self._takes = Takes()
        self.max_connections = max(_MAX_CONNECTIONS, max_clients + _N_WITHOUT_PLACE)
        self._ready = protocol.ready(recognizer.path.stem, recognizer.info, options, uploads.MAX_UPLOAD_BYTES)
        shared = Shared(recognizer, self.batcher, self.admission, self.metrics)
        self._service = Service(shared, options, self._ready, idle_s)
        self._conversations: set[Conversation] = set()
        self._constants = page() | {protocol.MODEL_PATH: Response(protocol.encode(self._ready).encode())}
        self._pages: dict[str, Callable[[], Response]] = {"/health": self._health, "/metrics": self._counters}

    async def answer(self, http: Http, request: Request) -> Response | None:
        """The answer to a request; None after a conversation. Raises HttpError for what cannot be answered."""
        if request.path == protocol.LISTEN_PATH:
            await self._listen(http, request)
            return None
        if request.path == protocol.TRANSCRIBE_PATH:
            _check_method(request, "POST")
            return await self.uploads.handle(http, request)
        if request.path == protocol.TAKE_PATH:
            _check_method(request, "POST")
            return await self._takes.handle(http, request)
        if request.path not in self._constants and request.path not in self._pages:
            raise HttpError(HTTPStatus.NOT_FOUND, f"nothing is served at {request.path}")
        _check_method(request, "GET", "HEAD")
        return self._constants.get(request.path) or self._pages[request.path]()

    def interrupt(self) -> None:
        """End what takes long: conversations, and recordings that are being transcribed. Their clients are told."""
        self.uploads.interrupt()
        for conversation in self._conversations:
            conversation.interrupt(ProtocolError(End.STOPPED, "the server has been ended"))

    async def _listen(self, http: Http, request: Request) -> None:
        _check_method(request, "GET")
        http.check_no_body()
        websocket = WebSocket(http.connection, request, http.unread)
        await websocket.accept()
        conversation = Conversation(websocket, self._service)
        self._conversations.add(conversation)
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)

    def _health(self) -> Response:
        state = {"status": "ok", "clients": self.admission.n_clients, "capacity": self.admission.capacity}
        return Response(msgspec.json.encode(state))

    def _counters(self) -> Response:
        self.metrics.clients.set(self.admission.n_clients)
        self.metrics.capacity.set(self.admission.capacity)
        return Response(self.metrics.text(), CONTENT_TYPE_LATEST)


def _check_method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, f"expected {' or '.join(methods)}, got {request.method}")


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


class Server(server.Server):
    """Serves an app until it is told to stop; `names` are hosts under which it is known besides this machine's own.

    Raises ConfigError if the files do not make a TLS server.
    """

    def __init__(
        self, app: App, *, names: Sequence[str] = (), certfile: Path | None = None, keyfile: Path | None = None
    ) -> None:
        super().__init__([app.batcher], app.max_connections, _tls(certfile, keyfile))
        self._app = app
        self._guard = Guard(names)

    def interrupt(self) -> None:
        """End what takes long; clients are told."""
        self._app.interrupt()

    async def serve(self, connection: Connection) -> None:
        """Answer the requests of one connection, one after the other."""
        http = Http(connection, SECURITY_HEADERS)
        while await self._answer(http):
            pass
        await connection.close()

    async def _answer(self, http: Http) -> bool:
        """Answer the next request; whether another one may follow."""
        request = None
        try:
            if (request := await http.request()) is None:
                return False
            http.connection.is_busy = True
            response = await self._response(http, request)
        except HttpError as error:
            self._app.metrics.refusals.labels(error.status.value).inc()
            response = error.response()
        if response is not None:
            await http.respond(request, response)
        http.connection.is_busy = False
        return response is not None

    async def _response(self, http: Http, request: Request) -> Response | None:
        if problem := self._guard.problem(request.headers):
            raise HttpError(HTTPStatus.FORBIDDEN, problem)
        try:
            return await self._app.answer(http, request)
        except (HttpError, GoneError):
            raise
        except Exception:
            _log.exception("a request failed")
            message = "something failed in the server; see its log"
            raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, message) from None


def _tls(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    if certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile)
    return context


def addresses(listening: socket.socket, scheme: str) -> list[str]:
    """Where the page can be opened."""
    host, port = listening.getsockname()[:2]
    hosts = ["localhost", socket.gethostname()] if ipaddress.ip_address(host).is_unspecified else [host]
    return [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/" for host in hosts]


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
