"""Where audio comes from: blocks of mono float32 at the rate that is asked for, whatever lies behind."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import LiveMixer, Resampler, Samples, check_samples, from_int16, resampled
from speechrnn.decoding import log_notes, open_audio
from speechrnn.errors import AudioError, DeviceError, missing_extra

_MAGIC = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64"), "WAV"),
    b"FORM": "AIFF",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b".snd": "AU",
    b"caff": "CAF",
    b"\x1aE\xdf\xa3": "WebM",
}
_LOST_AFTER_S = 2.0
_RETRY_EVERY_S = 1.0


class AudioSource(ABC):
    """A stream of mono audio, which tells its own rate and is asked for another.

    For a source of your own, derive from this, set `sample_rate_hz`, and yield its audio in `native_blocks`.
    `duration_s` is None where the end is not known beforehand.
    """

    name: str = "audio"
    sample_rate_hz: int
    duration_s: float | None = None

    @abstractmethod
    def native_blocks(self) -> Iterator[Samples]:
        """Yield the audio once, as float32 [T] in [-1, 1] at `sample_rate_hz`.

        T is any length; 0 where a live source has nothing for a while, so that who listens can stop.
        """

    def blocks(self, rate_hz: int) -> Iterator[Samples]:
        """Yield the audio once, as float32 [T] in [-1, 1] at `rate_hz`, resampled where the source has another rate."""
        return resampled(self.native_blocks(), self.sample_rate_hz, rate_hz)

    def close(self) -> None:  # noqa: B027 (most sources hold nothing)
        """Release the file or device, if there is one; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class ArraySource(AudioSource):
    """Samples in memory, float32 [T] in [-1, 1] at `sample_rate_hz`, in blocks of `block_samples`.

    Raises AudioError for samples of another type or shape, and for values that are not finite.
    """

    def __init__(self, samples: Samples, sample_rate_hz: int, *, block_samples: int = 16000) -> None:
        self.name = "array"
        self.sample_rate_hz = sample_rate_hz
        self.duration_s = len(samples) / sample_rate_hz
        self._samples = check_samples(samples, "array")
        self._block_samples = block_samples

    def native_blocks(self) -> Iterator[Samples]:
        """Yield the samples in order."""
        for start in range(0, len(self._samples), self._block_samples):
            yield self._samples[start : start + self._block_samples]


