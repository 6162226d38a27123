"""The verbs that listen: what `listen` prints, shows and leaves alone, and what `doctor` finds."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from speechrnn.audio import Samples, to_int16
from speechrnn.cli.doctor import check_sound, check_speed
from speechrnn.decoding import read
from speechrnn.detector import Detection
from speechrnn.recognizer import Recognizer, load
from speechrnn.sinks.live_view import LiveView, bar
from speechrnn.sources import FileSource
from speechrnn.spotter import KeywordSpotter
from tests.helpers import COMMAND, EXAMPLE, FAKE_INFO, ROOT, assert_one_line, fake_recognizer, run


@pytest.mark.parametrize(("delay_s", "is_ok"), [(0.0, True), (0.06, False)])
def test_doctor_tells_a_machine_that_is_too_slow(delay_s: float, is_ok: bool) -> None:
    quick = fake_recognizer()

    def logits(samples: Samples) -> Samples:
        time.sleep(delay_s)
        return quick.logits(samples)

    finding = check_speed(Recognizer(FAKE_INFO, logits), "commands10")
    assert (finding.ok, FAKE_INFO.options.step_ms) == (is_ok, 100)
    assert "one every 100 ms" in finding.seen


def test_listen_does_not_record_over_its_source(tmp_path: Path) -> None:
    path = tmp_path / "audio.wav"
    shutil.copy(EXAMPLE, path)
    assert_one_line(run("listen", "--source", path, "--save", path), str(path), "give another name")
    assert path.read_bytes() == EXAMPLE.read_bytes()


def test_transcribe_and_listen_find_the_same() -> None:
    transcribed = json.loads(run("transcribe", EXAMPLE, "--format", "json").stdout)["detections"]
    listened = run("listen", "--source", EXAMPLE, "--jsonl").stdout.splitlines()
    assert [json.loads(line) for line in listened] == transcribed != []


def test_a_pipe_gives_what_the_file_gives() -> None:
    pcm, command = to_int16(read(EXAMPLE, 16000)).tobytes(), [*COMMAND, "listen", "--source", "-", "--jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    from_pipe = subprocess.run(command, input=pcm, stdout=subprocess.PIPE, cwd=ROOT, env=environment, check=True).stdout
    assert from_pipe.decode() == run("listen", "--source", EXAMPLE, "--jsonl").stdout


def test_only_the_chosen_keywords_fire() -> None:
    lines = run("listen", "--source", EXAMPLE, "--jsonl", "--keywords", "left,stop").stdout.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["left", "stop"]
    assert_one_line(run("listen", "--source", EXAMPLE, "--keywords", "left,maybe"), "maybe: no keyword")


def test_the_view_shows_level_bars_and_detections() -> None:
    spotter = KeywordSpotter(load("commands10"))
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=40)
    view = LiveView(spotter, console=console)
    view.start(FileSource(EXAMPLE))
    block = np.ones(16000, dtype=np.float32)
    view.write(spotter.step(block)._replace(detections=[Detection("yes", 0.9, 1.3, 0.95, 1.6)]))
    view.note("the microphone is gone")
    view.close()
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for expected in ("commands.wav", "CLIPPING", "yes", "0.95", "300 ms", "1 detected", "gone", "0.0 s dropped"):
        assert expected in shown


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0, "    "), (0.5, "██  "), (1, "████"), (2, "████"), (0.28125, "█▏  ")]
)
def test_a_bar_is_as_long_as_its_fraction_of_the_width(fraction: float, expected: str) -> None:
    assert bar(fraction, 4) == expected


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (np.zeros(32000), "sound"),
        (np.clip(3 * np.sin(np.arange(32000) / 20), -1, 1), "clipping"),
        (0.05 * np.sin(np.arange(32000) / 20) + 0.2, "DC offset"),
        (0.1 * np.sin(np.arange(32000) / 20), None),
    ],
)
def test_the_doctor_names_what_is_wrong(samples: Samples, problem: str | None) -> None:
    bad = [finding.what for finding in check_sound(samples.astype(np.float32)) if not finding.ok]
    assert (problem in bad) if problem else bad == []
