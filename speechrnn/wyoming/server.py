"""A server of the Wyoming protocol: where it can be reached, and what it does with each connection."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from prometheus_client import start_http_server

from speechrnn.clients import server
from speechrnn.clients.admission import Admission, Metrics
from speechrnn.clients.batching import Batcher
from speechrnn.clients.connections import Connection
from speechrnn.clients.ends import End, ProtocolError
from speechrnn.clients.spotting import Shared
from speechrnn.errors import ConfigError, DeviceError
from speechrnn.recognizer import Recognizer
from speechrnn.spec import Options
from speechrnn.wyoming.catalogue import Catalogue, Model
from speechrnn.wyoming.session import Service, Session

DEFAULT_PORT = 10400
_MAX_CONNECTIONS = 256
_N_WITHOUT_PLACE = 64
_PIECE_BYTES = 1 << 16


class Server(server.Server):
    """Serves models, each a name with its recognizer and options, to at most `max_clients` clients with audio at once.

    No more of them are let in than can be in real time. One that sends no step of audio for `idle_s` loses its place,
    though not its connection. Raises ConfigError for options that do not fit their model.
    """

    def __init__(
        self,
        models: Sequence[tuple[str, Recognizer, Options]],
        *,
        max_clients: int = 64,
        idle_s: float = 20,
        languages: Sequence[str] = ("en",),
    ) -> None:
        for _, recognizer, options in models:
            options.check_labels(recognizer.info.spec.labels)
        self.metrics = Metrics()
        batchers = [Batcher(recognizer, lambda n: self.metrics.batches.inc()) for _, recognizer, _ in models]
        step_s = min(options.step_ms for _, _, options in models) / 1000
        self.admission = Admission(max_clients, step_s, lambda: sum(batcher.context_s for batcher in batchers))
        self.metrics.clients.set_function(lambda: self.admission.n_clients)
        self.metrics.capacity.set_function(lambda: self.admission.capacity)
        served = [
            Model(name, Shared(recognizer, batcher, self.admission, self.metrics), options)
            for (name, recognizer, options), batcher in zip(models, batchers, strict=True)
        ]
        self._service = Service(Catalogue(served, languages), self.admission, self.metrics, idle_s)
        self._sessions: set[Session] = set()
        super().__init__(batchers, max(_MAX_CONNECTIONS, max_clients + _N_WITHOUT_PLACE), None)

    async def serve(self, connection: Connection) -> None:
        """Serve one connection until it ends."""
        session = Session(connection, self._service)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
        await connection.close()

    def interrupt(self) -> None:
        """End all audio that comes; clients are told."""
        for session in self._sessions:
            session.interrupt(ProtocolError(End.STOPPED, "the server has been ended"))


class Address(NamedTuple):
    """What a URI says: `tcp` with host and port, `unix` with a path, or `stdio`."""

    scheme: str
    """One of these."""
    host: str = ""
    """Name or address."""
    port: int = 0
    """TCP port; 0 takes a free one."""
    path: str = ""
    """Of the socket."""


def parse(uri: str) -> Address:
    """The address that a URI names. Raises ConfigError for anything else."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", 0
    if parts.scheme == "stdio" or (parts.scheme == "tcp" and host) or (parts.scheme == "unix" and parts.path):
        return Address(parts.scheme, host, port, parts.netloc + parts.path)
    raise ConfigError(f"--uri {uri}: expected tcp://HOST:PORT, unix:///PATH or stdio://")


@contextmanager
def bound(address: Address, serving: Server) -> Iterator[socket.socket]:
    """A socket for the server to listen on; what was made for it is gone afterwards.

    On `stdio` the server ends when standard input does. Raises DeviceError if it cannot listen there.
    """
    with ExitStack() as stack:
        if address.scheme == "tcp":
            yield stack.enter_context(server.bind(address.host, address.port, "give another --uri"))
        elif address.scheme == "unix":
            yield stack.enter_context(_bound_to(Path(address.path)))
        else:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speechrnn-")), "stdio")
            listening = stack.enter_context(_bound_to(path))
            threading.Thread(target=_bridge, args=(serving, path), daemon=True).start()
            yield listening


@contextmanager
def _bound_to(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            _remove_stale(path)
            listening.bind(str(path))
            listening.listen()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DeviceError(f"{path}: cannot listen there ({reason}); give another --uri") from None
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that was killed."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as asking:
            if asking.connect_ex(str(path)):
                path.unlink(missing_ok=True)


def show_counters(metrics: Metrics, port: int) -> None:
    """Show counters at a port of this machine. Raises DeviceError if it cannot."""
    try:
        start_http_server(port, "127.0.0.1", metrics.registry)
    except OSError as error:
        raise DeviceError(f"--metrics-port {port}: cannot listen there ({str(error.strerror).lower()})") from None


def _bridge(serving: Server, path: Path) -> None:
    """Standard input and output as a client of the server, which ends with it."""
    serving.started.wait()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        threading.Thread(target=_send_input, args=(client,), daemon=True).start()
        with suppress(OSError):  # of a reader that has left
            while answer := client.recv(_PIECE_BYTES):
                _write_all(1, answer)
    with suppress(RuntimeError):  # of a server that has ended already
        serving.stop()


def _send_input(client: socket.socket) -> None:
    with suppress(OSError):
        while data := os.read(0, _PIECE_BYTES):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
