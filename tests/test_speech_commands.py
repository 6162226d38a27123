"""The pipelines as programs: the whole job with its card, and one clear line where it cannot be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import speech_commands
from speechrnn.cli import run_program
from speechrnn.config import Data
from speechrnn.errors import DataError, DeviceError
from speechrnn.runtime import load
from tests.conftest import CONFIGS, SmokeRun

ROOT = Path(__file__).parent.parent
SMOKE = CONFIGS / "smoke.toml"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["speech_commands", *map(str, arguments)])
    speech_commands.main()


def test_a_finished_run_becomes_a_model_with_a_card_that_is_about_it(
    smoke_run: SmokeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(smoke_run.run_dir, tmp_path / "run")
    clips = smoke_run.data / "SpeechCommands" / "speech_commands_v0.02"
    places: list[str | Path] = ["--run-dir", tmp_path / "run", "--target", tmp_path / "new", "--test", clips]
    run(monkeypatch, SMOKE, "--data", smoke_run.data, *places)
    assert load(tmp_path / "new" / "smoke.onnx").labels == ("yes", "no", "unknown", "silence")
    text = (tmp_path / "new" / "smoke.md").read_text()
    for expected in (
        "Recognises **yes**, **no**, unknown, silence, in 1 s of audio at 16 kHz.",
        "running speech from LibriSpeech",
        "noise from `noise`",
        "It knows 2 words",
        "clips of `speech_commands_v0.02`",
        "were taken for a keyword",
    ):
        assert expected in text
    for foreign in ("eight", "dogs", "ESC-10", "CPU", "half of its speakers", "v0.01"):
        assert foreign not in text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Data(), "words from [Speech Commands](https://arxiv.org/abs/1804.03209) (Pete Warden, Google, CC BY 4.0)"),
        (Data(commands="mine/words"), "words from `mine/words`"),
        (
            Data(commands="a", noise=("noise/esc10", "noise/esc10/b", "street")),
            "words from `a`; noise from ESC-10 (CC BY 3.0, Karol Piczak) and `street`",
        ),
    ],
)
def test_the_credits_are_those_of_the_configuration(data: Data, expected: str) -> None:
    assert speech_commands.credits_of(data) == expected


@pytest.mark.parametrize(("option", "error"), [("--target", DeviceError), ("--test", DataError)])
def test_a_place_that_is_missing_is_known_before_the_work(
    option: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_commands, "pack_audio", lambda experiment: pytest.fail("the work was begun"))
    (tmp_path / "file").touch()
    places = {"--target": tmp_path / "new", option: tmp_path / "file"}
    with pytest.raises(error, match="file"):
        run(monkeypatch, SMOKE, *(part for place in places.items() for part in place))


@pytest.mark.parametrize("pipeline", ["speech_commands", "choose_options"])
def test_a_missing_configuration_is_one_clear_line(pipeline: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"pipelines.{pipeline}"]
    model = ["commands8"] if pipeline == "choose_options" else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [*command, "none.toml", *model],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "speechrnn: none.toml: cannot read the configuration (No such file or directory); give a .toml file"
    ]


def test_an_interruption_is_one_line_and_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_program(interrupted)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
