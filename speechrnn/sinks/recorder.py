"""Keeps what was listened to in a file."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechrnn.audio import to_int16
from speechrnn.containers import WavWriter
from speechrnn.errors import OutputError
from speechrnn.files import writing
from speechrnn.spotter import Step


class Recorder:
    """Keeps what was heard in an audio file, and the detections beside it as an Audacity label track.

    What was written stays whole if the disk is full, or the program is killed; a WAV may be longer than 4 GiB. Raises
    OutputError for a place that cannot be written to, and for names of other kinds than wav, flac, ogg and mp3.
    """

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        self._path, self._rate_hz, self._n_samples = path, sample_rate_hz, 0
        if path.suffix.lower() not in (".wav", *_ENCODED):
            raise OutputError(f"{path}: cannot write such audio; give a name that ends in .wav, .flac, .ogg or .mp3")
        if "\0" in str(path):
            raise OutputError(f"{path}: cannot write there (a zero byte in its name); give another path")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open(path, sample_rate_hz)
            self._labels = path.with_suffix(".labels.txt").open("w", encoding="utf-8")

    def write(self, step: Step) -> None:
        """Append a block [T] and the detections it gave."""
        try:
            self._file.write(to_int16(step.block))
            self._n_samples += len(step.block)
            for found in step.detections:
                self._labels.write(f"{found.start_s:.6f}\t{found.end_s:.6f}\t{found.label}\n")
            self._labels.flush()
        except OSError as error:
            kept_s = self._n_samples / self._rate_hz
            raise OutputError(
                f"{self._path}: cannot be written on ({error.strerror}); the first {kept_s:.1f} s are kept"
            ) from None

    def close(self) -> None:
        """Finish both files."""
        with suppress(OSError):  # of a disk that is full, which was said
            self._file.close()
        with suppress(OSError):
            self._labels.close()


_ENCODED = {".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}


def _open(path: Path, sample_rate_hz: int) -> WavWriter | _EncodedWriter:
    if path.suffix.lower() == ".wav":
        return WavWriter(path, sample_rate_hz)
    return _EncodedWriter(path, sample_rate_hz)


class _EncodedWriter:
    """A compressed file through libsndfile, which does not say itself when the disk is full."""

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        self._raw = _Remembering(path)
        self._file = soundfile.SoundFile(
            self._raw, "w", sample_rate_hz, 1, format=_ENCODED[path.suffix.lower()], closefd=False
        )

    def write(self, samples: NDArray[np.int16]) -> None:
        """Append samples [T]. Raises OSError if the file cannot take them."""
        self._file.write(samples)
        if self._raw.error:
            raise self._raw.error

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
        self._raw.close()


class _Remembering(io.FileIO):
    """A file that keeps its first error, for a caller that cannot take exceptions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = self.error or error
        return len(data)
