"""Connections of clients: accepted within a bound, read in small pieces, and closed for certain.

Knows bytes and times, nothing of HTTP or WebSockets.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

_PIECE_BYTES = 4096
_MAX_UNREAD_BYTES = 1 << 16
_MAX_UNSENT_BYTES = 1 << 14
_HANDSHAKE_S = 10.0
_CLOSING_S = 2.0
_RETRY_S = 0.2
_N_OTHER_DESCRIPTORS = 64  # of the program itself, of recordings and of the processes that transcribe them
_MIN_CONNECTIONS = 16
_log = logging.getLogger(__name__)


class GoneError(Exception):
    """The client has left."""


class Connection(asyncio.BufferedProtocol):
    """One client's bytes, as they came and with the time at which they came.

    `is_busy` while a request is being answered. `is_kept` while its client has a right to its place: without, it gives
    way to newer ones if all are taken.
    """

    def __init__(self) -> None:
        self.is_kept = self.is_busy = False
        self.arrived_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._n_unread = 0
        self._readable, self._writable, self._lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._writable.set()
        self._is_at_end = False
        self._transport: asyncio.Transport

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection stands."""
        self._transport = transport
        transport.set_write_buffer_limits(_MAX_UNSENT_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next piece goes."""
        return self._buffer

    def buffer_updated(self, n_bytes: int) -> None:
        """A piece is there; no more is taken in while much is unread."""
        self._pieces.append((self._loop.time(), bytes(self._buffer[:n_bytes])))
        self._n_unread += n_bytes
        self._readable.set()
        if self._n_unread >= _MAX_UNREAD_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more; what it sent before is still read."""
        self._is_at_end = True
        self._readable.set()
        return self._transport.get_extra_info("ssl_object") is None  # which cannot be half open

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is no more."""
        self._is_at_end = True
        for event in (self._readable, self._writable, self._lost):
            event.set()

    def pause_writing(self) -> None:
        """The client does not read what it is sent."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable.set()

    # What the server calls

    async def read(self) -> bytes:
        """The next piece, which came at `arrived_s`; empty where the client sends no more. Lets others run, too."""
        await (self._readable.wait() if not self._pieces else asyncio.sleep(0))
        if not self._pieces:
            return b""
        self.arrived_s, piece = self._pieces.popleft()
        if self._n_unread >= _MAX_UNREAD_BYTES > self._n_unread - len(piece) and not self._transport.is_closing():
            self._transport.resume_reading()
        self._n_unread -= len(piece)
        if not self._pieces and not self._is_at_end:
            self._readable.clear()
        return piece

    async def write(self, data: bytes) -> None:
        """Send, as soon as the client has read most of what it was sent before. Raises GoneError if it has left."""
        await self._writable.wait()
        if self._transport.is_closing():
            raise GoneError
        self._transport.write(data)

    async def close(self) -> None:
        """Send what is left, and wait a while for the client to take it and to stop sending."""
        with suppress(OSError):  # of a client that has left; a timeout is one, too
            async with asyncio.timeout(_CLOSING_S):
                await self._writable.wait()
                if self._transport.can_write_eof() and not self._transport.is_closing():
                    self._transport.write_eof()
                    while await self.read():
                        pass
                self._transport.close()
                await self._lost.wait()
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()


class Pace:
    """Lets through `rate_per_s`, after as many as `burst` at once; who brings more waits."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst_s = burst / rate_per_s
        self._paid_until_s = -math.inf

    async def spend(self, n: int) -> None:
        """Take so many, and wait until they are allowed."""
        now_s = asyncio.get_running_loop().time()
        self._paid_until_s = max(self._paid_until_s, now_s - self._burst_s) + n / self._rate_per_s
        if self._paid_until_s > now_s:
            await asyncio.sleep(self._paid_until_s - now_s)


class Connections:
    """Runs `serve` for each of at most `max_connections` connections; fewer, if the process may not open so many files.

    Where all are taken, the oldest that is not kept makes room for a new one; if all are kept, the new one is closed.
    """

    def __init__(
        self, serve: Callable[[Connection], Awaitable[None]], max_connections: int, context: ssl.SSLContext | None
    ) -> None:
        self._serve = serve
        self._max_connections = min(max_connections, _max_by_descriptors())
        self._context = context
        self._tasks: dict[Connection, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def accept(self, listening: socket.socket) -> None:
        """Accept for ever."""
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:  # the client has left already, or there are no descriptors: those who wait are asked later
                await asyncio.sleep(_RETRY_S)
                continue
            if len(self) < self._max_connections or self._make_room():
                self._start(accepted)
            else:
                accepted.close()

    async def end(self, grace_s: float) -> None:
        """Give those that are busy so long to end, and close the others at once."""
        busy = [task for connection, task in self._tasks.items() if connection.is_busy]
        if busy:
            await asyncio.wait(busy, timeout=grace_s)
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _make_room(self) -> bool:
        for connection, task in self._tasks.items():
            if not connection.is_kept:
                del self._tasks[connection]
                task.cancel()
                return True
        return False

    def _start(self, accepted: socket.socket) -> None:
        connection = Connection()
        task = asyncio.create_task(self._run(connection, accepted))
        self._tasks[connection] = task
        task.add_done_callback(lambda _: self._tasks.pop(connection, None))

    async def _run(self, connection: Connection, accepted: socket.socket) -> None:
        handshake_s = _HANDSHAKE_S if self._context else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=self._context, ssl_handshake_timeout=handshake_s
            )
        except OSError:  # of a client that has left, or does not speak TLS
            return
        try:
            await self._serve(connection)
        except GoneError:
            pass
        except Exception:
            _log.exception("a connection failed")
        finally:
            connection.abort()


def _max_by_descriptors() -> int:
    """Connections for which this process has descriptors."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 1 << 16
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else max(_MIN_CONNECTIONS, soft - _N_OTHER_DESCRIPTORS)
