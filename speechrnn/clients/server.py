"""A server that serves connections until it is told to stop, whatever they speak."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

from speechrnn.clients.batching import Batcher
from speechrnn.clients.connections import Connection, Connections
from speechrnn.errors import DeviceError

_GRACE_S = 3.0


class Server(ABC):
    """Runs batchers and serves connections; what is said on them is for a subclass."""

    def __init__(self, batchers: Sequence[Batcher], max_connections: int, context: ssl.SSLContext | None) -> None:
        self.started = threading.Event()
        self.connections = Connections(self.serve, max_connections, context)
        self._batchers = batchers

    @abstractmethod
    async def serve(self, connection: Connection) -> None:
        """Serve one connection until it ends."""

    @abstractmethod
    def interrupt(self) -> None:
        """End what takes long; clients are told."""

    def run(self, listening: socket.socket, on_started: Callable[[], None] = lambda: None) -> None:
        """Serve on a listening socket until Ctrl-C, SIGTERM, or `stop`, then close it.

        `on_started` is called once clients are served and signals end the server in order.
        """
        asyncio.run(self._run(listening, on_started))

    def stop(self) -> None:
        """End `run`; may be called in any thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _run(self, listening: socket.socket, on_started: Callable[[], None]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            for batcher in self._batchers:
                await stack.enter_async_context(batcher)
            accepting = asyncio.create_task(self.connections.accept(listening))
            with self._until_signal():
                self.started.set()
                on_started()
                await self._stopped.wait()
            accepting.cancel()
            await asyncio.wait((accepting,))
            listening.close()
            self.interrupt()
            await self.connections.end(_GRACE_S)

    @contextmanager
    def _until_signal(self) -> Iterator[None]:
        """Stop at a signal that ends programs, where this is the main thread, which alone gets them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, lambda *_: self.stop()) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def bind(host: str, port: int, advice: str = "give --host or --port") -> socket.socket:
    """A socket that listens there, on a free port if `port` is 0. Raises DeviceError, with advice, if it cannot."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).split(" (")[0].lower()
        raise DeviceError(f"{host}, port {port}: cannot listen there ({reason}); {advice}") from None
