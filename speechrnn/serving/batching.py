"""The contexts of many spotters in one run of the network, while the event loop goes on."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.recognizer import Recognizer

_MAX_CONTEXTS = 16
_N_WARM_UPS = 3
_N_REMEMBERED = 50


class Batcher:
    """Runs whatever contexts wait as one batch in a thread of its own, then the next; open it with `async with`.

    `on_batch` is told the size of each batch that was run.
    """

    def __init__(self, recognizer: Recognizer, on_batch: Callable[[int], None] = lambda n_contexts: None) -> None:
        self._recognizer = recognizer
        self._on_batch = on_batch
        self._waiting: list[tuple[Samples, asyncio.Future[NDArray[np.float32]]]] = []
        self._arrived = asyncio.Event()
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="speechrnn")
        self._costs_s: deque[float] = deque(maxlen=_N_REMEMBERED)
        warm_up = np.zeros((_MAX_CONTEXTS, recognizer.info.spec.context_samples), dtype=np.float32)
        for _ in range(_N_WARM_UPS):
            self._costs_s.append(self._run(warm_up)[1])

    @property
    def context_s(self) -> float:
        """What one context has cost of late: the median over batches, which a hiccup of the machine does not move."""
        return median(self._costs_s)

    async def __aenter__(self) -> Batcher:
        self._task = asyncio.create_task(self._run_all())
        return self

    async def __aexit__(self, *details: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self.executor.shutdown()

    async def posteriors(self, context: Samples) -> NDArray[np.float32]:
        """Class probabilities [C] of one context [context_samples]; raises what the network raised."""
        future: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._waiting.append((context, future))
        self._arrived.set()
        return await future

    async def _run_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:_MAX_CONTEXTS], self._waiting[_MAX_CONTEXTS:]
            if not self._waiting:
                self._arrived.clear()
            contexts = np.stack([context for context, _ in batch])
            try:
                rows, cost_s = await loop.run_in_executor(self.executor, self._run, contexts)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._costs_s.append(cost_s)
            self._on_batch(len(batch))
            for future, row in zip((future for _, future in batch), rows, strict=True):
                if not future.done():  # the client may have gone meanwhile
                    future.set_result(row)

    def _run(self, contexts: Samples) -> tuple[NDArray[np.float32], float]:
        """Posteriors [B, C], and the seconds that each context took."""
        started = time.perf_counter()
        rows = self._recognizer.posteriors(contexts)
        return rows, (time.perf_counter() - started) / len(contexts)
