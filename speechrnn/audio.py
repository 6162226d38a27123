"""Samples: float32 in [-1, 1], mono, at one rate. Decoding, mixing, resampling and validation happen here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speechrnn.errors import AudioError, MissingAudioError

Samples = NDArray[np.float32]
INT16_SCALE = 32768
"""A 16-bit sample divided by this is a float32 sample in [-1, 1)."""
SPEECH_FRAME_MS = 20
SPEECH_RANGE_DB = 20.0
"""The speech level of a clip: mean power of its frames of this length within this range of the loudest one."""
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64"})
_UNKNOWN_SIZE = 0x7FFFF000  # recorders that write to a pipe put a size from here up into the header
_ENDLESS = 2**62  # libsndfile's count of frames where a header gives none
# What libsndfile logs about a file that is shorter than its header says, and about Ogg pages that break off.
_SIZES = re.compile(r"^ *(?:RIF[FX]|FORM|Riff size|Data size|data) *: (\d+) \(should be (\d+)\)", re.M | re.I)
_BROKEN_OFF = re.compile(r"^Ogg ?: (?:.*end-of-stream|Junk after the last page)", re.M | re.I)


def from_int16(samples: NDArray[np.int16]) -> Samples:
    """16-bit samples as float32 in [-1, 1)."""
    return samples.astype(np.float32) / np.float32(INT16_SCALE)


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Float32 samples as 16 bit, rounded, and clipped where they exceed [-1, 1)."""
    return np.clip(np.rint(samples * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def to_mono(samples: NDArray[Any]) -> Samples:
    """Samples [T] or [T, channels] as the mean of the channels, float32 [T]."""
    return np.ascontiguousarray(samples if samples.ndim == 1 else samples.mean(axis=1), dtype=np.float32)


def rms(samples: NDArray[Any]) -> float:
    """Root mean square of samples of any shape; 0 for none."""
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean())) if samples.size else 0.0


def speech_power(samples: Samples, sample_rate_hz: int) -> float:
    """Mean power of the 20 ms frames of a clip [T] that are within 20 dB of its loudest one.

    Every signal-to-noise ratio of this package, in training and in evaluation, is of this power.
    """
    size = SPEECH_FRAME_MS * sample_rate_hz // 1000
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    powers = np.square(frames, dtype=np.float64).mean(axis=1)
    return float(powers[powers >= powers.max() * 10 ** (-SPEECH_RANGE_DB / 10)].mean())


def check_samples(samples: NDArray[Any], name: str) -> Samples:
    """Float32 samples [T], checked. Raises AudioError for another shape, type, or values that are not finite."""
    array = np.asarray(samples)
    if array.ndim != 1 or array.dtype != np.float32:
        raise AudioError(f"{name}: expected float32 samples of shape [T], got {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise AudioError(f"{name}: expected finite samples, got NaN or infinity; write the file again")
    return array


def open_audio(path: Path) -> soundfile.SoundFile:
    """Open an audio file for reading. Raises AudioError if it is missing, empty, truncated, damaged or no audio.

    Where a file ends too early is known here for WAV, RF64, W64, AIFF, AU, CAF, Ogg Vorbis and Opus; for FLAC, and for
    MP3 with a Xing header, once it has been read that far. An MP3 without one does not say how long it should be, nor
    does a WAV that was written to a pipe: they are taken as they are.
    """
    if path.is_dir():
        raise AudioError(f"{path}: expected an audio file, got a folder")
    if not path.exists():
        raise MissingAudioError(f"{path}: no such file")
    if not path.is_file():
        raise AudioError(
            f"{path}: expected a file, got a pipe or a device; give raw 16-bit PCM to: speechrnn listen --source -"
        )
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: expected audio, got an empty file")
    try:
        file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)  # names need not be valid text
    except (soundfile.LibsndfileError, TypeError) as error:  # a TypeError for .raw, which has no header
        kinds = ", ".join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))
        reason = getattr(error, "error_string", error)
        raise AudioError(f"{path}: not readable as audio ({reason}); expected one of {kinds}") from None
    problem = _problem(file)
    if problem:
        file.close()
        raise AudioError(f"{path}: {problem}")
    return file


