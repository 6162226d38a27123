"""One recognizer for many clients: their conversations and their recordings, within bounds, and the counters."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from speechrnn.audio import Resampler, Samples
from speechrnn.detector import Detection
from speechrnn.errors import AudioError, ConfigError
from speechrnn.recognizer import Recognizer
from speechrnn.serving import protocol, uploads
from speechrnn.serving.batching import Batcher
from speechrnn.serving.protocol import ProtocolError
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

_CLOSING_S = 2.0
_UPLOAD_S = 60.0
_MAX_UPLOADS = 4
_MAX_LOAD = 0.7
_LATE_S = 0.1
_N_RECENT = 50
_LAGS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
_ENDS = {protocol.MALFORMED: "malformed", protocol.IDLE: "idle", protocol.BROKEN: "broken", protocol.FULL: "full"}
_log = logging.getLogger(__name__)


class Metrics:
    """Counters of one server, for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clients = Gauge("speechrnn_clients", "Clients that are heard now.", registry=self.registry)
        self.capacity = Gauge("speechrnn_capacity", "Clients that can be heard at once.", registry=self.registry)
        self.ends = Counter("speechrnn_ends", "Conversations by how they ended.", ["how"], registry=self.registry)
        self.decisions = Counter("speechrnn_decisions", "Contexts that were decided.", registry=self.registry)
        self.batches = Counter("speechrnn_batches", "Runs of the network.", registry=self.registry)
        self.words = Counter("speechrnn_detections", "Keywords that were heard.", ["label"], registry=self.registry)
        self.uploads = Counter("speechrnn_uploads", "Recordings by HTTP status.", ["status"], registry=self.registry)
        self.lag = Histogram("speechrnn_lag_seconds", "Audio to answer.", buckets=_LAGS_S, registry=self.registry)


