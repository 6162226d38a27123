"""Where audio comes from: blocks of mono float32 at the rate that was asked for, whatever lies behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from speechrnn.audio import Resampler, Samples, check_samples, open_audio, read_block


class AudioSource(Protocol):
    """A stream of audio. `duration_s` is None where the end is not known beforehand. `close` may be called twice."""

    sample_rate_hz: int
    duration_s: float | None

    def blocks(self) -> Iterator[Samples]:
        """Yield the audio once, as float32 [T] in [-1, 1], T being any length above 0."""
        ...

    def close(self) -> None:
        """Let go of the file or device."""
        ...


class _Closing:
    """`with source:` for every source."""

    def close(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class ArraySource(_Closing):
    """Samples that are in memory, float32 [T] at `sample_rate_hz`, in blocks of `block_samples`."""

    def __init__(self, samples: Samples, sample_rate_hz: int, *, block_samples: int = 16000) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.duration_s: float | None = len(samples) / sample_rate_hz
        self._samples = check_samples(samples, "array")
        self._block_samples = block_samples

    def blocks(self) -> Iterator[Samples]:
        """Yield the samples in order."""
        for start in range(0, len(self._samples), self._block_samples):
            yield self._samples[start : start + self._block_samples]


class FileSource(_Closing):
    """An audio file of any length, rate and channel count that libsndfile reads, one second at a time.

    Raises AudioError on construction if the file is missing or damaged, and while reading if damage shows later.
    """

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        self._file = open_audio(path)
        self.sample_rate_hz = sample_rate_hz
        self.duration_s: float | None = self._file.frames / self._file.samplerate

    def blocks(self) -> Iterator[Samples]:
        """Yield the file from its beginning, mixed to mono and resampled."""
        resampler = Resampler(self._file.samplerate, self.sample_rate_hz)
        while True:
            mono = read_block(self._file, self._file.samplerate)
            block = resampler.push(mono, last=len(mono) == 0)
            if len(block):
                yield block
            if len(mono) == 0:
                return

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_all(source: AudioSource) -> Samples:
    """The rest of a source as one array [T]."""
    blocks = list(source.blocks())
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
