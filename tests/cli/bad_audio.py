"""Audio that cannot be used, for the tests of every verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.helpers import write_audio


def missing(folder: Path) -> Path:
    return folder / "missing.wav"


def empty(folder: Path) -> Path:
    path = folder / "empty.wav"
    path.touch()
    return path


def not_a_number(folder: Path) -> Path:
    samples = np.zeros(16000, dtype=np.float32)
    samples[8000] = np.nan
    return write_audio(folder / "nan.wav", samples, subtype="FLOAT")
