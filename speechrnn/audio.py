"""Samples: float32 in [-1, 1], mono, at one rate. Mixing, resampling and validation happen here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from speechrnn.errors import AudioError, DamagedAudioError

Samples = NDArray[np.float32]
INT16_SCALE = 32768
"""A 16-bit sample divided by this is a float32 sample in [-1, 1)."""
SPEECH_FRAME_MS = 20
SPEECH_RANGE_DB = 20.0
"""The speech level of a clip: mean power of its frames of this length within this range of the loudest one."""
_AUDIBLE = 1e-8  # mean square, -80 dB of full scale


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


MAX_LEVEL = 8.0
"""Floating-point samples may exceed 1 by that much (18 dB) after mixing; what is beyond is an error."""
_MAX_BEYOND_RATE = 1e-3
_SCALES = (1.0, 2.0**15, 2.0**23, 2.0**31)


def integer_scale(blocks: Iterable[NDArray[np.float32]]) -> float:
    """What floats must be divided by that hold integers of 16, 24 or 32 bits, as SciPy writes them; 1 for others.

    One in a thousand samples other than 0 may be beyond what the scale allows, for single values may be damaged.
    """
    n_samples, n_beyond = 0, np.zeros(len(_SCALES) - 1, dtype=np.int64)
    for block in blocks:
        levels = np.abs(block[np.isfinite(block)])
        n_samples += int(np.count_nonzero(levels))
        n_beyond += [np.count_nonzero(levels > limit) for limit in (MAX_LEVEL, *_SCALES[1:-1])]
    fits = [*(n_beyond <= _MAX_BEYOND_RATE * n_samples), True]
    return _SCALES[fits.index(True)]


class _Channel:
    """Which channel stands for all: none, for their mean does, unless they cancel each other."""

    def __init__(self) -> None:
        self.n_cancelled = 0
        self._taken: int | None = None

    def choose(self, second: NDArray[np.float32]) -> None:
        """Decide anew after this second [T, channels]."""
        mean, energies = to_mono(second), np.einsum("tc,tc->c", second, second)
        independent = float(energies.sum()) / second.shape[1] ** 2
        if independent > _AUDIBLE * len(second):
            gain = float(np.dot(mean, mean)) / independent
            if gain > 1.5:
                self._taken = None
            elif gain < 0.2 and self._taken is None:
                self._taken = int((energies > energies.max() / 2).argmax())

    def mixed(self, block: NDArray[np.float32]) -> Samples:
        """A block [T, channels] as mono samples [T]."""
        if self._taken is None:
            return to_mono(block)
        self.n_cancelled += len(block)
        return np.ascontiguousarray(block[:, self._taken])


class Mixer:
    """The mean of the channels; one alone where they cancel each other, as those of a miswired microphone do.

    That is decided second by second, however the stream is cut. Where the mean has less than a fifth of the energy that
    independent channels would give, the first channel that is not much weaker than another is taken, until the mean has
    one and a half times that energy.
    """

    def __init__(self, rate_hz: int, n_channels: int) -> None:
        self._rate_hz = rate_hz
        self._n_channels = n_channels
        self._channel = _Channel()
        self._waiting = np.zeros((0, n_channels), dtype=np.float32)

    @property
    def cancelled_s(self) -> float:
        """For how long one channel alone was taken, in seconds."""
        return self._channel.n_cancelled / self._rate_hz

    def push(self, block: NDArray[np.float32]) -> Samples:
        """The mono samples [T] that this block [T, channels] completes."""
        if self._n_channels == 1:
            return to_mono(block)
        self._waiting = np.concatenate([self._waiting, block])
        n_seconds = len(self._waiting) // self._rate_hz
        seconds = [self._mixed(self._next(self._rate_hz)) for _ in range(n_seconds)]
        return np.concatenate([np.zeros(0, dtype=np.float32), *seconds])

    def finish(self) -> Samples:
        """What remains of the last second."""
        return self._mixed(self._next(len(self._waiting)))

    def _next(self, n_samples: int) -> NDArray[np.float32]:
        block, self._waiting = self._waiting[:n_samples], self._waiting[n_samples:]
        return block

    def _mixed(self, second: NDArray[np.float32]) -> Samples:
        self._channel.choose(second)
        return self._channel.mixed(second)


class LiveMixer:
    """A mixer that waits for nothing: each second is mixed as the one before it asks for, the first by the mean."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._channel = _Channel()
        self._second: list[NDArray[np.float32]] = []
        self._n_samples = 0

    @property
    def has_cancelled(self) -> bool:
        """Whether one channel alone has been taken."""
        return self._channel.n_cancelled > 0

    def push(self, block: NDArray[np.float32]) -> Samples:
        """A block [T, channels] as mono samples [T]."""
        if block.shape[1] == 1:
            return to_mono(block)
        parts = np.split(block, range(self._rate_hz - self._n_samples, len(block), self._rate_hz))
        return np.concatenate([self._mixed(part) for part in parts])

    def _mixed(self, part: NDArray[np.float32]) -> Samples:
        mixed = self._channel.mixed(part)
        self._second.append(part)
        self._n_samples += len(part)
        if self._n_samples == self._rate_hz:
            self._channel.choose(np.concatenate(self._second))
            self._second, self._n_samples = [], 0
        return mixed


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
    """Blocks [T] of one stream at another rate; an empty block, which says that a live source waits, stays one.

    Where the stream ends with DamagedAudioError, it is raised after the last samples.
    """
    resampler, damage = Resampler(from_hz, to_hz), None
    try:
        for block in blocks:
            converted = resampler.push(block)
            if len(converted) or not len(block):
                yield converted
    except DamagedAudioError as error:
        damage = error
    rest = resampler.push(np.zeros(0, dtype=np.float32), last=True)
    if len(rest):
        yield rest
    if damage:
        raise damage


def rms_db(samples: Samples) -> float:
    """Root mean square of samples [T] in dB of full scale; -120 for silence and for no samples."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return float(10 * np.log10(max(power, 1e-12)))
