"""A run: which shards are left, who does them, and when to stop. Knows no engine from the inside."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from speechrnn.bulk.engines import Engine
from speechrnn.bulk.shards import Job, Task, all_rows, done_shards
from speechrnn.bulk.store import Store
from speechrnn.bulk.worker import Counts
from speechrnn.errors import DataError

_MAX_DEATHS = 100
_PATIENCE_S = 0.5
_MIN_FILES = 1000  # before a rate of errors says anything


class Limit(NamedTuple):
    """How many recordings may fail before a run gives up: a number or a fraction."""

    n_failed: float = float("inf")
    """At most so many."""
    rate: float = 1.0
    """At most this fraction in [0, 1] of those that were tried."""

    def is_exceeded(self, n_failed: int, n_files: int) -> bool:
        """Whether too many have failed."""
        return n_failed > self.n_failed or n_failed > self.rate * n_files


class Progress(NamedTuple):
    """How far a run is."""

    counts: Counts
    """What this run did."""
    n_left: int
    """Recordings that are left to this run."""
    elapsed_s: float
    """How long it has run."""


class Part(NamedTuple):
    """One of several equal parts of the shards."""

    number: int = 1
    """From 1."""
    n_parts: int = 1
    """How many there are."""

    def shards(self, job: Job) -> range:
        """The shards of this part."""
        return range(self.number - 1, job.n_shards, self.n_parts)


WHOLE = Part()
"""All shards."""


def left_tasks(store: Store, job: Job, part: Part) -> list[Task]:
    """The shards of a part that are not done."""
    done = done_shards(store, job)
    return [Task(shard) for shard in part.shards(job) if shard not in done]


def failed_tasks(store: Store, job: Job, part: Part) -> list[Task]:
    """The shards of a part that are done and hold failed recordings."""
    own = {*part.shards(job)}
    failed = {row.index // job.shard_files for row in all_rows(store, job) if row.error is not None}
    return [Task(shard, again=True) for shard in sorted(failed & own)]


def run(
    engine: Engine,
    job: Job,
    tasks: Iterable[Task],
    limit: Limit,
    on_progress: Callable[[Progress], None],
    is_stopped: Callable[[], bool],
) -> bool:
    """Do tasks; whether all were done, rather than given up for too many failed recordings, or stopped.

    Shards at hand are done in any case. Raises DataError if workers die of one again and again, and what a worker
    raises that no other shard would be spared.
    """
    left, n_running = deque(tasks), 0
    n_left = sum(job.n_in(task.shard) for task in left)
    deaths, total, started_s = Counter[int](), Counts(0, 0, 0.0), time.monotonic()
    while n_running or (left and not is_stopped()):
        while left and n_running < engine.n_slots and not is_stopped():
            engine.start(left.popleft())
            n_running += 1
        for done in engine.finished(_PATIENCE_S):
            n_running -= 1
            if done.error:
                raise done.error
            if done.counts is None:
                deaths[done.task.shard] += 1
                _check_deaths(deaths[done.task.shard], job, done.task)
                left.appendleft(done.task._replace(careful=True))
                continue
            total = total.plus(done.counts)
            n_left -= done.counts.n_files
            if total.n_files >= _MIN_FILES and limit.is_exceeded(total.n_failed, total.n_files):
                left.clear()
        on_progress(Progress(total, n_left, time.monotonic() - started_s))
    return not n_left


def _check_deaths(n: int, job: Job, task: Task) -> None:
    if n > _MAX_DEATHS:
        raise DataError(
            f"shard {task.shard} of {job.n_shards}: {n} processes ended while they did it; look for a lack of memory, "
            "or leave its recordings out"
        )
