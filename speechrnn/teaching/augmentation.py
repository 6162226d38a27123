"""Contexts with a recorded word in them as other days, rooms and microphones would have it. No torch, no data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, rms, speech_power
from speechrnn.teaching.recordings import Take

_SPEED, _GAIN_DB, _SNR_DB = 0.12, (-25.0, 6.0), (3.0, 35.0)
_NOISE_RATE, _ROOM_RATE, _FILTER_RATE = 0.8, 0.25, 0.7
_FILTER_DB, _N_COSINES = 5.0, 5
_DECAY_S = (0.08, 0.45)
_SLOPES_DB = (-6.0, 0.0)  # of noise, for each octave
_LEVEL = 0.08  # RMS of a word before its gain, as in Speech Commands
_HISS = 1e-4
_N_PLACES = 6


def augmented(
    take: Take, n: int, context: int, rate_hz: int, rooms: Sequence[Samples], random: np.random.Generator
) -> Samples:
    """Contexts [n, context] that each hold all of a word.

    It is spoken faster or slower, stands anywhere in the context, in a drawn room, through a drawn microphone, in noise
    or in the recorded `rooms`, at a drawn level.
    """
    return np.stack([_augment(take, context, rate_hz, rooms, random) for _ in range(n)])


def plain(take: Take, context: int) -> Samples:
    """Contexts [_N_PLACES, context] with a word in them as it was recorded, from early in the context to late."""
    return np.stack([place(take.samples, take.start, take.end, context, at) for at in np.linspace(0.3, 1, _N_PLACES)])


def _augment(take: Take, context: int, rate_hz: int, rooms: Sequence[Samples], random: np.random.Generator) -> Samples:
    samples, start, end = _respoken(take, 1 + random.uniform(-_SPEED, _SPEED))
    samples = samples * (_LEVEL / max(rms(samples[start:end]), 1e-6))
    placed = place(samples, start, end, context, random.uniform())
    if random.uniform() < _ROOM_RATE:
        placed = _in_room(placed, rate_hz, random)
    if random.uniform() < _FILTER_RATE:
        placed = _filtered(placed, random)
    if random.uniform() < _NOISE_RATE:
        power = speech_power(placed, rate_hz) * 10 ** (-random.uniform(*_SNR_DB) / 10)
        placed = placed + noise(context, rooms, random) * np.float32(np.sqrt(power))
    gain = 10 ** (random.uniform(*_GAIN_DB) / 20)
    return np.asarray(np.clip((placed + random.normal(0, _HISS, context)) * gain, -1, 1), dtype=np.float32)


def _respoken(take: Take, speed: float) -> tuple[Samples, int, int]:
    """The samples of a take at another speed, and where its word then lies."""
    n = round(len(take.samples) / speed)
    read_at = np.arange(n, dtype=np.float32) * np.float32(speed)
    samples = np.interp(read_at, np.arange(len(take.samples), dtype=np.float32), take.samples).astype(np.float32)
    return samples, round(take.start / speed), min(n, round(take.end / speed))


def place(samples: Samples, start: int, end: int, context: int, position: float) -> Samples:
    """A context with the word [start, end) of samples [T] in it: at 0 as early as it can be, at 1 as late.

    A word longer than the context lies over one of its edges, or over both.
    """
    first = round((context - (end - start)) * position)  # where the word starts
    placed = np.zeros(context, dtype=np.float32)
    low = first - start
    source = samples[max(0, -low) : max(0, context - low)]
    placed[max(0, low) : max(0, low) + len(source)] = source
    return placed


def noise(n: int, rooms: Sequence[Samples], random: np.random.Generator) -> Samples:
    """Noise [n] of RMS 1: a stretch of a recorded room, half of the time where there is one, else of a drawn colour."""
    long = [room for room in rooms if len(room) >= n]
    if long and random.uniform() < 0.5:
        room = long[random.integers(len(long))]
        first = random.integers(len(room) - n + 1)
        made: NDArray[np.floating] = room[first : first + n]
    else:
        spectrum = np.fft.rfft(random.normal(size=n))
        octaves = np.log2(np.maximum(np.arange(len(spectrum)), 20) / 20)
        made = np.fft.irfft(spectrum * 10 ** (octaves * random.uniform(*_SLOPES_DB) / 20), n)
    return np.asarray(made / max(rms(made), 1e-6), dtype=np.float32)


def _in_room(samples: Samples, rate_hz: int, random: np.random.Generator) -> Samples:
    """Samples [T] in a room of a drawn decay: noise that fades, behind the direct sound; their power is kept."""
    n = round(_DECAY_S[1] * rate_hz)
    decay = np.exp(-6.9 * np.arange(n) / (random.uniform(*_DECAY_S) * rate_hz))  # -60 dB at its end
    response = random.normal(size=n) * decay * random.uniform(0.02, 0.12)
    response[0] = 1.0
    size = len(samples) + n
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    return np.asarray(wet * (rms(samples) / max(rms(wet), 1e-9)), dtype=np.float32)


def _filtered(samples: Samples, random: np.random.Generator) -> Samples:
    """Samples [T] through a smooth filter, as another microphone would have it."""
    spectrum = np.fft.rfft(samples)
    mels = np.log1p(np.arange(len(spectrum)) / len(spectrum) * 11)  # equal steps are nearly equal steps in mel
    phases = np.pi * mels / mels[-1] * np.arange(1, _N_COSINES + 1)[:, None]
    sizes = random.uniform(-_FILTER_DB, _FILTER_DB, _N_COSINES) / np.sqrt(np.arange(1, _N_COSINES + 1))
    return np.fft.irfft(spectrum * 10 ** (sizes @ np.cos(phases) / 20), len(samples)).astype(np.float32)
