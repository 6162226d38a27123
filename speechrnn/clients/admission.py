"""Who is served, no more than can be in real time and fewer if answers come late all the same; and the counters."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from statistics import median
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from speechrnn.clients.ends import End, ProtocolError

_LAGS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
_MAX_LOAD = 0.7
_LATE_S = 0.1
_TOO_LATE_S = 0.2
_SHED_FRACTION = 0.25
_SHED_EVERY_S = 1.0
_SILENT_S = 2.0
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
        self._clients: dict[Client, float] = {}  # the newest last, each with the time of its last answer
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
        """Hold a place for a client, if need be that of a silent one. Raises ProtocolError if all are taken."""
        if self.n_clients >= self.capacity and not self._make_room():
            message = f"every place of this server is taken ({self.n_clients}); try again later"
            raise ProtocolError(End.FULL, message)
        self._clients[client] = time.monotonic()
        try:
            yield
        finally:
            self._clients.pop(client, None)
            if not self._clients:
                self._lags_s.clear()

    def record(self, client: Client, lag_s: float | None) -> None:
        """Take note of an answer, and of its lag where it counts: if lags are too long, some clients are sent away."""
        if client in self._clients:
            self._clients[client] = time.monotonic()
        if lag_s is not None:
            self._record_lag(lag_s)

    def _record_lag(self, lag_s: float) -> None:
        self._lags_s.append(lag_s)
        if len(self._lags_s) == _N_RECENT and lag_s > _TOO_LATE_S and median(self._lags_s) > _TOO_LATE_S:
            self._shed()

    def _make_room(self) -> bool:
        """Send away the client who has been silent for the longest, if it is long enough."""
        client, answered_s = min(self._clients.items(), key=itemgetter(1))
        if time.monotonic() - answered_s < _SILENT_S:
            return False
        self._send_away(client, End.IDLE, "sent no audio while others wait for a place; come again when there is some")
        return True

    def _send_away(self, client: Client, end: End, message: str) -> None:
        del self._clients[client]
        client.interrupt(ProtocolError(end, message))

    def _shed(self) -> None:
        """Send the newest away, at most all but one; then see what it helps."""
        now_s = time.monotonic()
        if now_s - self._shed_s < _SHED_EVERY_S:
            return
        self._shed_s = now_s
        self._lags_s.clear()
        n_shed = min(self.n_clients - 1, 1 + int(_SHED_FRACTION * self.n_clients))
        for client in [*self._clients][::-1][:n_shed]:
            message = "the server has become too slow for all; the newest are sent away; try again later"
            self._send_away(client, End.SHED, message)


class Metrics:
    """What a server counts, for Prometheus, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clients = Gauge("speechrnn_clients", "Clients being served now.", registry=self.registry)
        self.capacity = Gauge("speechrnn_capacity", "Clients that can be served at once.", registry=self.registry)
        self.ends = Counter("speechrnn_ends", "Conversations by how they ended.", ["how"], registry=self.registry)
        self.decisions = Counter("speechrnn_decisions", "Contexts that were decided.", registry=self.registry)
        self.batches = Counter("speechrnn_batches", "Runs of the network.", registry=self.registry)
        self.words = Counter("speechrnn_detections", "Keywords that were detected.", ["label"], registry=self.registry)
        self.refusals = Counter(
            "speechrnn_refusals", "Requests refused, by status.", ["status"], registry=self.registry
        )
        self.uploads = Counter("speechrnn_uploads", "Recordings by HTTP status.", ["status"], registry=self.registry)
        self.lag = Histogram("speechrnn_lag_seconds", "Audio to answer.", buckets=_LAGS_S, registry=self.registry)

    def text(self) -> bytes:
        """All counters in Prometheus' text form."""
        return generate_latest(self.registry)
