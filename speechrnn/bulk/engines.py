"""Who runs shards: processes of this machine. The workers hold nothing that is not in the folder of results."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from speechrnn.bulk.shards import Task
from speechrnn.bulk.worker import Counts, Settings, run_shard
from speechrnn.errors import SpeechRnnError


class Done(NamedTuple):
    """A task that has ended: with counts, with an error that ends the run, or by its worker's death."""

    task: Task
    """The task."""
    counts: Counts | None = None
    """What its shard held."""
    error: Exception | None = None
    """Why no shard can be done."""


class Engine(Protocol):
    """Runs tasks at the same time, at most `n_slots` of them."""

    n_slots: int

    def start(self, task: Task) -> None:
        """Start a task."""

    def finished(self, timeout_s: float) -> list[Done]:
        """The tasks that have ended since the last call; waits for one for so long."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the workers, whatever they are at."""


class _Worker(NamedTuple):
    process: multiprocessing.process.BaseProcess
    connection: Connection
    task: Task


class LocalEngine:
    """A process for each task at hand; processes are used again until they die."""

    def __init__(self, place: str, settings: Settings, n_workers: int) -> None:
        self.n_slots = n_workers
        self._place, self._settings = place, settings
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        self._busy: list[_Worker] = []

    def start(self, task: Task) -> None:
        """Start a task."""
        while self._idle:
            process, connection = self._idle.pop()
            try:
                connection.send(task)
            except OSError:  # it died meanwhile
                process.join()
                continue
            self._busy.append(_Worker(process, connection, task))
            return
        process, connection = self._new_process()
        connection.send(task)
        self._busy.append(_Worker(process, connection, task))

    def _new_process(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._place, self._settings), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()
        return process, ours

    def finished(self, timeout_s: float) -> list[Done]:
        """The tasks that have ended since the last call; waits for one for so long."""
        ready = wait([worker.connection for worker in self._busy], timeout_s)
        ended = [worker for worker in self._busy if worker.connection in ready]
        self._busy = [worker for worker in self._busy if worker.connection not in ready]
        return [self._done(worker) for worker in ended]

    def _done(self, worker: _Worker) -> Done:
        try:
            result = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            return Done(worker.task)
        self._idle.append((worker.process, worker.connection))
        if isinstance(result, Exception):
            return Done(worker.task, error=result)
        return Done(worker.task, result)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process, connection in [*self._idle, *((worker.process, worker.connection) for worker in self._busy)]:
            connection.close()
            process.kill()
            process.join()


class _without_interrupts:  # noqa: N801 (used as a function)
    """Ctrl-C goes to every process of a terminal; those that are started in here leave it to this one."""

    def __enter__(self) -> None:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._handler = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def __exit__(self, *details: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._handler)


def _serve(connection: Connection, place: str, settings: Settings) -> None:
    """The life of a worker: task after task, until nobody is there to give one."""
    parent = os.getppid()

    def check_parent() -> None:
        if os.getppid() != parent:
            os._exit(1)

    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_result(functools.partial(run_shard, place, task, settings, check_parent)))


def _result(work: Callable[[], Counts]) -> Counts | Exception:
    """What a shard held, or why it could not be done; an error that nobody expected, with where it was raised."""
    try:
        return work()
    except SpeechRnnError as error:
        return error
    except Exception:
        return RuntimeError(f"a worker failed:\n{traceback.format_exc()}")
