"""Eight bits: a file a third as large that decides the same, or none at all."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from speechrnn.audio import Samples
from speechrnn.decoding import read
from speechrnn.errors import ModelFileError
from speechrnn.labels import Labels
from speechrnn.listening import transcribe
from speechrnn.recognizer import Recognizer, find_model, load
from speechrnn.spec import ModelInfo, Spec
from speechrnn.training import quantization
from speechrnn.training.quantization import Parity, compare, quantize
from tests.conftest import Once
from tests.helpers import EXAMPLE, RATE_HZ, SmallModel, assert_one_line, fake_recognizer, noise, run, silence, word

FLOAT = find_model("commands10")


@pytest.fixture(scope="module")
def recording() -> Samples:
    return read(EXAMPLE, RATE_HZ)


@pytest.fixture(scope="module")
def int8(once: Once, recording: Samples) -> Path:
    """The model of ten commands in 8 bits, checked on the first example."""
    return once("int8", lambda folder: quantize(FLOAT, folder / "model.onnx", [recording])) / "model.onnx"


def test_the_file_is_a_third_as_large_and_finds_the_same_words(int8: Path) -> None:
    assert int8.stat().st_size < 0.31 * FLOAT.stat().st_size
    found, expected = (transcribe(EXAMPLE, model=model) for model in (int8, FLOAT))
    assert [detection.label for detection in found] == [detection.label for detection in expected]
    assert len(found) >= 5
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=0.01)


def test_inputs_outputs_and_metadata_stay_and_the_check_is_added_to_the_scores(int8: Path, recording: Samples) -> None:
    before, after = load(FLOAT), load(int8)
    scores = after.info.provenance.scores
    added = {name: scores[name] for name in scores.keys() - before.info.provenance.scores.keys()}
    assert added == compare(before, after, [recording]).scores()
    assert added["int8: steps"] == len(recording) // 1600
    provenance = msgspec.structs.replace(after.info.provenance, scores=before.info.provenance.scores)
    assert msgspec.structs.replace(after.info, provenance=provenance) == before.info
    contexts = np.stack([recording[:16000], recording[16000:32000]])
    one, other = before.embed(contexts), after.embed(contexts)
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() > 0.995


def test_only_recurrent_layers_are_quantised_and_nothing_is_left_that_no_output_needs(int8: Path) -> None:
    proto = onnx.load(int8)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("DynamicQuantizeLSTM") == 2
    assert [kind for kind in kinds if "Integer" in kind or "QuantizeLinear" in kind] == []
    assert [entry.key for entry in proto.metadata_props] == ["speechrnn"]
    used = {name for node in proto.graph.node for name in node.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= used


def test_what_is_in_8_bits_already_is_refused(int8: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        quantize(int8, tmp_path / "again.onnx", [silence(1)])
    assert_one_line(caught.value, str(int8), "float32", "DynamicQuantizeLSTM")


def test_a_model_without_lstm_layers_is_refused(small_model: SmallModel, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        quantize(small_model.onnx, tmp_path / "small.onnx", [silence(1)])
    assert_one_line(caught.value, str(small_model.onnx), "LSTM", "GRU")
    assert list(tmp_path.iterdir()) == []


def test_a_front_end_in_8_bits_loses_words_and_is_not_written(
    recording: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization import quant_utils, quantize_dynamic

    def everything(proto: onnx.ModelProto) -> onnx.ModelProto:
        quant_utils.add_pre_process_metadata(proto)
        quantize_dynamic(proto, tmp_path / "all.onnx", op_types_to_quantize=["MatMul"])
        return onnx.load(tmp_path / "all.onnx")

    monkeypatch.setattr(quantization, "_quantised", everything)
    with pytest.raises(ModelFileError) as caught:
        quantize(FLOAT, tmp_path / "model.onnx", [recording])
    assert_one_line(caught.value, str(tmp_path / "model.onnx"), "not written", "detections changed")
    assert [path.name for path in tmp_path.iterdir()] == ["all.onnx"]


def deaf(recognizer: Recognizer) -> Recognizer:
    """The same, with no score for its first keyword."""

    def logits(samples: Samples) -> Samples:
        scores = recognizer.logits(samples)
        scores[:, 0] = 0
        return scores

    return Recognizer(recognizer.info, logits)


def test_detections_that_are_missing_or_new_are_counted() -> None:
    info = ModelInfo(spec=Spec(labels=Labels(("yes", "no"))))
    recognizer = fake_recognizer(info)
    samples = np.concatenate([silence(1), word("yes"), silence(1), word("no"), silence(1)])
    same = compare(recognizer, recognizer, [samples, noise(RATE_HZ)])
    assert (same.mean_difference, same.max_difference, same.n_changed) == (0, 0, 0)
    assert (same.n_detections, same.n_changed_detections) == (2, 0)
    for pair in ((recognizer, deaf(recognizer)), (deaf(recognizer), recognizer)):
        differs = compare(*pair, [samples])
        assert differs.n_changed_detections == 1
        assert differs.n_changed > 0
        assert differs.max_difference > 0.9


@pytest.mark.parametrize(
    ("parity", "holds"),
    [
        (Parity(1000, 0.001, 0.9, 10, 300, 3), True),
        (Parity(1000, 0.001, 0.9, 11, 300, 3), False),
        (Parity(1000, 0.001, 0.9, 10, 300, 4), False),
        (Parity(1000, 0.006, 0.9, 10, 300, 3), False),
        (Parity(1000, float("nan"), float("nan"), 0, 300, 0), False),
        (Parity(1000, 0.001, 0.9, 0, 8, 1), True),
    ],
)
def test_bounds_of_a_difference(parity: Parity, holds: bool) -> None:
    assert parity.holds() is holds


@pytest.mark.slow
def test_the_verb_writes_beside_the_model_and_keeps_scores_of_clips(tmp_path: Path) -> None:
    model = tmp_path / "mine.onnx"
    model.write_bytes(FLOAT.read_bytes())
    clips = tmp_path / "clips" / "yes"
    clips.mkdir(parents=True)
    (clips / "yes.wav").write_bytes(EXAMPLE.read_bytes())
    done = run("quantize", model, "--audio", EXAMPLE, "--clips", tmp_path / "clips")
    assert (done.returncode, done.stderr) == (0, "")
    target = tmp_path / "mine.int8.onnx"
    first, *others = done.stdout.splitlines()
    assert re.match(rf"{re.escape(str(target))}: \d+ kB of \d+; on 1 recordings of .* detections changed$", first)
    assert [line.split(":")[0] for line in others] == ["float32", "int8"]
    assert load(target).info.provenance.scores["int8: clips right of clips"] in (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["commands10", "out.bin", "--audio", EXAMPLE], ["out.bin", ".onnx"]),
        (["commands10", "out.onnx", "--audio", "no/such"], ["no/such", "--audio"]),
        (["commands11"], ["commands11", "commands10"]),
        ([FLOAT, FLOAT, "--audio", EXAMPLE], ["is read here"]),
    ],
    ids=str,
)
def test_what_cannot_be_quantised_is_one_clear_line(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    assert_one_line(run("quantize", *arguments, cwd=tmp_path), *parts)
    assert list(tmp_path.iterdir()) == []
