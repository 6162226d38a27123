"""What is wrong with an installation, a model or a microphone, in plain words, and what to do about it."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import speechrnn
from speechrnn.audio import Samples, rms_db
from speechrnn.errors import SpeechRnnError
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import Microphone

_RECORDED_S = 2.0
_N_RUNS = 20
_SILENT_DB, _QUIET_DB, _LOUD_DB = -80.0, -50.0, -10.0
_CLIPPED = 0.999
_MAX_CLIPPED, _MAX_OFFSET = 1e-4, 0.02


class Finding(NamedTuple):
    """One thing that was checked."""

    ok: bool
    """Whether it is well."""
    what: str
    """What was checked."""
    seen: str
    """What was seen."""
    advice: str = ""
    """What to do if it is not well and `seen` does not say it."""


def check_all(model: str, device: str | int | None) -> Iterator[Finding]:
    """Check installation, model and microphone, yielding each finding as it is made; the last takes two seconds."""
    yield Finding(True, "installation", f"speechrnn {speechrnn.__version__}, Python {platform.python_version()}")
    try:
        recognizer = load(model)
    except SpeechRnnError as error:
        yield Finding(False, "model", str(error))
        return
    yield check_speed(recognizer, model)
    rate_hz = recognizer.info.spec.sample_rate_hz
    try:
        with Microphone(device=device) as microphone:
            yield Finding(True, "microphone", f"{microphone.name}, opened at {microphone.sample_rate_hz} Hz")
            yield from check_sound(_record(microphone, rate_hz))
    except SpeechRnnError as error:
        yield Finding(False, "microphone", str(error))


def check_speed(recognizer: Recognizer, model: str) -> Finding:
    """Whether the model decides faster than the steps come."""
    context = np.zeros((1, recognizer.info.spec.context_samples), dtype=np.float32)
    recognizer.posteriors(context)
    started = time.perf_counter()
    for _ in range(_N_RUNS):
        recognizer.posteriors(context)
    decision_ms = 1000 * (time.perf_counter() - started) / _N_RUNS
    step_ms = recognizer.info.options.step_ms
    seen = f"{model}, {decision_ms:.1f} ms for each decision, one every {step_ms} ms"
    return Finding(decision_ms < step_ms / 2, "model", seen, "too slow for this machine: give --step 200 or more")


def check_sound(samples: Samples) -> Iterator[Finding]:
    """What a recording [T] says about the microphone: silence, level, clipping, DC offset."""
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    offset = float(samples.mean()) if len(samples) else 0.0
    level_db = rms_db(samples - offset)
    if level_db < _SILENT_DB:
        yield Finding(False, "sound", "nothing but silence", "unmute the microphone, or choose another with --device")
        return
    if level_db < _QUIET_DB:
        advice = "if you were speaking: raise the input level, or come closer"
        yield Finding(True, "level", f"{level_db:.0f} dB, quiet; {advice}")
    else:
        yield Finding(level_db < _LOUD_DB, "level", f"{level_db:.0f} dB", "too loud: lower the input level")
    clipped = float(np.mean(np.abs(samples) >= _CLIPPED))
    seen = f"{100 * clipped:.2f} % of samples, peak {peak:.2f}"
    yield Finding(clipped <= _MAX_CLIPPED, "clipping", seen, "lower the input level: clipped words are missed")
    yield Finding(abs(offset) <= _MAX_OFFSET, "DC offset", f"{offset:+.3f}", "a fault of the device or its cable")


def _record(microphone: Microphone, rate_hz: int) -> Samples:
    blocks: list[Samples] = []
    for block in microphone.blocks(rate_hz):
        blocks.append(block)
        if sum(map(len, blocks)) >= _RECORDED_S * rate_hz:
            break
    return np.concatenate(blocks)
