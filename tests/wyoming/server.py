"""A Wyoming server in a thread of the tests, and what wyoming's own client says to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event, Eventable

from speechrnn.audio import Samples, to_int16
from speechrnn.recognizer import Recognizer
from speechrnn.spec import Options
from speechrnn.wyoming.server import Server, bound, parse
from tests.helpers import PATIENCE_S

LAST = ("not-detected", "transcript", "error")


class Serving:
    """A running server on a free port of this machine, or where `uri` says; `with` ends it."""

    def __init__(
        self,
        recognizer: Recognizer,
        *others: tuple[str, Recognizer, Options],
        options: Options | None = None,
        uri: str = "tcp://127.0.0.1:0",
        **bounds: Any,
    ) -> None:
        models = [("fake", recognizer, options or recognizer.info.options), *others]
        self.server = Server(models, **bounds)
        self._stack = ExitStack()
        self.listening = self._stack.enter_context(bound(parse(uri), self.server))
        self.uri = uri if uri.startswith("unix") else "tcp://{}:{}".format(*self.listening.getsockname())
        self._thread = threading.Thread(target=self.server.run, args=(self.listening,))
        self._thread.start()
        assert self.server.started.wait(PATIENCE_S)

    def stop(self) -> None:
        """Ctrl-C."""
        if self._thread.is_alive():
            self.server.stop()
            self._thread.join(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self._stack.close()

    def counted(self, how: str) -> float:
        """Streams and connections that ended so."""
        return self.server.metrics.registry.get_sample_value("speechrnn_ends_total", {"how": how}) or 0.0

    def converse(self, *said: Eventable, until: Sequence[str] = LAST, n: int = 1) -> list[Event]:
        """What is answered by the time that `n` events of the kinds `until` came, or the server has closed."""
        return asyncio.run(converse(self.uri, said, until, n))


async def converse(uri: str, said: Sequence[Eventable], until: Sequence[str] = LAST, n: int = 1) -> list[Event]:
    """What a server answers, its last answer at last; sending and receiving go on at the same time."""
    answers: list[Event] = []
    async with asyncio.timeout(PATIENCE_S), AsyncClient.from_uri(uri) as client:

        async def send() -> None:
            for event in said:
                await client.write_event(event.event())

        sending = asyncio.create_task(send())
        while sum(event.type in until for event in answers) < n and (event := await client.read_event()) is not None:
            answers.append(event)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return answers


def pcm(samples: Samples, width: int = 2) -> bytes:
    """Samples of any shape as signed little-endian PCM."""
    if width == 2:
        return to_int16(samples).tobytes()
    whole = np.clip(np.rint(samples.astype(np.float64) * 2**31), -(2**31), 2**31 - 1).astype("<i4")
    return whole.reshape(-1, 1).view(np.uint8)[:, 4 - width :].tobytes()


def audio(
    samples: Samples, rate_hz: int = 16000, width: int = 2, *, n_frames: int = 1024, start: bool = True
) -> list[Eventable]:
    """The events of a stream [T] or [T, channels], its end among them."""
    form = {"rate": rate_hz, "width": width, "channels": 1 if samples.ndim == 1 else samples.shape[1]}
    parts = np.split(samples, range(n_frames, len(samples), n_frames))
    chunks = [AudioChunk(audio=pcm(part, width), **form) for part in parts]
    return [*([AudioStart(**form)] if start else []), *chunks, AudioStop()]


def found_in(answers: Sequence[Event]) -> list[dict[str, Any]]:
    """The detections among answers, as the JSON of this package has them."""
    fields = ("label", "start_s", "end_s", "score", "decided_s")
    return [{field: event.data[field] for field in fields} for event in answers if event.type == "detection"]
