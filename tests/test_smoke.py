"""The whole road on made data by the command line: prepare, train, export, then every command that reads a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import speechrnn
from speechrnn.cli.main import cli
from speechrnn.errors import ModelFileError
from tests import made_data
from tests.conftest import CONFIGS, SmokeRun


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def testing_clips(smoke_run: SmokeRun, tmp_path: Path) -> Path:
    """The clips that no part of training saw, as LABEL/*.wav."""
    commands = smoke_run.data / "SpeechCommands" / "speech_commands_v0.02"
    for name in (commands / "testing_list.txt").read_text().split():
        target = tmp_path / "clips" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((commands / name).read_bytes())
    return tmp_path / "clips"


def test_prepare_says_what_was_packed(smoke_run: SmokeRun) -> None:
    n_files = len(list(smoke_run.data.rglob("*.wav")))
    assert f"{smoke_run.data / 'packed'}: {n_files} clips" in smoke_run.printed["prepare"]


def test_prepare_reports_the_clips_that_cannot_be_used(tmp_path: Path) -> None:
    root = made_data.write(tmp_path, n_speakers=2, n_takes=1)
    broken = root / "SpeechCommands" / "speech_commands_v0.02" / "yes" / "broken_nohash_0.wav"
    broken.write_bytes(b"no audio")
    result = run("prepare", CONFIGS / "smoke.toml", "--data", root)
    assert "1 clips cannot be used" in result.output
    assert str(broken.relative_to(root)) in (root / "packed" / "problems.txt").read_text()


def test_training_reaches_nine_in_ten_and_says_so(smoke_run: SmokeRun) -> None:
    path, _, accuracy = smoke_run.printed["train"].strip().partition(": ")
    assert path == str(smoke_run.checkpoint)
    assert float(accuracy.split()[0]) >= 90


def test_train_takes_a_setting_from_the_command_line(smoke_run: SmokeRun, tmp_path: Path) -> None:
    settings = ["--set", "train.epochs=1", "--set", "train.warmup_epochs=0", "--set", "model.classifier.cell=rnn"]
    run("train", CONFIGS / "smoke.toml", "--data", smoke_run.data, "--run-dir", tmp_path, *settings)
    described = run("describe", tmp_path / "best.pt").stdout
    assert "rnn 1" in described
    assert "gru" not in described


@pytest.mark.parametrize(("kind", "called"), [("checkpoint", "training checkpoint"), ("model", "ONNX model")])
def test_describe_tells_what_a_model_is_and_how_it_was_made(smoke_run: SmokeRun, kind: str, called: str) -> None:
    text = run("describe", getattr(smoke_run, kind)).stdout
    lines = [line.split() for line in text.splitlines()]
    assert text.splitlines()[1].startswith(f"{called}, format 1, made 20")
    assert text.splitlines()[1].endswith(f"by speechrnn {speechrnn.__version__}")
    for line in (["labels.keywords", "yes", "no"], ["classifier.hidden_size", "32"], ["unknown.fraction", "0.35"]):
        assert line in lines
    assert ["words", "other_words/training"] in lines
    assert ["dir", str(smoke_run.data)] in lines
    assert ["batch_size", "16"] in lines
    assert ["shift_ms", "50"] in lines
    assert [line[1:4] for line in lines if line[:2] == ["gru", "1"]] == [["1", "25", "x"]]
    assert [float(line[2]) >= 0.9 for line in lines if line[:2] == ["validation", "accuracy"]] == [True]


def test_describe_without_torch_says_what_the_layers_need(smoke_run: SmokeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "speechrnn.model.classifier")
    text = run("describe", smoke_run.model).stdout
    assert "layers: not shown, for torch is not installed: pip install 'speechrnn[train]'" in text
    assert "gru" in text


@pytest.mark.parametrize("word", ["yes", "no"])
@pytest.mark.parametrize("kind", ["checkpoint", "model"])
def test_classify_names_the_word(smoke_run: SmokeRun, testing_clips: Path, word: str, kind: str) -> None:
    clip = sorted((testing_clips / word).iterdir())[0]
    found = json.loads(run("classify", clip, "--model", getattr(smoke_run, kind), "--format", "json").stdout)
    assert found["label"] == word
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_evaluate_scores_unseen_clips_and_draws_them(smoke_run: SmokeRun, testing_clips: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores" / "smoke.json"
    outputs: list[str | Path] = ["--json", scores, "--plots", tmp_path / "plots", "--report", tmp_path / "report.html"]
    result = run("evaluate", smoke_run.model, testing_clips, *outputs, "--noise", smoke_run.data / "noise")
    written = json.loads(scores.read_text())
    assert written["n"] == len(list(testing_clips.rglob("*.wav")))
    assert written["accuracy"] >= 0.9
    assert written["per_folder"]["bed"]["predicted"].get("unknown", 0) >= 3
    assert f"accuracy {100 * written['accuracy']:.2f} %" in result.stdout
    assert (tmp_path / "plots" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert [found["snr_db"] for found in written["noise"]] == [None, 20, 10, 5, 0]
    assert f"{100 * written['macro_f1']:.2f}" in (tmp_path / "report.html").read_text()


def test_evaluate_picks_the_clips_of_a_split(smoke_run: SmokeRun, testing_clips: Path, tmp_path: Path) -> None:
    commands = smoke_run.data / "SpeechCommands" / "speech_commands_v0.02"
    outputs: list[str | Path] = ["--json", tmp_path / "split.json", "--report", tmp_path / "report.html"]
    run("evaluate", smoke_run.model, commands, "--split", "testing", *outputs)
    run("evaluate", smoke_run.model, testing_clips, "--json", tmp_path / "alone.json")
    assert (tmp_path / "split.json").read_text() == (tmp_path / "alone.json").read_text()
    assert f"{commands}, testing split" in (tmp_path / "report.html").read_text()


def test_transcribe_finds_each_keyword_where_it_is(smoke_run: SmokeRun, tmp_path: Path) -> None:
    spoken = ["yes", "bed", "no", "yes", "cat", "no"]
    samples, starts = made_data.stream(spoken, 1.0, np.random.default_rng(5))
    made_data.write_wav(tmp_path / "stream.wav", samples)
    result = run("transcribe", tmp_path / "stream.wav", "--model", smoke_run.model, "--format", "json")
    found = json.loads(result.stdout)["detections"]
    expected = [(word, start) for word, start in zip(spoken, starts, strict=True) if word in ("yes", "no")]
    assert [detection["label"] for detection in found] == [word for word, _ in expected]
    for detection, (_, start) in zip(found, expected, strict=True):
        assert detection["start_s"] == pytest.approx(start, abs=0.5)


@pytest.mark.parametrize("verb", ["describe", "export"])
def test_the_state_of_a_run_is_no_model_and_says_what_is(smoke_run: SmokeRun, verb: str, tmp_path: Path) -> None:
    arguments = [verb, str(smoke_run.run_dir / "last.pt")] + ([str(tmp_path / "a.onnx")] if verb == "export" else [])
    with pytest.raises(ModelFileError, match=r"last\.pt: the state of a training run, not a model; give best\.pt"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
