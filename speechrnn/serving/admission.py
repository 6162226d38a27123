"""Who is served: no more clients than can be in real time, and fewer if answers come late all the same."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Protocol

from speechrnn.serving.protocol import End, ProtocolError

_MAX_LOAD = 0.7
_LATE_S = 0.1
_TOO_LATE_S = 0.2
_SHED_FRACTION = 0.25
_SHED_EVERY_S = 1.0
_N_RECENT = 50


class Client(Protocol):
    """Someone who is served."""

    def interrupt(self, error: ProtocolError) -> None:
        """End the conversation with this error."""


class Admission:
    """Lets in at most `max_clients`, as many as can be served in real time by what contexts cost in processor time.

    `context_s` gives the processor seconds of one context, of which every client has one each `step_s`. That a machine
    has less time to give than it seems shows in lags: while they are long, nobody is let in; while they are longer
    still, the newest clients are sent away, so that the others are answered in time.
    """

    def __init__(self, max_clients: int, step_s: float, context_s: Callable[[], float]) -> None:
        self._max_clients = max_clients
        self._step_s = step_s
        self._context_s = context_s
        self._clients: dict[Client, None] = {}  # the newest last
        self._lags_s: deque[float] = deque(maxlen=_N_RECENT)
        self._shed_s = 0.0

    @property
    def n_clients(self) -> int:
        """How many are served now."""
        return len(self._clients)

    @property
    def capacity(self) -> int:
        """How many can be served: no more than now if answers come late."""
        if self._clients and self._lags_s and median(self._lags_s) > _LATE_S:
            return self.n_clients
        return max(1, min(self._max_clients, int(_MAX_LOAD * self._step_s / self._context_s())))

    @contextmanager
    def place(self, client: Client) -> Iterator[None]:
        """Hold a place for a client. Raises ProtocolError if there is none."""
        if self.n_clients >= self.capacity:
            raise ProtocolError(
                End.FULL, f"{self.n_clients} clients are served, which is all this server can do; try again later"
            )
        self._clients[client] = None
        try:
            yield
        finally:
            self._clients.pop(client, None)
            if not self._clients:
                self._lags_s.clear()

    def record(self, lag_s: float) -> None:
        """Take the lag of an answer to a client who sends in real time; send some away if lags have become too long."""
        self._lags_s.append(lag_s)
        if len(self._lags_s) == _N_RECENT and lag_s > _TOO_LATE_S and median(self._lags_s) > _TOO_LATE_S:
            self._shed()

    def _shed(self) -> None:
        """Send the newest away, at most all but one; then see what it helps."""
        now_s = time.monotonic()
        if now_s - self._shed_s < _SHED_EVERY_S:
            return
        self._shed_s = now_s
        self._lags_s.clear()
        n_shed = min(self.n_clients - 1, 1 + int(_SHED_FRACTION * self.n_clients))
        for client in [*self._clients][::-1][:n_shed]:
            del self._clients[client]
            client.interrupt(
                ProtocolError(
                    End.SHED, "the server has become too slow for all; the newest are sent away; try again later"
                )
            )
