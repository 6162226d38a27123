"""Recordings that clients send: taken in, transcribed one at a time, and answered, within bounds."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import IO

import msgspec

from speechrnn.clients.admission import Metrics
from speechrnn.clients.connections import GoneError
from speechrnn.clients.ends import ProtocolError
from speechrnn.errors import AudioError, ConfigError
from speechrnn.labels import Labels
from speechrnn.serving import protocol, transcription
from speechrnn.serving.http1 import Http, HttpError, Request, Response
from speechrnn.spec import Options

MAX_UPLOAD_BYTES = 50_000_000
_UPLOAD_S = 60.0
_MAX_UPLOADS = 4
_log = logging.getLogger(__name__)


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

    async def handle(self, http: Http, request: Request) -> Response:
        """Answer a request whose body is a recording. Raises HttpError, and GoneError if its sender leaves."""
        try:
            result = await self._answer(http, request)
        except HttpError as error:
            self._metrics.uploads.labels(error.status.value).inc()
            raise
        except GoneError:
            self._metrics.uploads.labels("left").inc()
            raise
        self._metrics.uploads.labels(HTTPStatus.OK.value).inc()
        return Response(msgspec.json.encode(result))

    def interrupt(self) -> None:
        """Give up the recordings that are being transcribed; their senders are told."""
        for job in self._jobs:
            job.cancel()

    async def _answer(self, http: Http, request: Request) -> transcription.Result:
        if self._n_uploads >= _MAX_UPLOADS:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "busy with other recordings; try again in a minute")
        self._n_uploads += 1
        http.connection.is_kept = True
        try:
            return await self._transcribe(http, request)
        except (ProtocolError, ConfigError) as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None
        except AudioError as error:
            raise HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        except TimeoutError:
            raise HttpError(
                HTTPStatus.REQUEST_TIMEOUT, f"expected the whole recording within {_UPLOAD_S:g} s"
            ) from None
        except _InterruptedError:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "the server has been ended") from None
        except OSError as error:
            _log.error("a recording cannot be kept: %s", error)
            raise HttpError(
                HTTPStatus.INSUFFICIENT_STORAGE, "the server has no room for the recording; try again later"
            ) from None
        except transcription.FailedError as error:
            _log.error("a recording cannot be transcribed: %s", error)
            raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "something failed in the server; see its log") from None
        finally:
            http.connection.is_kept = False
            self._n_uploads -= 1

    async def _transcribe(self, http: Http, request: Request) -> transcription.Result:
        query = protocol.decode_upload_query(request.query)
        options = query.options(self._options)
        options.check_labels(self._labels)
        with tempfile.TemporaryFile(prefix="speechrnn-") as file:  # which has no name that could outlive the server
            async with asyncio.timeout(_UPLOAD_S):
                await _receive(http.body(), file)
            job = transcription.Job(query.name, str(self._model), options)
            return await self._run(http, job, file)

    async def _run(self, http: Http, job: transcription.Job, file: IO[bytes]) -> transcription.Result:
        """Wait for the result, or for the sender to leave."""
        task = asyncio.create_task(self._take_turn(job, file))
        left = asyncio.create_task(http.left())
        self._jobs.add(task)
        try:
            await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._jobs.discard(task)
            await _end(left)
            is_done = task.done()
            await _end(task)
        if not is_done:
            raise GoneError
        if task.cancelled():
            raise _InterruptedError
        return task.result()

    async def _take_turn(self, job: transcription.Job, file: IO[bytes]) -> transcription.Result:
        async with self._turn:
            return await transcription.run(job, file)


async def _end(task: asyncio.Task[object]) -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.wait((task,))


async def _receive(parts: AsyncIterator[bytes], file: IO[bytes]) -> None:
    n_bytes = 0
    async for part in parts:
        n_bytes += len(part)
        if n_bytes > MAX_UPLOAD_BYTES:
            limit_mb = MAX_UPLOAD_BYTES // 1_000_000
            message = f"expected at most {limit_mb} MB; send a part of it"
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        file.write(part)
    file.flush()