class FileSource(AudioSource):
    """An audio file of any length, rate and channel count that libsndfile or FFmpeg reads, about a second at a time.

    `duration_s` is what the header says, None if nothing, and exact once all has been read. Raises AudioError on
    construction if the file is missing or no audio, and DamagedAudioError after its last sample if some are missing.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.name = path.name
        self._file = open_audio(path)
        self.sample_rate_hz = self._file.rate_hz
        self.duration_s = self._file.duration_s

    def native_blocks(self) -> Iterator[Samples]:
        """Yield the file from its beginning, its channels mixed to mono."""
        return self.blocks(self.sample_rate_hz)

    def blocks(self, rate_hz: int) -> Iterator[Samples]:
        """Yield the file from its beginning at `rate_hz`. What was mended is logged at the end."""
        try:
            yield from self._file.blocks(rate_hz)
        finally:
            self.duration_s = self._file.duration_s
            log_notes(self._file.path, self._file.notes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PipeSource(AudioSource):
    """Raw 16-bit little-endian PCM at `sample_rate_hz` from a pipe, such as standard input, as it arrives.

    Raises AudioError if a file with a header comes, such as a WAV, for its samples would be taken at a wrong rate.
    """

    def __init__(self, pipe: IO[bytes], sample_rate_hz: int, *, channels: int = 1) -> None:
        self.name = "pipe"
        self.sample_rate_hz = sample_rate_hz
        self._pipe = pipe
        self._channels = channels

    def native_blocks(self) -> Iterator[Samples]:
        """Yield what has arrived, at most a tenth of a second at a time, until the pipe is closed."""
        frame_bytes, mixer = 2 * self._channels, LiveMixer(self.sample_rate_hz)
        first = rest = b""
        while data := os.read(self._pipe.fileno(), frame_bytes * self.sample_rate_hz // 10):
            if len(first) < 4:
                first = (first + data)[:4]
                self._check_raw(first)
            data = rest + data
            whole = len(data) - len(data) % frame_bytes
            rest = data[whole:]
            if whole:
                yield mixer.push(from_int16(np.frombuffer(data[:whole], dtype="<i2").reshape(-1, self._channels)))

    def _check_raw(self, first: bytes) -> None:
        if first in _MAGIC:
            raise AudioError(
                f"{self.name}: expected raw 16-bit samples, got a file with a header ({_MAGIC[first]}); "
                "leave it out (arecord -t raw, ffmpeg -f s16le), or use: speechrnn transcribe -"
            )


class RealTimeSource(AudioSource):
    """Another source at the speed of the sound: each block comes when a microphone would have recorded its end."""

    def __init__(self, source: AudioSource) -> None:
        self._source = source
        self.name = source.name
        self.sample_rate_hz = source.sample_rate_hz
        self.duration_s = source.duration_s

    def native_blocks(self) -> Iterator[Samples]:
        """Yield the blocks of the other source, cut to a tenth of a second."""
        size = self.sample_rate_hz // 10
        started, n_samples = time.monotonic(), 0
        for block in self._source.native_blocks():
            for part in np.split(block, range(size, len(block), size)):
                n_samples += len(part)
                time.sleep(max(0.0, started + n_samples / self.sample_rate_hz - time.monotonic()))
                yield part

    def close(self) -> None:
        """Close the other source."""
        self._source.close()


class Microphone(AudioSource):
    """A microphone through PortAudio, opened at the rate it offers, its channels mixed, unless they cancel each other.

    `device` is a number or a part of a name, the default input for None. The audio callback copies into a bounded
    queue of `queue_s` and does nothing else. Samples that the consumer was too slow for are counted in
    `n_dropped_samples` and replaced by silence of the same length, so that times stay true. If the
    device goes away, `on_event` is told, and the stream goes on when it is back and free; its clock stands still
    meanwhile, and blocks are empty. Raises DeviceError if there is no such device, it is busy, or PortAudio is not
    installed: only a device that was opened once is waited for.
    """

    def __init__(
        self,
        *,
        device: str | int | None = None,
        queue_s: float = 5.0,
        on_event: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._dropped_s = 0.0
        self._device = device
        self._queue_s = queue_s
        self._on_event = on_event
        self._sounddevice = _import_sounddevice()
        self._closed = False
        self._stream: Any = None
        self._open()
        self.sample_rate_hz = self._opened_hz

    @property
    def n_dropped_samples(self) -> int:
        """Samples at `sample_rate_hz` that were replaced by silence, since the consumer was too slow for them."""
        return round(self._dropped_s * self.sample_rate_hz)

    def _open(self) -> None:
        sounddevice = self._sounddevice
        try:
            info = sounddevice.query_devices(self._device, kind="input")
        except (sounddevice.PortAudioError, ValueError) as error:
            asked = "no microphone found" if self._device is None else f"microphone {self._device}"
            raise DeviceError(f"{asked} ({_reason(error)}); see the inputs with: speechrnn devices") from None
        self._opened_hz = int(info["default_samplerate"])
        self.name = str(info["name"])
        self._queue: queue.Queue[tuple[int, NDArray[np.float32]]] = queue.Queue(maxsize=int(self._queue_s * 50))
        self._n_missed = 0
        try:
            self._stream = sounddevice.InputStream(
                device=self._device,
                samplerate=self._opened_hz,
                channels=min(2, int(info["max_input_channels"])),
                blocksize=self._opened_hz // 50,
                dtype="float32",
                callback=self._receive,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            self._abort()
            raise DeviceError(
                f"microphone {self.name}: cannot be opened ({_reason(error)}); "
                "end the program that uses it, or choose another from: speechrnn devices"
            ) from None

    def _receive(self, data: NDArray[np.float32], n_frames: int, times: object, status: Any) -> None:
        """Called by PortAudio's own thread."""
        try:
            self._queue.put_nowait((self._n_missed, data.copy()))
            self._n_missed = 0
        except queue.Full:
            self._n_missed += n_frames
            self._dropped_s += n_frames / self._opened_hz

    def native_blocks(self) -> Iterator[Samples]:
        """Yield what the microphone records until the source is closed, at the rate of the first opening."""
        (resampler, mixer), is_gone = self._converters(), False
        while not self._closed:
            try:
                n_missed, data = self._queue.get(timeout=_LOST_AFTER_S)
            except queue.Empty:
                if self._closed:
                    return
                if not is_gone:
                    self._on_event(f"{self.name}: the microphone is gone; waiting for it to come back")
                is_gone = True
                yield from self._reopen()
                resampler, mixer = self._converters()
                continue
            if is_gone:  # said when there is sound again, for a device may open and stay mute a while
                self._on_event(f"{self.name}: the microphone is back")
                is_gone = False
            for part in (np.zeros(n_missed, dtype=np.float32), self._mixed(data, mixer)):
                block = resampler.push(part)
                if len(block):
                    yield block

    def _converters(self) -> tuple[Resampler, LiveMixer]:
        return Resampler(self._opened_hz, self.sample_rate_hz), LiveMixer(self._opened_hz)

    def _mixed(self, data: NDArray[np.float32], mixer: LiveMixer) -> Samples:
        had_cancelled, mixed = mixer.has_cancelled, mixer.push(data)
        if mixer.has_cancelled and not had_cancelled:
            self._on_event(f"{self.name}: its channels cancel each other; from here on one alone is taken")
        return mixed

    def _reopen(self) -> Iterator[Samples]:
        """Wait until the device can be opened again, and yield an empty block before each attempt."""
        while not self._closed:
            yield np.zeros(0, dtype=np.float32)
            self._abort()
            try:
                self._sounddevice._terminate()  # PortAudio lists devices only when it starts
                self._sounddevice._initialize()
                self._open()
            except (DeviceError, self._sounddevice.PortAudioError):
                time.sleep(_RETRY_EVERY_S)
                continue
            return

    def _abort(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(self._sounddevice.PortAudioError):
                stream.abort()
                stream.close()

    def close(self) -> None:
        """Stop listening and release the device."""
        self._closed = True
        self._abort()


def open_source(
    source: AudioSource | str | Path | None = None,
    *,
    device: str | int | None = None,
    pipe_rate_hz: int = 16000,
    on_event: Callable[[str], None] = lambda message: None,
) -> AudioSource:
    """A source from what a user says: an audio file, "-" for raw PCM on standard input, None for the microphone.

    A source is given back as it is. Raises AudioError for a file and DeviceError for a microphone that cannot be used.
    """
    if isinstance(source, AudioSource):
        return source
    if source is None:
        return Microphone(device=device, on_event=on_event)
    if source != "-":
        return FileSource(source)
    if sys.stdin is None:
        raise AudioError("-: standard input is closed; pipe raw audio into it")
    return PipeSource(sys.stdin.buffer, pipe_rate_hz)


def input_devices() -> list[dict[str, Any]]:
    """Each input as `index`, `name`, `channels`, `rate_hz` and `default`. Raises DeviceError without PortAudio."""
    sounddevice = _import_sounddevice()
    default = sounddevice.default.device[0]
    return [
        {
            "index": index,
            "name": str(info["name"]),
            "channels": int(info["max_input_channels"]),
            "rate_hz": int(info["default_samplerate"]),
            "default": index == default,
        }
        for index, info in enumerate(sounddevice.query_devices())
        if info["max_input_channels"] > 0
    ]


def _import_sounddevice() -> Any:
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise DeviceError(f"the microphone cannot be used, for {missing_extra(error.name)}") from None
    except OSError:
        raise DeviceError("the microphone needs PortAudio; on Debian: apt-get install libportaudio2") from None
    return sounddevice


def _reason(error: Exception) -> str:
    """The words of a PortAudio error without its code."""
    return str(error).split(" [")[0].replace("\n", " ") or type(error).__name__
