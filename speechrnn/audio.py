"""Samples: float32 in [-1, 1], mono, at one rate. Decoding, mixing, resampling and validation happen here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speechrnn.errors import AudioError

Samples = NDArray[np.float32]
INT16_SCALE = 32768
"""A 16-bit sample divided by this is a float32 sample in [-1, 1)."""
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64"})
_UNKNOWN_SIZE = 0x7FFFF000  # recorders that write to a pipe put a size from here up into the header


def from_int16(samples: NDArray[np.int16]) -> Samples:
    """16-bit samples as float32 in [-1, 1)."""
    return samples.astype(np.float32) / np.float32(INT16_SCALE)


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Float32 samples as 16 bit, rounded, and clipped where they exceed [-1, 1)."""
    return np.clip(np.rint(samples * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def to_mono(samples: NDArray[Any]) -> Samples:
    """Samples [T] or [T, channels] as the mean of the channels, float32 [T]."""
    return np.ascontiguousarray(samples if samples.ndim == 1 else samples.mean(axis=1), dtype=np.float32)


def check_samples(samples: NDArray[Any], name: str) -> Samples:
    """Float32 samples [T], checked. Raises AudioError for another shape, type, or values that are not finite."""
    array = np.asarray(samples)
    if array.ndim != 1 or array.dtype != np.float32:
        raise AudioError(f"{name}: expected float32 samples of shape [T], got {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise AudioError(f"{name}: expected finite samples, got NaN or infinity; write the file again")
    return array


def open_audio(path: Path) -> soundfile.SoundFile:
    """Open an audio file for reading. Raises AudioError if it is missing, empty, damaged or no audio."""
    if path.is_dir():
        raise AudioError(f"{path}: expected an audio file, got a folder")
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: expected audio, got an empty file")
    try:
        file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)  # names need not be valid text
    except (soundfile.LibsndfileError, TypeError) as error:  # a TypeError for .raw, which has no header
        kinds = ", ".join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))
        reason = getattr(error, "error_string", error)
        raise AudioError(f"{path}: not readable as audio ({reason}); expected one of {kinds}") from None
    if file.frames == 0:
        file.close()
        raise AudioError(f"{path}: expected audio, got a file with no samples")
    missing_s = _missing_seconds(path, file)
    if missing_s > 0:
        file.close()
        raise AudioError(
            f"{path}: truncated: its header promises {file.frames / file.samplerate + missing_s:.2f} s of audio, "
            f"{missing_s:.2f} s are missing; copy or record it again"
        )
    return file


def _missing_seconds(path: Path, file: soundfile.SoundFile) -> float:
    """Audio that a RIFF header promises beyond the end of the file; libsndfile would pass over it in silence."""
    with path.open("rb") as raw:
        head = raw.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0.0
    promised = int.from_bytes(head[4:8], "little") + 8
    if promised >= _UNKNOWN_SIZE:
        return 0.0
    bits = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}
    bytes_per_s = file.samplerate * file.channels * bits.get(file.subtype, 8) / 8
    missing = promised - path.stat().st_size
    return missing / bytes_per_s if missing > 1 else 0.0  # one byte may be the padding of an odd chunk


def read_block(file: soundfile.SoundFile, n_samples: int) -> Samples:
    """The next samples of an open file, at most `n_samples`, mixed to mono. Raises AudioError where it is damaged."""
    try:
        samples = file.read(n_samples, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{os.fsdecode(file.name)}: damaged audio ({error.error_string})") from None
    return check_samples(to_mono(samples), os.fsdecode(file.name))


def read(path: Path, sample_rate_hz: int) -> Samples:
    """A whole audio file as mono float32 [T] at `sample_rate_hz`. Raises AudioError as `open_audio` does."""
    with open_audio(path) as file:
        samples = read_block(file, -1)
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
