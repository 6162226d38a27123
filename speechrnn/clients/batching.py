"""The contexts of many spotters in one run of the network, while the event loop goes on."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.recognizer import Recognizer

_MAX_CONTEXTS = 16
_MAX_EARLY = 4
_MIN_MEASURED = 4  # a context costs half as much again in a batch of its own, of which a server that is full has none
_N_WARM_UPS = 3
_N_COSTS = 50


class _Waiting(NamedTuple):
    context: Samples
    future: asyncio.Future[NDArray[np.float32]]


class Batcher:
    """Runs whatever contexts wait as one batch in a thread of its own, then the next; open it with `async with`.

    Contexts that are early, for their audio came faster than it can be spoken, fill what the others leave of a batch, a
    few at a time, so that nobody waits long for them. `on_batch` is told the size of each batch that was run.
    """

    def __init__(self, recognizer: Recognizer, on_batch: Callable[[int], None] = lambda n_contexts: None) -> None:
        self._recognizer = recognizer
        self._on_batch = on_batch
        self._due: deque[_Waiting] = deque()
        self._early: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="speechrnn")
        self._costs_s: deque[float] = deque(maxlen=_N_COSTS)
        warm_up = np.zeros((_MAX_CONTEXTS, recognizer.info.spec.context_samples), dtype=np.float32)
        for _ in range(_N_WARM_UPS):
            self._costs_s.append(self._run(warm_up)[1])

    @property
    def context_s(self) -> float:
        """Processor time of one context in a batch of several, as where many wait: the median over the last of them."""
        return median(self._costs_s)

    async def __aenter__(self) -> Batcher:
        self._task = asyncio.create_task(self._run_all())
        return self

    async def __aexit__(self, *details: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for waiting in (*self._due, *self._early):
            waiting.future.cancel()
        self._executor.shutdown()

    async def posteriors(self, context: Samples, *, is_early: bool = False) -> NDArray[np.float32]:
        """Class probabilities [C] of one context [context_samples]; raises what the network raised."""
        waiting = _Waiting(context, asyncio.get_running_loop().create_future())
        (self._early if is_early else self._due).append(waiting)
        self._arrived.set()
        return await waiting.future

    async def _run_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            contexts = np.stack([waiting.context for waiting in batch])
            try:
                rows, cost_s = await loop.run_in_executor(self._executor, self._run, contexts)
            except Exception as error:
                _tell(batch, error)
                continue
            if len(batch) >= _MIN_MEASURED:
                self._costs_s.append(cost_s)
            self._on_batch(len(batch))
            for waiting, row in zip(batch, rows, strict=True):
                if not waiting.future.done():  # the client may have gone meanwhile
                    waiting.future.set_result(row)

    def _next_batch(self) -> list[_Waiting]:
        """What is run next, without the contexts of clients who have gone."""
        batch: list[_Waiting] = []
        for queue, n_most in ((self._due, _MAX_CONTEXTS), (self._early, _MAX_EARLY)):
            n_room = min(n_most, _MAX_CONTEXTS - len(batch))
            while queue and n_room:
                if not (waiting := queue.popleft()).future.done():
                    batch.append(waiting)
                    n_room -= 1
        return batch

    def _run(self, contexts: Samples) -> tuple[NDArray[np.float32], float]:
        """Posteriors [B, C], and the seconds of processor time that each context took."""
        started_s = time.thread_time()
        rows = self._recognizer.posteriors(contexts)
        return rows, (time.thread_time() - started_s) / len(contexts)


def _tell(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)
