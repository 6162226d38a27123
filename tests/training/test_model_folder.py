"""A model as a folder: it loads as the file does, and the Hub reads what its card says."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

from speechrnn.recognizer import load
from speechrnn.spec import ModelInfo
from speechrnn.training.model_folder import licence_line
from tests.conftest import Once
from tests.helpers import EXAMPLE, RATE_HZ, SmallModel, assert_one_line, run

SHIPPED = "commands10"
CLIPS = "spoken"


def export_shipped(folder: Path) -> None:
    clip = folder / CLIPS / "yes" / "one.wav"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(EXAMPLE.read_bytes())
    done = run("export", SHIPPED, folder / "words", "--audio", EXAMPLE, "--clips", folder / CLIPS)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def shipped(once: Once) -> Path:
    """The model of ten commands as a folder, checked on the first example and scored on it as a clip."""
    return once("shipped_folder", export_shipped) / "words"


@pytest.fixture(scope="module")
def own(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's checkpoint as a folder."""
    folder = tmp_path_factory.mktemp("own") / "mine.v1"
    done = run("export", small_model.checkpoint, folder, "--audio", EXAMPLE, "--license", "apache-2.0")
    assert done.returncode == 0
    assert "without model.int8.onnx" in done.stderr  # for it has no LSTM
    return folder


def test_a_folder_has_both_models_and_what_belongs_to_them(shipped: Path, own: Path) -> None:
    expected = {"README.md", "config.json", "model.onnx", "model.safetensors"}
    assert {path.name for path in own.iterdir()} == expected
    assert {path.name for path in shipped.iterdir()} == {*expected, "model.int8.onnx"}


def test_a_folder_is_loaded_as_its_file_is(shipped: Path, small_model: SmallModel, own: Path) -> None:
    contexts = np.zeros((2, RATE_HZ), dtype=np.float32)
    np.testing.assert_array_equal(load(shipped).logits(contexts), load(SHIPPED).logits(contexts))
    assert load(str(own)).info == small_model.info
    assert run("describe", shipped).stdout.startswith("model.onnx")


def test_the_configuration_says_what_the_metadata_say(shipped: Path) -> None:
    config = json.loads((shipped / "config.json").read_text())
    info = load(shipped).info
    assert config["sampling_rate"] == info.spec.sample_rate_hz
    assert [config["id2label"][str(i)] for i in range(len(info.spec.labels.names))] == [*info.spec.labels.names]
    assert {config["id2label"][str(i)]: i for i in config["label2id"].values()} == config["label2id"]
    assert msgspec.convert(config["speechrnn"], ModelInfo) == info


def test_weights_of_a_checkpoint_fit_its_network(own: Path, small_model: SmallModel) -> None:
    weights = {name: torch.from_numpy(value) for name, value in load_file(own / "model.safetensors").items()}
    expected = small_model.net.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_weights_of_an_onnx_file_have_the_names_of_the_network(shipped: Path) -> None:
    weights = load_file(shipped / "model.safetensors")
    assert weights["classifier.output.weight"].shape == (12, 256)
    assert weights["classifier.rnn.weight_hh_l0"].shape == (512, 128)
    assert not [name for name in weights if name.startswith("net.")]


def test_the_hub_reads_the_card_of_a_shipped_model(shipped: Path) -> None:
    card = ModelCard.load(shipped / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == ("mit", "speechrnn", "audio-classification")
    assert {"keyword-spotting", "onnx"} <= {*data["tags"]}
    assert (data["datasets"], data["language"]) == (["google/speech_commands"], ["en"])
    info = load(shipped).info
    measured = {(result.metric_name, result.dataset_name): result.metric_value for result in card.data.eval_results}
    scores = info.provenance.scores
    assert measured["float32: clips right", CLIPS] == scores[f"float32: clips right of {CLIPS}"]
    balanced = measured["validation balanced accuracy", "validation split of the training data"]
    assert balanced == scores["validation balanced accuracy"]
    spoken = {name: value for (name, dataset), value in measured.items() if dataset == "spoken keywords"}
    assert spoken == {f"misses at {name}": point.misses for name, point in info.operating_points.items()}
    title, first = card.content.split("---\n", 2)[2].strip().splitlines()[0:3:2]
    assert title == "# words"
    assert first.startswith("Free for commercial use: ")
    assert "| int8: changed detections | 0 |" in card.content
    assert "speechrnn listen --model OWNER/words" in card.content


def test_the_card_of_an_own_model_is_made_of_what_it_says(own: Path) -> None:
    card = ModelCard.load(own / "README.md")
    assert card.data.license == "apache-2.0"
    assert "datasets" not in card.data.to_dict()
    first = card.content.split("# mine.v1\n\n")[1].splitlines()[0]
    assert first == licence_line("apache-2.0")
    assert "Recognises **yes**, **nö, never**, unknown, silence, in 1 s of audio at 8 kHz." in card.content
    assert "model.int8.onnx" not in card.content


@pytest.mark.parametrize(("licence", "free"), [("mit", True), ("cc-by-4.0", True), ("cc-by-nc-4.0", False)])
def test_the_first_line_says_whether_the_weights_may_be_sold(licence: str, free: bool) -> None:
    assert ("allows commercial use" in licence_line(licence)) is free


def test_an_own_model_without_a_licence_is_not_written(small_model: SmallModel, tmp_path: Path) -> None:
    done = run("export", small_model.checkpoint, tmp_path / "mine", "--audio", EXAMPLE)
    assert_one_line(done, "--license")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_written_over_its_own_model(shipped: Path) -> None:
    assert_one_line(run("export", shipped, shipped, "--audio", EXAMPLE, "--license", "mit"), "is read here")
