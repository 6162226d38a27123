"""The keywords, waveform and files of one recording, made by a process of its own with bounds."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from speechrnn.audio import Samples
from speechrnn.decoding import open_audio
from speechrnn.detector import Detection
from speechrnn.errors import AudioError, SpeechRnnError
from speechrnn.formats import FORMATS, Transcript
from speechrnn.listening import spot
from speechrnn.recognizer import load
from speechrnn.sources import FileSource
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

MAX_DURATION_S = 3600.0
MAX_WORK_S = 90.0
_RATES_HZ = (1000, 384000)
_MAX_CHANNELS = 32
_MAX_PEAKS = 4000
_PEAKS_PER_S = 100
_PROGRAM = (  # in the same modules as this process, wherever it has found them
    f"import sys; descriptor, sys.path = int(sys.argv[1]), sys.argv[2:]; from {__name__} import main; main(descriptor)"
)
_OFFERED_FORMATS = ("json", "vtt", "audacity")


class Job(msgspec.Struct, frozen=True):
    """What its sender calls a recording, and how to search it."""

    name: str
    """Name of the recording."""
    model: str
    """The model file."""
    options: Options
    """How the model decides."""


class FailedError(Exception):
    """The program that should transcribe could not."""


class Result(msgspec.Struct, frozen=True, tag="result"):
    """Detections in a recording, its waveform as `peaks` in [0, 1] of equally long stretches, and files to keep."""

    name: str
    """Name of the recording."""
    duration_s: float
    """Its length in s."""
    detections: tuple[Detection, ...]
    """The detections in order of time."""
    peaks: list[float]
    """Largest absolute values in [0, 1] of equally long stretches."""
    files: dict[str, str]
    """Transcripts as text, by format."""


class _Problem(msgspec.Struct, frozen=True, tag="problem"):
    message: str


class Peaks:
    """The largest absolute value in each hundredth of a second of a stream."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._size = sample_rate_hz // _PEAKS_PER_S
        self._rest = np.zeros(0, dtype=np.float32)
        self._parts: list[Samples] = []

    def push(self, block: Samples) -> None:
        """Take the next samples [T]."""
        samples = np.concatenate([self._rest, np.abs(block)])
        n_whole = len(samples) // self._size
        self._parts.append(samples[: n_whole * self._size].reshape(n_whole, self._size).max(axis=1, initial=0))
        self._rest = samples[n_whole * self._size :]

    def values(self, max_values: int) -> list[float]:
        """The waveform so far as at most `max_values` values in [0, 1]."""
        parts = [*self._parts, self._rest.max(keepdims=True)] if len(self._rest) else self._parts
        peaks = np.concatenate(parts) if parts else self._rest
        size = max(1, -(-len(peaks) // max_values))
        padded = np.pad(peaks, (0, -len(peaks) % size)).reshape(-1, size)
        return [round(min(1.0, float(value)), 3) for value in padded.max(axis=1, initial=0)]


async def run(job: Job, recording: IO[bytes]) -> Result:
    """Do a job in another process, which is ended with the task that waits for it, and ends with the server.

    Raises AudioError if the recording is unreadable, too long, or takes more than `MAX_WORK_S`; FailedError.
    """
    recording.seek(0)
    descriptor = recording.fileno()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _PROGRAM, str(descriptor), *(path or str(Path.cwd()) for path in sys.path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
    except OSError as error:
        raise FailedError(f"cannot start a process ({error.strerror})") from None
    try:
        async with asyncio.timeout(MAX_WORK_S):
            code, output, log = await _answer(process, job)
    except TimeoutError:
        raise AudioError(f"{job.name}: took more than {MAX_WORK_S:g} s to transcribe; send a part of it") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code < 0:
        raise AudioError(f"{job.name}: not readable as audio; it ended the program that tried")
    if code > 0:
        raise FailedError(log.decode(errors="replace").strip().rpartition("\n")[-1])
    answer = msgspec.json.decode(output, type=Result | _Problem)
    if isinstance(answer, _Problem):
        raise AudioError(answer.message)
    return answer


async def _answer(process: asyncio.subprocess.Process, job: Job) -> tuple[int, bytes, bytes]:
    """Exit code, output and log of the process. Its input stays open: by that it knows that the server lives."""
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(msgspec.json.encode(job) + b"\n")
    output, log = await asyncio.gather(process.stdout.read(), process.stderr.read())
    return await process.wait(), output, log


def main(descriptor: int) -> None:
    """The other process: a job on standard input, its answer on standard output. It gives way to those who are live."""
    os.nice(10)
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    threading.Thread(target=_end_with_server, daemon=True).start()
    path = Path(f"/dev/fd/{descriptor}")
    try:
        answer: Result | _Problem = _transcribe(path, job.name, job.model, job.options)
    except SpeechRnnError as error:
        answer = _Problem(str(error).replace(str(path), job.name))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def _end_with_server() -> None:
    """Exit when the other end of standard input is closed, as the system does for a server that was killed."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _transcribe(path: Path, name: str, model: str, options: Options) -> Result:
    _check_header(path, name)
    spotter = KeywordSpotter(load(model), options)
    peaks, found = Peaks(spotter.sample_rate_hz), []
    with FileSource(path) as source:
        for step in spot(source.blocks(spotter.sample_rate_hz), spotter):
            found += step.detections
            peaks.push(step.block)
            _check_length(step.position_s, name)
        duration_s = source.duration_s or 0.0
    transcript = Transcript(name, duration_s, tuple(found))
    files = {kind: FORMATS[kind]([transcript]) for kind in _OFFERED_FORMATS}
    return Result(name, duration_s, transcript.detections, peaks.values(_MAX_PEAKS), files)


def _check_header(path: Path, name: str) -> None:
    """Refuse what would need much memory or time, before any of it is decoded."""
    with open_audio(path) as file:
        duration_s = file.duration_s or 0.0
        if not _RATES_HZ[0] <= file.rate_hz <= _RATES_HZ[1] or file.n_channels > _MAX_CHANNELS:
            raise AudioError(
                f"{name}: expected {_RATES_HZ[0]} to {_RATES_HZ[1]} Hz and at most {_MAX_CHANNELS} channels, "
                f"got {file.rate_hz} Hz and {file.n_channels}; convert it"
            )
        _check_length(duration_s, name)


def _check_length(duration_s: float, name: str) -> None:
    if duration_s > MAX_DURATION_S:
        raise AudioError(
            f"{name}: expected at most {MAX_DURATION_S / 60:g} minutes, got {duration_s / 60:.0f}; "
            "use the command: speechrnn transcribe"
        )
