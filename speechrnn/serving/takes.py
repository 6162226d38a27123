"""Takes of own words that the page records: judged as `speechrnn record` judges them, and given back as files."""

from __future__ import annotations

import asyncio
import io
from http import HTTPStatus

import numpy as np
import soundfile

from speechrnn.audio import Resampler, Samples, to_int16
from speechrnn.clients.ends import ProtocolError
from speechrnn.serving import protocol
from speechrnn.serving.http1 import Http, HttpError, Request, Response
from speechrnn.teaching.judging import Refused, judge

MAX_TAKE_S = 5
"""Length of audio in s that is taken at most."""
_RATE_HZ = 16000  # of the files, as `speechrnn record` writes them
_MAX_TAKES = 4
_TAKE_S = 20.0


class Takes:
    """Judges takes, a few at a time; nothing of them is kept."""

    def __init__(self) -> None:
        self._n_takes = 0

    async def handle(self, http: Http, request: Request) -> Response:
        """The word of a take as a file. Raises HttpError for one that will not do, GoneError if its sender leaves."""
        if self._n_takes >= _MAX_TAKES:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "busy with other takes; try again")
        self._n_takes += 1
        http.connection.is_kept = True
        try:
            query = protocol.decode_take_query(request.query)
            async with asyncio.timeout(_TAKE_S):
                samples = protocol.decode_audio(await _received(http, 2 * MAX_TAKE_S * query.rate_hz))
            return await asyncio.to_thread(_judged, samples, query.rate_hz)
        except ProtocolError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None
        except TimeoutError:
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, f"expected the whole take within {_TAKE_S:g} s") from None
        finally:
            http.connection.is_kept = False
            self._n_takes -= 1


async def _received(http: Http, max_bytes: int) -> bytes:
    body = bytearray()
    async for part in http.body():
        body += part
        if len(body) > max_bytes:
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MAX_TAKE_S} s of audio")
    return bytes(body)


def _judged(samples: Samples, rate_hz: int) -> Response:
    """The word of a take [T] as a WAV file. Raises HttpError with the reason if it is not to be kept."""
    word = judge(Resampler(rate_hz, _RATE_HZ).push(samples, last=True), _RATE_HZ)
    if isinstance(word, Refused):
        raise HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, word.reason)
    file = io.BytesIO()
    soundfile.write(file, np.ascontiguousarray(to_int16(word)), _RATE_HZ, format="WAV")
    return Response(file.getvalue(), "audio/wav")