class Service:
    """What the server does; open `batcher` around its use.

    `model` is the file that the recognizer was loaded from. At most `max_clients` clients are heard at once, and no more
    than can be in real time. One that sends no step of audio or reads no answer for `idle_s` is closed.
    """

    def __init__(
        self, recognizer: Recognizer, model: Path, options: Options, *, max_clients: int = 64, idle_s: float = 20
    ) -> None:
        self.metrics = Metrics()
        self.batcher = Batcher(recognizer, lambda n_contexts: self.metrics.batches.inc())
        self._recognizer = recognizer
        self._model = model
        self._options = options
        self._n_most = max_clients
        self._idle_s = idle_s
        self._n_clients = 0
        self._recent_lags_s: deque[float] = deque(maxlen=_N_RECENT)
        self._n_uploads = 0
        self._jobs: set[asyncio.Task[uploads.Upload]] = set()
        self._one_upload = asyncio.Semaphore(1)
        self._ready = protocol.ready(model.stem, recognizer.info, options, uploads.MAX_UPLOAD_BYTES)
        KeywordSpotter(recognizer, options)  # so that options which do not fit are refused now

    @property
    def capacity(self) -> int:
        """How many can be heard in real time: no more than now if answers come late, else by what contexts cost."""
        if self._n_clients and self._recent_lags_s and median(self._recent_lags_s) > _LATE_S:
            return self._n_clients
        step_s = self._options.step_ms / 1000
        return max(1, min(self._n_most, int(_MAX_LOAD * step_s / self.batcher.context_s)))

    async def model(self, request: Request) -> Response:
        """What listens here."""
        return _json(protocol.encode(self._ready))

    async def health(self, request: Request) -> Response:
        """That the server is well, and how full."""
        return _json(msgspec.json.encode({"status": "ok", "clients": self._n_clients, "capacity": self.capacity}))

    async def counters(self, request: Request) -> Response:
        """All counters in Prometheus' text form."""
        self.metrics.clients.set(self._n_clients)
        self.metrics.capacity.set(self.capacity)
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def listen(self, websocket: WebSocket) -> None:
        """One conversation, and how it ended."""
        await websocket.accept()
        try:
            await self._converse(websocket)
            self.metrics.ends.labels("finished").inc()
        except WebSocketDisconnect:
            self.metrics.ends.labels("left").inc()
        except ProtocolError as error:
            await self._end(websocket, error)
        except Exception:
            _log.exception("a conversation failed")
            await self._end(websocket, ProtocolError(protocol.BROKEN, "something failed in the server; see its log"))

    async def _end(self, websocket: WebSocket, error: ProtocolError) -> None:
        self.metrics.ends.labels(_ENDS[error.code]).inc()
        with suppress(TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(_CLOSING_S):
                await websocket.send_text(protocol.encode(protocol.Error(str(error))))
                await websocket.close(error.code)

    async def _converse(self, websocket: WebSocket) -> None:
        try:
            async with asyncio.timeout(self._idle_s) as deadline:
                start = protocol.decode_start(await _receive(websocket))
                with self._seat():
                    await self._spot(websocket, start, deadline)
                await websocket.close()
        except TimeoutError:
            raise ProtocolError(
                protocol.IDLE, f"expected audio, and answers to be read, but nothing moved for {self._idle_s:g} s"
            ) from None

    @contextmanager
    def _seat(self) -> Iterator[None]:
        if self._n_clients >= self.capacity:
            raise ProtocolError(
                protocol.FULL, f"{self._n_clients} are being heard, which is all this server can do; try again later"
            )
        self._n_clients += 1
        try:
            yield
        finally:
            self._n_clients -= 1
            if not self._n_clients:
                self._recent_lags_s.clear()

    async def _spot(self, websocket: WebSocket, start: protocol.Start, deadline: asyncio.Timeout) -> None:
        try:
            spotter = KeywordSpotter(self._recognizer, start.options(self._options))
        except ConfigError as error:
            raise ProtocolError(protocol.MALFORMED, str(error)) from None
        resampler = Resampler(start.rate_hz, spotter.sample_rate_hz)
        await websocket.send_text(protocol.encode(self._ready))
        while isinstance(message := await _receive(websocket), bytes):
            await self._hear(websocket, spotter, resampler.push(protocol.decode_audio(message)), deadline)
        protocol.decode_finish(message)
        await self._hear(websocket, spotter, resampler.push(np.zeros(0, dtype=np.float32), last=True), deadline)
        duration_s = spotter.position_s
        found = await asyncio.get_running_loop().run_in_executor(self.batcher.executor, spotter.finish)
        self._count(found)
        await websocket.send_text(protocol.encode(protocol.Finished(duration_s, found)))

    async def _hear(
        self, websocket: WebSocket, spotter: KeywordSpotter, samples: Samples, deadline: asyncio.Timeout
    ) -> None:
        """Answer each step that these samples [T] complete; each lets the conversation live on."""
        loop = asyncio.get_running_loop()
        arrived_s = loop.time()
        for context in spotter.contexts(samples):
            posteriors = await self.batcher.posteriors(context)
            found = spotter.decide(posteriors)
            lag_s = loop.time() - arrived_s
            self.metrics.decisions.inc()
            self.metrics.lag.observe(lag_s)
            self._recent_lags_s.append(lag_s)
            self._count(found)
            shown = [round(value, 4) for value in posteriors.tolist()]
            decision = protocol.Decision(round(spotter.decided_s, 4), shown, found, round(1000 * lag_s, 1))
            await websocket.send_text(protocol.encode(decision))
            deadline.reschedule(loop.time() + self._idle_s)

    def _count(self, found: Iterable[Detection]) -> None:
        for detection in found:
            self.metrics.words.labels(detection.label).inc()

    async def transcribe(self, request: Request) -> Response:
        """Find the keywords of the recording that is the body of a request."""
        status, answer = await self._answer(request)
        self.metrics.uploads.labels(status.value).inc()
        return _json(answer, status)

    async def _answer(self, request: Request) -> tuple[HTTPStatus, bytes]:
        if self._n_uploads >= _MAX_UPLOADS:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "busy with other recordings; try again in a minute")
        self._n_uploads += 1
        try:
            return HTTPStatus.OK, msgspec.json.encode(await self._transcribe(request))
        except (ProtocolError, ConfigError) as error:
            return _refusal(HTTPStatus.BAD_REQUEST, str(error))
        except AudioError as error:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except OverflowError:
            limit_mb = uploads.MAX_UPLOAD_BYTES // 1_000_000
            return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {limit_mb} MB; send a part of it")
        except (TimeoutError, ClientDisconnect):
            return _refusal(HTTPStatus.REQUEST_TIMEOUT, f"expected the whole recording within {_UPLOAD_S:g} s")
        except InterruptedError:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the server has been ended")
        finally:
            self._n_uploads -= 1

    async def _transcribe(self, request: Request) -> uploads.Upload:
        recording = protocol.decode_upload_query(request.query_params)
        options = recording.options(self._options)
        KeywordSpotter(self._recognizer, options)  # refuses keywords that the model does not have
        with tempfile.NamedTemporaryFile(prefix="speechrnn-") as file:
            async with asyncio.timeout(_UPLOAD_S):
                n_bytes = 0
                async for part in request.stream():
                    n_bytes += len(part)
                    if n_bytes > uploads.MAX_UPLOAD_BYTES:
                        raise OverflowError
                    file.write(part)
            file.flush()
            job = asyncio.create_task(self._work(uploads.Job(file.name, recording.name, str(self._model), options)))
            self._jobs.add(job)
            try:
                await asyncio.wait([job])
            finally:
                job.cancel()
                self._jobs.discard(job)
        if job.cancelled():
            raise InterruptedError
        return job.result()

    async def _work(self, job: uploads.Job) -> uploads.Upload:
        async with self._one_upload:
            return await uploads.transcribe(job)

    def interrupt(self) -> None:
        """Give up the recordings that are being transcribed; their senders are told."""
        for job in self._jobs:
            job.cancel()


async def _receive(websocket: WebSocket) -> str | bytes:
    """The next message. Raises WebSocketDisconnect where there is none."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    text: str | None = message.get("text")
    data: bytes = message.get("bytes") or b""
    return data if text is None else text


def _json(body: str | bytes, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body, status, media_type="application/json")


def _refusal(status: HTTPStatus, message: str) -> tuple[HTTPStatus, bytes]:
    return status, msgspec.json.encode(protocol.Error(message))