def _problem(file: soundfile.SoundFile) -> str:
    """What its header says against an open file, or nothing."""
    if file.frames == 0:
        return "expected audio, got a file with no samples"
    if file.frames >= _ENDLESS:
        return "its header does not say how long it is, as of a recording through a pipe; convert it to WAV"
    sizes = _SIZES.search(file.extra_info)
    declared, there = map(int, sizes.groups()) if sizes else (0, 0)
    if declared < _UNKNOWN_SIZE and declared - there > 1:  # one byte may be the padding of an odd chunk
        return f"truncated: {declared - there} of {declared} bytes are missing; copy or record it again"
    if _BROKEN_OFF.search(file.extra_info):
        return "truncated: its last page is missing; copy or record it again"
    return ""


def read_block(file: soundfile.SoundFile, n_samples: int) -> Samples:
    """The next samples of an open file, at most `n_samples`, mixed to mono; none at its end.

    Raises AudioError where it is damaged, or ends earlier than its header says.
    """
    name = os.fsdecode(file.name)
    try:
        samples = file.read(n_samples, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: damaged audio ({error.error_string})") from None
    at_end = not 0 <= n_samples <= len(samples)
    if at_end and file.format == "MP3" and file.tell() < file.frames and _states_its_length(Path(name)):
        missing_s = (file.frames - file.tell()) / file.samplerate
        raise AudioError(f"{name}: truncated: its last {missing_s:.2f} s are missing; copy or record it again")
    return check_samples(to_mono(samples), name)


def _states_its_length(path: Path) -> bool:
    """Whether the first frame of an MP3 counts them; otherwise its length is libsndfile's estimate."""
    with path.open("rb") as file:
        tag = file.read(10)
        size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False))
        file.seek(10 + size if tag[:3] == b"ID3" else 0)
        frame = file.read(64)
    return b"Xing" in frame or b"Info" in frame


def blocks_of(file: soundfile.SoundFile) -> Iterator[Samples]:
    """An open file from where it stands to its end, a second [T] at a time. Raises AudioError as `read_block` does."""
    while len(block := read_block(file, file.samplerate)):
        yield block


def read(path: Path, sample_rate_hz: int) -> Samples:
    """A whole audio file as mono float32 [T] at `sample_rate_hz`. Raises AudioError as `open_audio` does."""
    with open_audio(path) as file:
        samples = np.concatenate([np.zeros(0, dtype=np.float32), *blocks_of(file)])
        if file.samplerate == sample_rate_hz:
            return samples
        return np.asarray(soxr.resample(samples, file.samplerate, sample_rate_hz), dtype=np.float32)


def find_audio(path: Path) -> list[Path]:
    """The file itself, or all audio files below a folder in order of name. Raises AudioError if there is none."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file())
    if not files:
        raise AudioError(f"{path}: no audio in this folder; expected files such as .wav or .flac")
    return files


class Resampler:
    """Changes the rate of a stream of blocks; what comes out does not depend on how the stream was cut."""

    def __init__(self, from_hz: float, to_hz: float) -> None:
        self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")

    def push(self, block: Samples, *, last: bool = False) -> Samples:
        """The samples at the new rate that this block [T] completes; with `last`, all that remain."""
        if self._stream is None:
            return block
        return np.asarray(self._stream.resample_chunk(block, last=last), dtype=np.float32)


def resampled(blocks: Iterable[Samples], from_hz: float, to_hz: float) -> Iterator[Samples]:
    """Blocks [T] of one stream at another rate; an empty block, which says that a live source waits, stays one."""
    resampler = Resampler(from_hz, to_hz)
    for block in blocks:
        converted = resampler.push(block)
        if len(converted) or not len(block):
            yield converted
    rest = resampler.push(np.zeros(0, dtype=np.float32), last=True)
    if len(rest):
        yield rest


def rms_db(samples: Samples) -> float:
    """Root mean square of samples [T] in dB of full scale; -120 for silence and for no samples."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return float(10 * np.log10(max(power, 1e-12)))
