"""From files to samples: every sample that is in a file, once, in order, and one line where some are missing.

The kind of a file is told from its content, never from its name. libsndfile decodes what it decodes exactly, FFmpeg the
rest. A decoder is never sought, so it keeps its state; lengths in headers are hints, and files are read to their end.
"""

from __future__ import annotations

import io
import logging
import mmap
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Protocol, Self, TextIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speechrnn.audio import MAX_LEVEL, Mixer, Resampler, Samples, integer_scale
from speechrnn.containers import Part, parts_of
from speechrnn.errors import AudioError, DamagedAudioError, MissingAudioError, first_line

AUDIO_SUFFIXES = frozenset(
    {
        *(".wav", ".wave", ".rf64", ".bwf", ".w64", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf"),
        *(".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".aac", ".amr", ".wma"),
        *(".mp4", ".mov", ".3gp", ".webm", ".mkv", ".mka"),
    }
)
"""Of what the walk through a folder takes; of a file that is named, only its content counts."""
STANDARD_INPUT = Path("-")
Block = tuple[int, NDArray[np.float32]]
"""A rate in Hz, and samples [T, channels] at that rate."""
_LOGGER = logging.getLogger(__name__)
_AGAIN = "copy or record it again"
_RATES_HZ = range(1_000, 1_000_001)
_MAX_VALUES = 2**16  # of a block, whatever rate and channels a header gives
_ENDLESS = 2**62  # libsndfile's count of frames where a header gives none
_TOLERANCE_S = 0.01  # between the length that a header gives and what FFmpeg decodes
_TOLERANCES_S = {"ogg": 0.03, "matroska,webm": 0.03}  # where the header counts the delay of the codec, too
_MAX_PLANES = 8
_CHECKED = ("flac", "tta", "wavpack")  # codecs whose packets have a checksum, which FFmpeg looks at if it is told to
_EVEN = ("ac3", "eac3", "mp2", "mp2float")  # whose files have no header that gives their length
_PADDING_BYTES = 2
_RAW = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_LITTLE_ENDIAN = ("WAV", "WAVEX", "RF64", "W64")
_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,eac3,flac,flv,gsm,latm,loas,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,"
    "tak,tta,voc,w64,wav,wv"
)
"""Those of FFmpeg that read audio, and nothing but the file that they are given: no playlists, no other files."""
_STATING = ("ape", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "ogg", "tta", "wv")
"""Those whose headers count what is in the file. The length of others is estimated from the rate of their bits."""


class _Decoder(Protocol):
    """A recording while it is decoded. `problem` says what is missing, and is whole when its blocks are."""

    rate_hz: int
    n_channels: int
    duration_s: float | None
    stores_floats: bool
    problem: str

    def blocks(self) -> Iterator[Block]: ...

    def close(self) -> None: ...


class AudioFile:
    """A file that is being read. Its `notes` say what was mended without a loss, its `problem` what is missing.

    They are whole once all blocks have been read; so is `duration_s`, which before is what the header says, None if it
    says nothing.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self.notes: list[str] = []
        self.problem = ""
        self._file = file
        try:
            self._parts = _parts(self._file)
            self._decoder = self._open(self._parts[0])
        except BaseException:
            self._file.close()
            raise
        self.rate_hz = self._decoder.rate_hz
        self.n_channels = self._decoder.n_channels
        self.duration_s = self._decoder.duration_s if len(self._parts) == 1 else None

    def _open(self, part: Part) -> _Decoder:
        return _open_part(self._file, part, str(self.path))

    def blocks(self, rate_hz: int | None = None) -> Iterator[Samples]:
        """Yield the samples once, mono [T], at `rate_hz` or that of the file.

        Raises DamagedAudioError after the last of them if some are missing, AudioError if there are none at all.
        """
        problems = _Problems()
        yield from self._mono_blocks(rate_hz or self.rate_hz, problems)
        self.problem = "; ".join(problems.lines())
        if not self.duration_s:
            raise AudioError(f"{self.path}: {self.problem or 'expected audio, got a file with no samples'}")
        if self.problem:
            raise DamagedAudioError(f"{self.path}: {self.problem}; {_AGAIN}")

    def _mono_blocks(self, to_hz: int, problems: _Problems) -> Iterator[Samples]:
        """Mix and resample, anew where the rate or the channels change within the file."""
        kind, mixer, resampler = (0, 0), Mixer(1, 1), Resampler(1, 1)
        duration_s = Fraction(0)
        for from_hz, block in self._decoded(problems):
            duration_s += Fraction(len(block), from_hz)
            if kind != (from_hz, block.shape[1]):
                yield from self._finished(mixer, resampler)
                kind, mixer, resampler = (
                    (from_hz, block.shape[1]),
                    Mixer(from_hz, block.shape[1]),
                    Resampler(from_hz, to_hz),
                )
            yield from _some(resampler.push(mixer.push(block)))
        self.duration_s = float(duration_s)
        yield from self._finished(mixer, resampler)

    def _finished(self, mixer: Mixer, resampler: Resampler) -> Iterator[Samples]:
        yield from _some(resampler.push(mixer.finish(), last=True))
        if mixer.cancelled_s:
            self.notes.append(f"its channels cancel each other for {mixer.cancelled_s:.1f} s: one alone is taken there")

    def _decoded(self, problems: _Problems) -> Iterator[Block]:
        """The blocks of all parts, with values that samples can have."""
        for number, part in enumerate(self._parts):
            try:
                decoder = self._open(part) if number else self._decoder
                scale = self._scale(decoder, part)
            except AudioError:
                self.notes.append(f"{part.end - part.start} bytes within it are no audio")
                continue
            with closing(decoder):
                for rate_hz, block in decoder.blocks():
                    with np.errstate(invalid="ignore"):  # what is not finite is told and mended
                        scaled = block / np.float32(scale) if scale != 1 else block
                    yield rate_hz, problems.mend(scaled)
                problems.add(part.problem or decoder.problem)
                self.notes += [part.note] if part.note else []

    def _scale(self, decoder: _Decoder, part: Part) -> float:
        """What to divide by where a file of floats holds integers, which all of it must be read for."""
        if not decoder.stores_floats:
            return 1.0
        with closing(self._open(part)) as first_look:
            scale = integer_scale(block for _, block in first_look.blocks())
        if scale != 1:
            self.notes.append(f"its floating-point samples reach far beyond 1; they are divided by {scale:.0f}")
        return scale

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()
        self._file.close()

    def __del__(self) -> None:
        self._file.close()  # quietly, for a source may be dropped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _some(block: Samples) -> Iterator[Samples]:
    if len(block):
        yield block


class _Problems:
    """What is missing or wrong in a file, counted while it is read."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._n_not_finite = 0
        self._n_far = 0

    def add(self, line: str) -> None:
        if line:
            self._lines.append(line)

    def mend(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Silence in place of what is no number, and no value far out of range."""
        if np.abs(block).max(initial=0) <= MAX_LEVEL:  # false for NaN
            return block
        is_finite = np.isfinite(block)
        self._n_not_finite += block.size - int(is_finite.sum())
        block = np.where(is_finite, block, 0)
        self._n_far += int((np.abs(block) > MAX_LEVEL).sum())
        return np.clip(block, -MAX_LEVEL, MAX_LEVEL)

    def lines(self) -> list[str]:
        counted = [
            (self._n_not_finite, "samples are not finite (NaN or infinity); silence is in their place"),
            (self._n_far, f"samples are far out of the range of -1 to 1; they are cut off at {MAX_LEVEL}"),
        ]
        return self._lines + [f"{n} {what}" for n, what in counted if n]


class Recording(NamedTuple):
    """A whole file: its mono samples [T] at the rate that was asked for.

    `rate_hz` and `n_channels` are those of the file, `notes` say what was mended, `problem` what is missing or wrong.
    """

    samples: Samples
    """Mono samples [T] at the rate that was asked for."""
    rate_hz: int
    """Rate of the file in Hz."""
    n_channels: int
    """Channels of the file."""
    notes: tuple[str, ...]
    """What was mended."""
    problem: str
    """What is missing or wrong; empty if nothing is."""


def read_recording(path: Path, sample_rate_hz: int) -> Recording:
    """A whole audio file at `sample_rate_hz`, also if it is damaged. Raises AudioError where nothing can be read."""
    with open_audio(path) as file:
        blocks = [np.zeros(0, dtype=np.float32)]
        with suppress(DamagedAudioError):
            blocks.extend(file.blocks())
        samples = np.concatenate(blocks)
        if file.rate_hz != sample_rate_hz:
            samples = np.asarray(soxr.resample(samples, file.rate_hz, sample_rate_hz), dtype=np.float32)
        return Recording(samples, file.rate_hz, file.n_channels, tuple(file.notes), file.problem)


def read(path: Path, sample_rate_hz: int) -> Samples:
    """A whole audio file as mono float32 [T] at `sample_rate_hz`.

    What was mended is logged. Raises AudioError as `open_audio` does, DamagedAudioError if samples are missing.
    """
    recording = read_recording(path, sample_rate_hz)
    if recording.problem:
        raise DamagedAudioError(f"{path}: {recording.problem}; {_AGAIN}")
    log_notes(path, recording.notes)
    return recording.samples


def log_notes(path: Path, notes: Iterable[str]) -> None:
    """Tell what was mended in a file."""
    for note in notes:
        _LOGGER.warning("%s: %s", path, note)


def open_audio(path: Path) -> AudioFile:
    """Open an audio file for reading; "-" is standard input, which may be of any kind, too.

    Raises AudioError if it is missing, empty, or cannot be read as audio.
    """
    try:
        file = _spooled(sys.stdin) if path == STANDARD_INPUT else _opened(path)
        if not os.fstat(file.fileno()).st_size:
            file.close()
            raise AudioError(f"{path}: expected audio, got an empty file")
        return AudioFile(path, file)
    except FileNotFoundError:
        raise MissingAudioError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{path}: cannot be read ({_reason(error)})") from None


def _opened(path: Path) -> IO[bytes]:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise AudioError(f"{path}: expected an audio file, got a folder")
    if not stat.S_ISREG(mode):
        raise AudioError(
            f"{path}: expected a file, got a pipe or a device; give it as standard input: speechrnn transcribe -"
        )
    return path.open("rb")


def _spooled(stream: TextIO | None) -> IO[bytes]:
    """A stream as a file, for most kinds cannot be read without going back."""
    if stream is None:
        raise AudioError(f"{STANDARD_INPUT}: standard input is closed")
    file = tempfile.TemporaryFile(prefix="speechrnn-")  # noqa: SIM115 (AudioFile closes it)
    shutil.copyfileobj(stream.buffer, file)
    file.flush()
    return file


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def _parts(file: IO[bytes]) -> list[Part]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return parts_of(data)


class _Stretch(io.RawIOBase):
    """The bytes of a file from `start` to `end` as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._file, self._start, self._size, self._at = file, start, end - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        self._file.seek(self._start + self._at)
        n_read = self._file.readinto(view)  # type: ignore[attr-defined]  # of a file that is open for bytes
        self._at += n_read
        return int(n_read)


def _open_part(file: IO[bytes], part: Part, name: str) -> _Decoder:
    """The decoder that fits the content: libsndfile where it is exact, FFmpeg for the rest."""
    file.seek(part.start)
    head = file.read(64)
    reasons = []
    if not _is_for_ffmpeg(head):
        try:
            return _SndfileDecoder(file, part)
        except _NotReadableError as error:
            reasons.append(str(error))
    try:
        return _FfmpegDecoder(file, part)
    except _NotReadableError as error:
        reasons.append(str(error))
    kinds = ", ".join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))
    raise AudioError(f"{name}: not readable as audio ({part.problem or reasons[0]}); expected one of {kinds}")


