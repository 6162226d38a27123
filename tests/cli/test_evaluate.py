"""The verbs that measure a model: what they print and write, and one line for what cannot be scored."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.bad_audio import empty, missing, not_a_number
from tests.helpers import EXAMPLE, assert_one_line, run, write_audio


@pytest.mark.parametrize("name", ["curve", "curve.xyz", "curve.json"])
def test_a_curve_that_is_no_picture_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    result = run("score", EXAMPLE, "--curve", tmp_path / name)
    assert_one_line(result, str(tmp_path / name), ".png")
    assert (result.stdout, list(tmp_path.iterdir())) == ("", [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "commands10", "examples/audio", "--plots"],
        ["evaluate", "commands10", "examples/audio", "--report"],
        ["score", "examples/audio", "--curve"],
    ],
    ids=" ".join,
)
def test_pictures_without_matplotlib_are_one_clear_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "speechrnn.evaluation.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert_one_line(run(*arguments, tmp_path / "new"), "matplotlib", "pip install 'speechrnn[train]'")
    assert list(tmp_path.iterdir()) == []


def test_score_counts_what_was_found_and_writes_score_and_curve(tmp_path: Path) -> None:
    table, curve = tmp_path / "score.json", tmp_path / "curve.png"
    result = run("score", "examples/audio", "--json", table, "--curve", curve)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("3 recordings")
    score = json.loads(table.read_text())
    assert (score["n_spoken"], score["n_hits"], score["n_false_alarms"]) == (18, 18, 0)
    assert 0 < score["delay_p50_ms"] < 400
    assert curve.read_bytes().startswith(b"\x89PNG")
    points = json.loads(curve.with_suffix(".json").read_text())
    assert points["spotter"]["as set"]["miss_rate"] == 0
    assert len(points["detector"]) > 50


def test_score_takes_detections_and_gives_what_it_gives_for_the_recording(tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    assert run("transcribe", EXAMPLE, "--format", "json", "--output", words).returncode == 0
    scores = []
    for audio in (EXAMPLE, words):
        run("score", audio, "--rule", "tensorflow", "--json", tmp_path / "score.json")
        scores.append(json.loads((tmp_path / "score.json").read_text()))
    assert {key for key in scores[0] if scores[0][key] != scores[1][key]} <= {"hours"}  # the length is rounded
    assert scores[0]["rule"] == "tensorflow"
    assert_one_line(run("score", words, "--curve", tmp_path / "curve.png"), "--curve", "got detections")


@pytest.mark.parametrize(
    "option", [("--threshold", "0.99"), ("--threshold", "banana=0.9"), ("--operating-point", "strict")]
)
def test_score_refuses_options_that_change_nothing_in_detections(option: tuple[str, str], tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text('{"audio": "examples/audio/commands.wav", "duration_s": 13.2, "detections": []}')
    assert_one_line(run("score", words, *option), " ".join(option), "detections")
    of_recordings = run("score", words, EXAMPLE, *option)
    assert of_recordings.returncode == (2 if "banana" in option[1] else 0)


def test_score_refuses_detections_of_no_keyword(tmp_path: Path) -> None:
    words = tmp_path / "words.jsonl"
    found = {"label": "banana", "start_s": 1.0, "end_s": 1.4, "score": 0.9}
    words.write_text(json.dumps({"audio": str(EXAMPLE), "duration_s": 13.2, "detections": [found]}))
    assert_one_line(run("score", words, EXAMPLE), str(words), "banana: no keyword")


def no_detections(folder: Path) -> Path:
    return folder / "words.json"


@pytest.mark.parametrize(
    ("make", "expected"),
    [(missing, "no such file"), (empty, "empty file"), (not_a_number, "NaN"), (no_detections, "cannot read")],
)
def test_score_goes_on_after_what_cannot_be_read(make: Callable[[Path], Path], expected: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    if make is not_a_number:  # which is only known once it is decoded
        path.with_suffix(".txt").touch()
    result = run("score", path, EXAMPLE)
    assert (result.returncode, result.stdout.splitlines()[0][:12]) == (2, "1 recordings")
    first, last = result.stderr.splitlines()
    assert f"{path}: " in first and expected in first
    assert "1 of 2 inputs failed" in last


def test_detections_are_not_held_against_themselves(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path / "talk.wav")
    (tmp_path / "talk.json").write_text('{"audio": "talk.wav", "duration_s": 13.2, "detections": []}')
    assert_one_line(run("score", "talk.json", cwd=tmp_path), "talk.json", "its own truth", "--truth")


def test_a_device_may_be_named_twice() -> None:
    result = run("evaluate", "commands10", "no/such/folder", "--json", os.devnull, "--report", os.devnull)
    assert_one_line(result, "expected a folder laid out as LABEL/*.wav")


@pytest.mark.parametrize("arguments", [["--truth", "none.txt"], ["--truth", "docs"], ["--truth", "pyproject.toml"]])
def test_score_needs_the_truth(arguments: list[str]) -> None:
    assert_one_line(run("score", EXAMPLE, *arguments), "expected")


def test_score_writes_over_nothing_that_it_reads(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path / "talk.wav")
    shutil.copy(EXAMPLE.with_suffix(".labels.txt"), tmp_path / "talk.labels.txt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("talk.wav", "talk.labels.txt"):
        assert_one_line(run("score", "talk.wav", "--json", name, cwd=tmp_path), name, "give another name")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_scores_and_the_numbers_of_a_curve_go_to_different_files(tmp_path: Path) -> None:
    result = run("score", EXAMPLE, "--json", "score.json", "--curve", "score.png", cwd=tmp_path)
    assert_one_line(result, "--json score.json", "--curve", "give another name")
    assert list(tmp_path.iterdir()) == []


def test_evaluate_writes_over_nothing_that_it_reads(tmp_path: Path) -> None:
    clip = write_audio(tmp_path / "clips" / "yes" / "0.wav", np.full(16000, 0.1, dtype=np.float32))
    before = clip.read_bytes()
    assert_one_line(run("evaluate", "commands10", tmp_path / "clips", "--report", clip), str(clip), "give another name")
    assert clip.read_bytes() == before
