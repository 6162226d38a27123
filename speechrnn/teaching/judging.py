"""Whether a take of a word is good enough to be learned from, and if it is not, why. The core alone is imported."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from speechrnn.audio import Samples, rms_db

_FRAME_MS = 10
MIN_WORD_MS = 80
"""Shorter stretches of sound are no word."""
_MAX_GAP_MS = 350
_RANGE_DB, _ABOVE_FLOOR_DB = 35.0, 9.0
_AROUND_S = 0.3
_CLIPPED, _N_CLIPPED = 0.985, 4
_EMPTY_DB, _FAINT_DB, _MIN_ABOVE_ROOM_DB = -60.0, -45.0, 12.0


class Refused(NamedTuple):
    """A take that is not kept."""

    reason: str
    """Why, and what to do."""


def judge(samples: Samples, rate_hz: int) -> Samples | Refused:
    """The word of a take [T], with a little of what is around it, or why it is not kept."""
    loudest = float(np.abs(samples).max(initial=0))
    if np.count_nonzero(np.abs(samples) >= _CLIPPED) >= _N_CLIPPED:
        return Refused("clipped: hold the microphone further away, or turn it down")
    found = stretches(samples, rate_hz)
    if loudest == 0 or rms_db(samples) < _EMPTY_DB or not found:
        return Refused("nothing heard: speak after the count-down, and see whether this is the right microphone")
    if len(found) > 1:
        return Refused(f"{len(found)} words heard: say it once, in one go")
    start, end = found[0]
    outside = np.concatenate([samples[:start], samples[end:]])
    if start == 0 or end >= len(samples) - rate_hz // 100:
        return Refused("cut off: begin after the count-down, and end in time")
    level_db = rms_db(samples[start:end])
    if level_db < _FAINT_DB:
        return Refused(f"too faint ({level_db:.0f} dB): come closer, or turn the microphone up")
    if level_db < rms_db(outside) + _MIN_ABOVE_ROOM_DB:
        return Refused("hardly louder than the room: come closer, or turn off what sounds")
    around = round(_AROUND_S * rate_hz)
    return samples[max(0, start - around) : end + around]


def stretches(samples: Samples, rate_hz: int) -> list[tuple[int, int]]:
    """The stretches [first, last) of speech, joined over pauses shorter than a third of a second."""
    size = _FRAME_MS * rate_hz // 1000
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    levels = 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12)
    floor, peak = float(np.percentile(levels, 20)), float(np.percentile(levels, 99.5))
    loud = np.flatnonzero(levels > max(floor + _ABOVE_FLOOR_DB, peak - _RANGE_DB))
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > _MAX_GAP_MS // _FRAME_MS) + 1) if len(loud) else []
    return [
        (int(part[0]) * size, (int(part[-1]) + 1) * size)
        for part in parts
        if (part[-1] + 1 - part[0]) * _FRAME_MS >= MIN_WORD_MS
    ]
