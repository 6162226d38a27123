"""The pipelines as programs: the whole job with its card, and one clear line where it cannot be done."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from pipelines import build_model, evaluate_held_out, model_card
from speechrnn.cli.console import run_program
from speechrnn.cli.main import cli
from speechrnn.config import Data, Experiment, load_experiment
from speechrnn.data.clips import Pack
from speechrnn.errors import ConfigError, DataError, OutputError
from speechrnn.evaluation import clips as evaluation
from speechrnn.evaluation import operating_points
from speechrnn.evaluation.streams import StreamCurve
from speechrnn.evaluation.synthetic_streams import PRESETS, Material, Sound
from speechrnn.model.network import RecognizerNet, load_checkpoint, save_checkpoint
from speechrnn.recognizer import load
from speechrnn.spec import Classifier, Conv, ModelInfo, OperatingPoint, Options, Provenance
from tests.conftest import CONFIGS, SmokeRun
from tests.helpers import RATE_HZ, fake_recognizer, noise, silence, word, write_audio

ROOT = Path(__file__).parents[2]
SMOKE = CONFIGS / "smoke.toml"


@pytest.fixture(autouse=True)
def quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and short things to try."""
    monkeypatch.setattr(operating_points, "_SEEDS", (1,))
    monkeypatch.setattr(operating_points, "_SMOOTHINGS_MS", (300,))
    monkeypatch.setattr(operating_points, "_LOGITS", np.linspace(0, 4, 5))
    monkeypatch.setitem(PRESETS, "tensorflow", PRESETS["tensorflow"]._replace(duration_s=30.0))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["build_model", *map(str, arguments)])
    build_model.main()