def _is_for_ffmpeg(head: bytes) -> bool:
    """Whether libsndfile need not be asked: it seeks in MP3, knows one of the codecs in Ogg, stops at damaged FLAC.

    Of eleven bits that are set, as at the beginning of MPEG audio and ADTS, it would also try to make MP3 in any case,
    and write what it thinks of it to standard error.
    """
    if head[:4] == b"OggS":
        return b"\x01vorbis" not in head
    is_synchronised = head[:1] == b"\xff" and head[1:2] >= b"\xe0"
    return is_synchronised or head[:4] in (b"fLaC", b"\x1aE\xdf\xa3") or head[:3] == b"ID3" or head[4:8] == b"ftyp"


class _NotReadableError(Exception):
    """Why one decoder does not take a recording."""


class _UnsoughtSoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """soundfile seeks after every block where it can, and decoders lose their state by that."""

    def seekable(self) -> bool:
        return False


class _SndfileDecoder:
    """What libsndfile decodes."""

    def __init__(self, file: IO[bytes], part: Part) -> None:
        self._sound = _open_sound(_Stretch(file, part.start, part.end))
        try:
            self._check()
            if part.samples:
                self._sound = _as_raw(self._sound, _Stretch(file, *part.samples))
        except BaseException:
            self.close()
            raise
        self.rate_hz, self.n_channels = int(self._sound.samplerate), int(self._sound.channels)
        self.stores_floats = self._sound.subtype in ("FLOAT", "DOUBLE")
        self._n_stated = self._sound.frames if self._sound.frames < _ENDLESS else None
        self.duration_s = self._n_stated and self._n_stated / self.rate_hz
        self.problem = ""

    def _check(self) -> None:
        """Raise _NotReadableError for what FFmpeg decodes better, and for rates that no recording has.

        libsndfile reads MIDI's sample dumps (SDS) beyond their end, for as long as their header says.
        """
        if self._sound.format in ("MP3", "FLAC", "SDS") or self._sound.subtype.startswith("MPEG"):
            raise _NotReadableError(f"{self._sound.format} of {self._sound.subtype}")
        _check_rate(self._sound.samplerate)

    def blocks(self) -> Iterator[Block]:
        """Yield until nothing comes; one that is damaged up to the damage."""
        n_samples, size = 0, _block_size(self.rate_hz, self.n_channels)
        while True:
            block = np.full((size, self.n_channels), np.nan, dtype=np.float32)
            try:
                block = self._sound.read(out=block)
            except soundfile.LibsndfileError as error:
                self.problem = f"damaged ({error.error_string})"
                block = block[: int(np.argmax(np.isnan(block).all(axis=1)))]
            n_samples += len(block)
            if len(block):
                yield self.rate_hz, block
            if len(block) < size:
                break
        if not self.problem and self._n_stated and n_samples < self._n_stated:
            self.problem = _missing((self._n_stated - n_samples) / self.rate_hz, self._n_stated / self.rate_hz)

    def close(self) -> None:
        self._sound.close()


