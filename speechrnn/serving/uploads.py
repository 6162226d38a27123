"""Recordings that clients send: taken in, transcribed one at a time, and answered, within bounds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import IO

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from speechrnn.errors import AudioError, ConfigError
from speechrnn.labels import Labels
from speechrnn.serving import protocol, transcription
from speechrnn.serving.metrics import Metrics
from speechrnn.serving.protocol import ProtocolError
from speechrnn.spec import Options

MAX_UPLOAD_BYTES = 50_000_000
_UPLOAD_S = 60.0
_MAX_UPLOADS = 4


class _TooLargeError(Exception):
    """More was sent than is taken in."""


class _InterruptedError(Exception):
    """The server ends before the recording was transcribed."""


class Uploads:
    """Takes recordings and gives them, one at a time, to a process of their own, which loads the model from `model`."""

    def __init__(self, model: Path, labels: Labels, options: Options, metrics: Metrics) -> None:
        self._model = model
        self._labels = labels
        self._options = options
        self._metrics = metrics
        self._n_uploads = 0
        self._jobs: set[asyncio.Task[transcription.Result]] = set()
        self._turn = asyncio.Semaphore(1)

    async def handle(self, request: Request) -> Response:
        """Answer a request whose body is a recording."""
        status, body = await self._answer(request)
        self._metrics.uploads.labels(status.value).inc()
        return Response(body, status, media_type="application/json")

    def interrupt(self) -> None:
        """Give up the recordings that are being transcribed; their senders are told."""
        for job in self._jobs:
            job.cancel()

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
        except _TooLargeError:
            limit_mb = MAX_UPLOAD_BYTES // 1_000_000
            return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {limit_mb} MB; send a part of it")
        except (TimeoutError, ClientDisconnect):
            return _refusal(HTTPStatus.REQUEST_TIMEOUT, f"expected the whole recording within {_UPLOAD_S:g} s")
        except _InterruptedError:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the server has been ended")
        finally:
            self._n_uploads -= 1

    async def _transcribe(self, request: Request) -> transcription.Result:
        query, options = self._choice(request.query_params)
        with tempfile.NamedTemporaryFile(prefix="speechrnn-") as file:
            async with asyncio.timeout(_UPLOAD_S):
                await _receive(request.stream(), file)
            return await self._run(transcription.Job(file.name, query.name, str(self._model), options))

    def _choice(self, fields: Mapping[str, str]) -> tuple[protocol.UploadQuery, Options]:
        query = protocol.decode_upload_query(fields)
        options = query.options(self._options)
        options.check_labels(self._labels)
        return query, options

    async def _run(self, job: transcription.Job) -> transcription.Result:
        task = asyncio.create_task(self._take_turn(job))
        self._jobs.add(task)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            self._jobs.discard(task)
        if task.cancelled():
            raise _InterruptedError
        return task.result()

    async def _take_turn(self, job: transcription.Job) -> transcription.Result:
        async with self._turn:
            return await transcription.run(job)


async def _receive(parts: AsyncIterator[bytes], file: IO[bytes]) -> None:
    n_bytes = 0
    async for part in parts:
        n_bytes += len(part)
        if n_bytes > MAX_UPLOAD_BYTES:
            raise _TooLargeError
        file.write(part)
    file.flush()


def _refusal(status: HTTPStatus, message: str) -> tuple[HTTPStatus, bytes]:
    return status, msgspec.json.encode(protocol.Error(message))