@pytest.mark.slow
def test_a_finished_run_becomes_a_model_with_a_card_that_is_about_it(
    smoke_run: SmokeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(smoke_run.run_dir, tmp_path / "run" / "seed-1")
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


@pytest.mark.slow
def test_of_several_seeds_the_best_on_validation_ships_and_the_card_tells_of_all(
    smoke_run: SmokeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(experiment: Experiment, pack: Pack, run_dir: Path) -> Path:
        seed = experiment.train.seed
        net, info = load_checkpoint(smoke_run.checkpoint)
        scores = info.provenance.scores | {"validation balanced accuracy": {3: 0.5, 4: 0.75, 5: 0.7}[seed]}
        provenance = msgspec.structs.replace(info.provenance, scores=scores, config={"train": {"seed": seed}})
        run_dir.mkdir(parents=True)
        save_checkpoint(run_dir / "best.pt", net, msgspec.structs.replace(info, provenance=provenance))
        return run_dir / "best.pt"

    monkeypatch.setattr(build_model, "train", train)
    monkeypatch.setattr(evaluate_held_out, "SEEDS", (1,))
    for preset in evaluate_held_out.RULES:
        monkeypatch.setitem(PRESETS, preset, PRESETS[preset]._replace(duration_s=30.0))
    speech = tmp_path / "speech"
    shutil.copytree(smoke_run.data / "speech" / "training", speech)
    (speech / "transcripts.txt").write_text("".join(f"{file.stem} bed\n" for file in speech.glob("*.wav")))
    clips = smoke_run.data / "SpeechCommands" / "speech_commands_v0.02"
    places: list[str | Path] = ["--run-dir", tmp_path / "run", "--target", tmp_path, "--test", clips]
    run(monkeypatch, SMOKE, "--data", smoke_run.data, "--seeds", "3", "4", "5", *places, "--test-speech", speech)
    assert load(tmp_path / "smoke.onnx").info.provenance.config["train"]["seed"] == 4
    text = (tmp_path / "smoke.md").read_text()
    for expected in (
        "3 runs of other seeds, of which seed 4 ships",
        "75.00 % (mean 65.00, standard deviation 13.23)",
        "| | clips | seed 3 | seed 4, ships | seed 5 | mean (standard deviation) |",
        "| tensorflow | balanced |",
        "\n| sensitive | ",
        "## Operating points",
        "Held-out running speech",
    ):
        assert expected in text


PROTOCOLS = ("v1-12", "v2-12", "v2-35")


def commands_of(config: Path) -> list[str]:
    """The commands at the head of a configuration, each on one line."""
    head = config.read_text().partition("\n\n")[0].replace("\\\n#", "").splitlines()
    return [" ".join(line.removeprefix("#").split()) for line in head if line.startswith("#   ")]


def write_tree(folder: Path, words: Iterable[str]) -> None:
    """A clip of each word for each split, in a tree with official lists, and noise."""
    for split in "training", "validation", "testing":
        names = [f"{word}/{split}_nohash_0.wav" for word in words]
        for seed, name in enumerate(names):
            write_audio(folder / name, noise(RATE_HZ, seed=seed))
        if split != "training":
            (folder / f"{split}_list.txt").write_text("\n".join(names))
    write_audio(folder / "_background_noise_" / "hiss.wav", noise(6 * RATE_HZ))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_commands_at_the_head_of_a_protocol_train_and_score_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(experiment: Experiment, pack: Pack, run_dir: Path) -> Path:
        few_steps = Classifier(hidden_size=8, n_layers=1, conv=Conv(8, kernel_frames=25, stride_frames=25))
        spec = msgspec.structs.replace(experiment.model, classifier=few_steps)
        run_dir.mkdir(parents=True)
        provenance = Provenance(scores={"validation balanced accuracy": 0.5, "training contexts seen": 1})
        save_checkpoint(run_dir / "best.pt", RecognizerNet(spec).eval(), ModelInfo(spec=spec, provenance=provenance))
        return run_dir / "best.pt"

    def download(url: str, target: str) -> None:
        raise OSError(f"{url}: there is nothing to fetch")

    monkeypatch.setattr(build_model, "train", train)
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(CONFIGS)
    experiment = load_experiment(CONFIGS / f"{name}.toml")
    keywords, version = experiment.model.labels.keywords, experiment.data.commands[-len("v0.0x") :]
    write_tree(Path("data") / experiment.data.commands, {*keywords, "bed", "wow"})
    test_set = Path("data") / f"speech_commands_test_set_{version}"
    for label in ("_unknown_", "_silence_", *keywords):
        write_audio(test_set / label / "0c540988_nohash_0.wav", noise(RATE_HZ))

    prepare, train_and_score = commands_of(CONFIGS / f"{name}.toml")
    result = CliRunner().invoke(cli, shlex.split(prepare)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(sys, "argv", shlex.split(train_and_score)[2:])
    build_model.main()
    assert load(Path("my-models") / f"{name}.onnx").labels == experiment.model.labels.names
    text = (Path("my-models") / f"{name}.md").read_text()
    of_split = f"35 clips of the testing split of `speech_commands_{version}`."
    of_archive = f"12 clips of `{test_set.name}`; words that are no keyword count as unknown."
    assert (of_split if name == "v2-35" else of_archive) in text
    assert "accuracy" in capsys.readouterr().out


def test_the_page_on_training_has_the_command_of_every_protocol() -> None:
    page = " ".join((ROOT / "docs" / "train.md").read_text().replace("\\\n", "").split())
    for name in PROTOCOLS:
        assert f"$ {commands_of(CONFIGS / f'{name}.toml')[-1]}" in page


def test_streams_and_speech_are_judged_at_every_operating_point(tmp_path: Path) -> None:
    points = {"strict": OperatingPoint(threshold=1.0), "loose": OperatingPoint(threshold=0.3)}
    recognizer = fake_recognizer(msgspec.structs.replace(fake_recognizer().info, operating_points=points))
    for name, said in ("a", "yes"), ("b", "no"), ("c", "yes"):
        write_audio(tmp_path / f"{name}.wav", np.concatenate([silence(1), word(said), silence(1)]))
    (tmp_path / "transcripts.txt").write_text("a yes\nb know\nc yes yes\n")
    scores = evaluate_held_out.score_speech(recognizer, evaluate_held_out.read_speech(tmp_path))
    assert [scores["strict"].n_hits, scores["strict"].n_false_alarms] == [0, 0]
    assert [scores["loose"].n_hits, scores["loose"].n_spoken, scores["loose"].n_false_alarms] == [2, 3, 1]
    assert evaluate_held_out.mistaken(scores.values()) == "no known word for no (1)"


def test_the_curve_takes_misses_from_streams_and_false_alarms_from_speech(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_held_out, "SEEDS", (1,))
    monkeypatch.setitem(PRESETS, "clean", PRESETS["clean"]._replace(duration_s=30.0))
    hushed = Sound("yes", lambda: 0.001 * noise(8000))  # in which the recognizer detects nothing
    material = Material({"yes": [hushed]}, [hushed], [], [])
    spoken = write_audio(tmp_path / "a.wav", np.concatenate([silence(1), word("yes"), silence(1)]))
    options = Options(threshold=0.7, thresholds={"yes": 0.8})
    recognizer = fake_recognizer(msgspec.structs.replace(fake_recognizer().info, options=options))
    evaluate_held_out.draw_misses(recognizer, material, {spoken: Counter(["bed"])}, tmp_path / "curve.png")
    curve = msgspec.json.decode((tmp_path / "curve.json").read_bytes(), type=StreamCurve)
    (spotter,) = curve.spotter.values()
    for point in (curve.detector[0], spotter):
        assert point.miss_rate == 1
        assert point.false_alarms_per_hour == pytest.approx(3600 / 2.3, rel=0.01)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert spotter.thresholds == {"yes": 0.8}


def test_words_that_are_no_class_of_the_test_are_a_figure_of_their_own(smoke_run: SmokeRun, tmp_path: Path) -> None:
    words = smoke_run.data / "SpeechCommands" / "speech_commands_v0.02"
    for label, folder in ("yes", "yes"), ("no", "no"), ("bed", "_unknown_"), ("bed", "off"):
        shutil.copytree(words / label, tmp_path / folder)
    recognizer = load(smoke_run.model)
    test = evaluation.evaluate(recognizer, tmp_path)
    figures = {figure.name: figure for figure in evaluate_held_out.clip_figures(test, recognizer.info.spec.labels)}
    per_folder = test.per_folder
    n_clips, n_correct = (
        sum(getattr(per_folder[name], what) for name in ("yes", "no", "_unknown_")) for what in ("n", "correct")
    )
    assert figures["all classes"] == evaluate_held_out.Figure("all classes", n_clips, 100 * n_correct / n_clips)
    off = per_folder["off"]
    assert figures['"off" taken for unknown'].percent == pytest.approx(100 * off.correct / off.n)
    assert figures["keywords"].percent == pytest.approx(100 * test.keyword_accuracy)
    assert "silence" not in figures
    assert {"keywords 100 ms earlier", "keywords 100 ms later"} < figures.keys()


def test_figures_of_one_seed_have_no_mean() -> None:
    table = evaluate_held_out.clip_table({"1": [evaluate_held_out.Figure("keywords", 200, 95.0)]}, "1")
    assert table.to_markdown() == ["| | clips | seed 1 |", "|---|---|---|", "| keywords | 200 | 95.0 % |"]


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
    assert model_card.credits_of(data) == expected


@pytest.mark.parametrize(
    ("option", "error"), [("--target", OutputError), ("--test", DataError), ("--test-speech", DataError)]
)
def test_a_path_that_is_missing_is_known_before_the_work(
    option: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_model, "pack_audio", lambda experiment: pytest.fail("the work was begun"))
    (tmp_path / "file").touch()
    places = {"--target": tmp_path / "new", option: tmp_path / "file"}
    with pytest.raises(error, match="file"):
        run(monkeypatch, SMOKE, *(part for place in places.items() for part in place))


def test_what_cannot_be_scored_is_known_before_training(
    smoke_run: SmokeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_model, "train", lambda *given: pytest.fail("the work was begun"))
    clips = smoke_run.data / "SpeechCommands" / "speech_commands_v0.02"
    given: list[str | Path] = [SMOKE, "--data", smoke_run.data, "--target", tmp_path, "--test", clips]
    with pytest.raises(DataError, match="no truth found"):
        run(monkeypatch, *given, "--test-speech", smoke_run.data / "speech" / "training")
    with pytest.raises(DataError, match="leave out --split"):
        run(monkeypatch, *given, "--split", "testing", "--test-speech", smoke_run.data / "speech" / "training")
    with pytest.raises(DataError, match="is of the testing split; expected Speech Commands"):
        run(monkeypatch, *given[:-1], smoke_run.data / "noise", "--split", "testing")
    with pytest.raises(DataError, match="need --test"):
        run(monkeypatch, *given[:-2], "--split", "testing")
    with pytest.raises(ConfigError, match="--seeds: expected each seed once, got 1 2 1"):
        run(monkeypatch, *given, "--seeds", "1", "2", "1")


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["build_model", "mine_hard_negatives"])
def test_a_missing_configuration_is_one_clear_line(pipeline: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"pipelines.{pipeline}"]
    model = ["commands10"] if pipeline == "mine_hard_negatives" else []
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