def _open_sound(stretch: _Stretch, **raw: Any) -> soundfile.SoundFile:
    try:
        return _UnsoughtSoundFile(stretch, "r", **raw)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise _NotReadableError(getattr(error, "error_string", first_line(error))) from None


def _as_raw(sound: soundfile.SoundFile, samples: _Stretch) -> soundfile.SoundFile:
    """Uncompressed samples without the header that gives another size than they have. Closes the file with it."""
    if sound.subtype not in _RAW:
        raise _NotReadableError(f"{sound.format} of {sound.subtype} whose size is wrong")
    usual = "LITTLE" if sound.format in _LITTLE_ENDIAN else "BIG"
    endian = sound.endian if sound.endian in ("LITTLE", "BIG") else usual
    kind = {"samplerate": sound.samplerate, "channels": sound.channels, "subtype": sound.subtype, "endian": endian}
    sound.close()
    return _open_sound(samples, format="RAW", **kind)


def _check_rate(rate_hz: int) -> None:
    if rate_hz not in _RATES_HZ:
        raise _NotReadableError(f"expected a rate of {_RATES_HZ[0]} to {_RATES_HZ[-1]} Hz, got {rate_hz}")


def _block_size(rate_hz: int, n_channels: int) -> int:
    """Samples of a block: at most a second, and bounded whatever a header says."""
    return max(1, min(rate_hz, _MAX_VALUES // n_channels))


def _missing(missing_s: float, stated_s: float) -> str:
    return f"truncated or damaged: {missing_s:.2f} of {stated_s:.2f} s are missing"


class _FfmpegDecoder:
    """What FFmpeg decodes, through PyAV."""

    def __init__(self, file: IO[bytes], part: Part) -> None:
        self._av = _import_av()
        self._container = _open_container(self._av, _Stretch(file, part.start, part.end), part)
        try:
            self._stream = _audio_stream(self._container)
            _check_rate(self._stream.rate or 0)
        except BaseException:
            self.close()
            raise
        self.rate_hz, self.n_channels = int(self._stream.rate), int(self._stream.channels)
        self.stores_floats = str(self._stream.codec_context.name).startswith("pcm_f")
        self.duration_s = self._stated_s(file, part)
        self.problem = ""

    def _stated_s(self, file: IO[bytes], part: Part) -> float | None:
        """The length that the header gives, in seconds; None where FFmpeg would estimate it."""
        name = self._container.format.name
        if name not in _STATING and not (name == "mp3" and _counts_frames(file, part)):
            return None
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration and not self._container.streams.video:
            return float(self._container.duration / self._av.time_base)
        return None

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of about a second, and what a damaged packet leaves out of others."""
        duration_s, waiting = Fraction(0), _Waiting()
        for rate_hz, block in self._frames():
            duration_s += Fraction(len(block), rate_hz)
            yield from waiting.push(rate_hz, block)
        yield from waiting.rest()
        missing_s = (self.duration_s or 0.0) - float(duration_s)
        if missing_s > _TOLERANCES_S.get(self._container.format.name, _TOLERANCE_S):
            self.problem = _missing(missing_s, self.duration_s or 0.0)

    def _frames(self) -> Iterator[Block]:
        """What each packet of the stream holds; packets that cannot be decoded are counted."""
        n_damaged, damaged_s = 0, 0.0
        for packet in self._packets():
            try:
                frames = [self._packed(frame) for frame in packet.decode()]
            except (self._av.FFmpegError, ValueError):
                n_damaged += 1
                damaged_s += float((packet.duration or 0) * (packet.time_base or 0))
                continue
            for frame in frames:
                if frame.sample_rate in _RATES_HZ:
                    yield frame.sample_rate, _samples_of(frame)
        if n_damaged:
            self.problem = f"damaged: {n_damaged} of its packets, about {damaged_s:.2f} s, cannot be decoded"

    def _packed(self, frame: Any) -> Any:
        """A frame that PyAV can read: of more than eight planes it reads beyond the last (PyAV 18)."""
        if not frame.format.is_planar or frame.layout.nb_channels <= _MAX_PLANES:
            return frame
        (packed,) = self._av.AudioResampler("flt", frame.layout, frame.sample_rate).resample(frame)
        return packed

    def _packets(self) -> Iterator[Any]:
        sizes = _Sizes()
        try:
            for packet in self._container.demux(self._stream):
                yield packet
                sizes.add(packet.size)
        except (self._av.FFmpegError, ValueError) as error:
            self.problem = f"damaged ({_reason(error)})"
        if self._stream.codec_context.name in _EVEN and not self.problem:
            self.problem = sizes.problem()

    def close(self) -> None:
        self._container.close()


class _Sizes:
    """The sizes of packets. Where all but the last are the same, but for padding, a shorter one was cut."""

    def __init__(self) -> None:
        self._before: set[int] = set()
        self._last = 0

    def add(self, n_bytes: int) -> None:
        """Take note of one more, but for the empty one at the end."""
        if n_bytes:
            self._before |= {self._last} if self._last else set()
            self._last = n_bytes

    def problem(self) -> str:
        """What is missing; empty if nothing is, or it cannot be known."""
        if not self._before or max(self._before) - min(self._before) > _PADDING_BYTES:
            return ""
        missing = min(self._before) - self._last
        return (
            f"truncated within its last packet: {missing} bytes are missing, and what came after" if missing > 0 else ""
        )


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise _NotReadableError("it needs PyAV: pip install av") from None
    return av


def _open_container(av: Any, stretch: _Stretch, part: Part) -> Any:
    options = {"format_whitelist": _DEMUXERS} | ({"ignore_length": "1"} if part.samples else {})
    try:
        return av.open(stretch, "r", options=options, **_tolerant_of_tags(av))
    except (av.FFmpegError, ValueError) as error:
        raise _NotReadableError(_reason(error)) from None


def _tolerant_of_tags(av: Any) -> dict[str, str]:
    """What lets PyAV open a file whose tags are no UTF-8; from version 19 on nothing is needed, nor accepted."""
    return {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def _audio_stream(container: Any) -> Any:
    stream = container.streams.best("audio")
    if stream is None:
        raise _NotReadableError("it has no audio")
    if stream.codec_context is None:
        raise _NotReadableError("its codec is not known")
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    if stream.codec_context.name in _CHECKED:
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    return stream


def _counts_frames(file: IO[bytes], part: Part) -> bool:
    """Whether the first frame of an MP3 counts them; otherwise its length is an estimate."""
    file.seek(part.start)
    tag = file.read(10)
    size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False))
    file.seek(part.start + (10 + size if tag[:3] == b"ID3" else 0))
    frame = file.read(64)
    return b"Xing" in frame or b"Info" in frame


def _samples_of(frame: Any) -> NDArray[np.float32]:
    """A frame of FFmpeg as float32 [T, channels]."""
    values: NDArray[Any] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        values = values / -float(np.iinfo(values.dtype).min)
    return values.astype(np.float32)


class _Waiting:
    """Gathers short blocks into such of about a second, for as long as their rate and channels are the same."""

    def __init__(self) -> None:
        self._kind = (0, 0)
        self._blocks: list[NDArray[np.float32]] = []
        self._n_samples = 0

    def push(self, rate_hz: int, block: NDArray[np.float32]) -> Iterator[Block]:
        """Yield what is enough, or of another kind than this one."""
        if self._kind != (rate_hz, block.shape[1]):
            yield from self.rest()
            self._kind = (rate_hz, block.shape[1])
        self._blocks.append(block)
        self._n_samples += len(block)
        if self._n_samples >= _block_size(*self._kind):
            yield from self.rest()

    def rest(self) -> Iterator[Block]:
        """Yield what waits."""
        if self._n_samples:
            yield self._kind[0], np.concatenate(self._blocks)
        self._blocks, self._n_samples = [], 0
