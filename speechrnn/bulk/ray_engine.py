"""Who runs shards: tasks of Ray, on this machine or on a cluster that is there."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any, Self

from speechrnn.bulk.engines import Done
from speechrnn.bulk.shards import Task
from speechrnn.bulk.worker import Settings, run_shard
from speechrnn.errors import DeviceError, SpeechRnnError, first_line

_PATIENCE_S = 5.0


class RayEngine:
    """A task of Ray for each shard at hand, at most one for each CPU of the cluster, so that nothing waits in Ray.

    Without an address Ray is started here, for the time of the run. Every node must reach the folder of results and
    what is read, and have this package. Raises DeviceError if there is no cluster at the address.
    """

    def __init__(self, place: str, settings: Settings, n_workers: int | None, address: str | None) -> None:
        import ray

        self._ray: Any = ray
        self._place, self._settings = place, settings
        own: dict[str, Any] = {"num_cpus": n_workers, "include_dashboard": False} if address is None else {}
        try:
            _check_answers(address)
            self._ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
        except (OSError, RuntimeError, ValueError) as error:
            raise DeviceError(f"{address or 'ray'}: no cluster answers there ({first_line(error)})") from None
        self.n_slots = n_workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._run_shard = self._ray.remote(num_cpus=1, max_retries=0)(run_shard)
        self._running: dict[Any, Task] = {}

    def start(self, task: Task) -> None:
        """Start a task."""
        self._running[self._run_shard.remote(self._place, task, self._settings)] = task

    def finished(self, timeout_s: float) -> list[Done]:
        """The tasks that have ended since the last call; waits for one for so long."""
        ended, _ = self._ray.wait([*self._running], timeout=timeout_s)
        return [self._done(reference) for reference in ended]

    def _done(self, reference: Any) -> Done:
        task, exceptions = self._running.pop(reference), self._ray.exceptions
        try:
            return Done(task, self._ray.get(reference))
        except exceptions.RayTaskError as error:
            known = isinstance(error.cause, SpeechRnnError)
            return Done(task, error=error.cause if known else RuntimeError(f"a worker failed:\n{error}"))
        except exceptions.RayError:  # its process or its node has died
            return Done(task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Cancel what runs, and leave the cluster; one that was started here ends."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Raise OSError if nothing answers at a host and port, which Ray itself finds out after five minutes."""
    host, _, port = (address or "").removeprefix("ray://").partition(":")
    if port:
        socket.create_connection((host, int(port)), _PATIENCE_S).close()
