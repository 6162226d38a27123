"""How many clients can be served in real time, and who is let in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from speechrnn.serving.protocol import FULL, ProtocolError

_MAX_LOAD = 0.7
_LATE_S = 0.1
_N_RECENT = 50


class Admission:
    """Lets in at most `max_clients`, and no more than can be served in real time.

    `context_s` gives the seconds that one context costs; every client has one context each `step_s`.
    """

    def __init__(self, max_clients: int, step_s: float, context_s: Callable[[], float]) -> None:
        self.n_clients = 0
        self._max_clients = max_clients
        self._step_s = step_s
        self._context_s = context_s
        self._recent_lags_s: deque[float] = deque(maxlen=_N_RECENT)

    @property
    def capacity(self) -> int:
        """How many can be served in real time: no more than now if answers come late, else by what contexts cost."""
        if self.n_clients and self._recent_lags_s and median(self._recent_lags_s) > _LATE_S:
            return self.n_clients
        return max(1, min(self._max_clients, int(_MAX_LOAD * self._step_s / self._context_s())))

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count a client while it is served. Raises ProtocolError if there is no place for it."""
        if self.n_clients >= self.capacity:
            raise ProtocolError(
                FULL, f"{self.n_clients} clients are being served, which is all this server can do; try again later"
            )
        self.n_clients += 1
        try:
            yield
        finally:
            self.n_clients -= 1
            if not self.n_clients:
                self._recent_lags_s.clear()

    def record(self, lag_s: float) -> None:
        """Note how long an answer took."""
        self._recent_lags_s.append(lag_s)
