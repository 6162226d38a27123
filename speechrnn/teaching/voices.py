"""Own words in synthetic voices, where espeak-ng is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speechrnn.audio import from_int16
from speechrnn.data.tts import TTS_RATE_HZ, draw_voices, speak
from speechrnn.teaching.judging import MIN_WORD_MS
from speechrnn.teaching.recordings import Take

N_VOICES = 30
"""Synthetic voices that say a word."""


def speak_word(word: str, rate_hz: int) -> list[Take]:
    """The word in several voices. Raises DataError where espeak-ng is missing."""
    import soxr

    takes = []
    for voice in draw_voices(word.replace("_", " "), N_VOICES):
        samples = np.asarray(soxr.resample(from_int16(speak(voice)), TTS_RATE_HZ, rate_hz), dtype=np.float32)
        if len(samples) >= MIN_WORD_MS * rate_hz // 1000:
            takes.append(Take(Path(voice.path), samples, 0, len(samples), voice.voice))
    return takes
