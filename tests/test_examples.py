"""The examples run as a user would run them, and print what they are for."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import speechrnn
from speechrnn.listening import listen
from tests.serving.server import Serving

EXAMPLES = Path(__file__).parent.parent / "examples"
COMMANDS = ["yes", "no", "up", "down", "left", "right", "stop", "go"]
DRIVE = ["go", "left", "right", "go", "stop"]
MENU = ["down", "down", "yes", "up", "no"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run an example with arguments, from where its paths start, and give what it printed."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.chdir(EXAMPLES.parent)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def words(text: str) -> list[str]:
    return re.findall(rf"\b(?:{'|'.join(COMMANDS)})\b", text)


def test_the_light_is_switched_by_two_words(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    sound = speechrnn.FileSource(EXAMPLES / "audio" / "commands.wav")
    monkeypatch.setattr(speechrnn, "listen", lambda: listen(sound), raising=False)
    assert run("light.py").splitlines() == ["light on", "light off"]


def test_a_source_of_one_s_own_is_one_stream(run: Callable[..., str]) -> None:
    assert words(run("own_source.py")) == COMMANDS + DRIVE + MENU


def test_the_websocket_client_prints_the_words(run: Callable[..., str]) -> None:
    with Serving(speechrnn.load("commands10")) as serving:
        assert words(run("websocket_client.py", f"ws://{serving.host}/v1/listen")) == COMMANDS


def test_a_recording_is_scored(run: Callable[..., str]) -> None:
    assert run("score_recording.py").startswith("5 of 5 keywords found, 0 false alarms\nmedian delay")


def test_one_second_becomes_posteriors_with_the_word_first(run: Callable[..., str]) -> None:
    lines = run("one_second.py").splitlines()
    assert lines[0].startswith("16000 samples become 97 frames of 40 MFCCs")
    posteriors = {label: float(value) for label, value, *_ in map(str.split, lines[1:])}
    assert {*posteriors} == {*COMMANDS, "on", "off", "unknown", "silence"}
    assert posteriors["yes"] > 0.9
    assert sum(posteriors.values()) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebook_runs_and_ends_with_the_words(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert words("".join(output.text for output in notebook.cells[-1].outputs)) == COMMANDS
