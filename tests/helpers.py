"""What the inference tests share: signals, audio files, one-line errors, and a recognizer that needs no network."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soundfile
from click.testing import CliRunner
from hypothesis import strategies as st

from speechrnn.audio import Samples
from speechrnn.cli.console import run_program
from speechrnn.cli.main import cli
from speechrnn.labels import Labels
from speechrnn.recognizer import Recognizer, find_model
from speechrnn.spec import ModelInfo, Spec

if TYPE_CHECKING:
    from speechrnn.model.network import RecognizerNet

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "audio" / "commands.wav"
COMMAND = [sys.executable, "-c", "from speechrnn.cli.main import main; main()"]
"""The command line in a process of its own."""
RATE_HZ = 16000
LEVELS = {"yes": 0.25, "no": 0.5, "unknown": 0.75}
"""The fake recognizer's words: stretches in which every sample has this value."""
PLAYED_SPEED = 5
PATIENCE_S = 90
"""How long to wait for what must come, however slow and busy the machine is."""
FAKE_INFO = ModelInfo(spec=Spec(labels=Labels(("yes", "no"))))


class SmallModel(NamedTuple):
    """An untrained network, both of its files, and the contexts [5, T] on which the export was checked."""

    net: RecognizerNet
    info: ModelInfo
    checkpoint: Path
    onnx: Path
    contexts: Samples


def wait_until(true: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def sine(frequency_hz: float, duration_s: float, rate_hz: int = RATE_HZ) -> Samples:
    """A sine of half of full scale [T]."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def noise(*shape: int, seed: int = 0) -> Samples:
    """White noise of a tenth of full scale."""
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def silence(duration_s: float) -> Samples:
    """Zeros [T] at 16 kHz."""
    return np.zeros(round(duration_s * RATE_HZ), dtype=np.float32)


def word(label: str, duration_s: float = 0.3) -> Samples:
    """Samples [T] at 16 kHz in which the fake recognizer detects a word."""
    return np.full(round(duration_s * RATE_HZ), LEVELS[label], dtype=np.float32)


def fake_recognizer(info: ModelInfo = FAKE_INFO, *, seen: list[Samples] | None = None) -> Recognizer:
    """Hears a word as soon as a tenth of a second of it lies in the context, else silence.

    Every context that it is given is added to `seen`.
    """
    names = info.spec.labels.names

    def logits(samples: Samples) -> Samples:
        if seen is not None:
            seen.extend(samples.copy())
        scores = np.zeros((len(samples), len(names)), dtype=np.float32)
        scores[:, names.index("silence")] = 5
        for label in LEVELS.keys() & set(names):
            fraction = (np.abs(samples - LEVELS[label]) < 0.01).sum(axis=1) / (0.25 * info.spec.sample_rate_hz)
            scores[:, names.index(label)] = 15 * np.minimum(fraction, 1)
        return scores

    return Recognizer(info, logits, find_model("commands10"))  # recordings are given to the shipped model


def write_audio(path: Path, samples: Samples, rate_hz: int = RATE_HZ, subtype: str | None = None) -> Path:
    """Samples [T] or [T, channels] as a file of the suffix's format, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def cuts(n_samples: int) -> st.SearchStrategy[list[int]]:
    """Places, in order and some of them equal, at which a stream of `n_samples` is cut."""
    return st.lists(st.integers(0, n_samples), max_size=20).map(sorted)


def cut(samples: Samples, places: Sequence[int]) -> list[Samples]:
    """A stream [T] cut at these places; equal places give empty blocks."""
    return np.split(samples, list(places))


def every(n_samples: int, samples: Samples) -> list[Samples]:
    """A stream [T] in blocks of equal length and a remainder."""
    return cut(samples, range(n_samples, len(samples), n_samples))


def run(*arguments: str | Path, cwd: Path = ROOT) -> CompletedProcess[str]:
    """The command line in this process: its exit code and what it printed."""
    terminated, code = signal.getsignal(signal.SIGTERM), 0
    command = [str(argument) for argument in arguments]
    with contextlib.chdir(cwd), CliRunner().isolation() as (stdout, stderr, _):
        try:
            run_program(lambda: cli.main(command, prog_name="speechrnn", standalone_mode=False))
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, terminated)
        sys.stdout.flush()
    return CompletedProcess(command, code, stdout.getvalue().decode(), stderr.getvalue().decode())


def assert_one_line(failure: Exception | CompletedProcess[str], *parts: str) -> None:
    """An error that a user sees is one line, and names these parts; a program ends with 2."""
    if isinstance(failure, CompletedProcess):
        assert failure.returncode == 2, failure.stderr
        message = failure.stderr.removesuffix("\n")
    else:
        message = str(failure)
    assert message and "\n" not in message
    for part in parts:
        assert part in message


class PlayedSound:
    """Stands in for sounddevice: a microphone that records a recording, faster than in real time."""

    class PortAudioError(Exception):
        pass

    def __init__(self, path: Path) -> None:
        self._samples, self._rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        self.ended = threading.Event()

    def query_devices(self, device: object, kind: str) -> dict[str, Any]:
        return {"name": "played", "default_samplerate": float(self._rate_hz), "max_input_channels": 1}

    def InputStream(self, callback: Callable[..., None], blocksize: int, **options: object) -> SimpleNamespace:  # noqa: N802
        def play() -> None:
            for start in range(0, len(self._samples), blocksize):
                callback(self._samples[start : start + blocksize], blocksize, None, None)
                time.sleep(blocksize / self._rate_hz / PLAYED_SPEED)
            self.ended.set()

        thread = threading.Thread(target=play, daemon=True)
        return SimpleNamespace(start=thread.start, abort=thread.join, close=lambda: None)
