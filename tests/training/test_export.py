"""A checkpoint as one ONNX file that computes the same and tells nothing of the machine it was made on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from speechrnn.errors import ModelFileError
from speechrnn.model.network import RecognizerNet
from speechrnn.recognizer import find_model, load, shipped_models
from speechrnn.spec import ModelInfo
from speechrnn.training import export
from tests.helpers import SmallModel, assert_one_line


@pytest.fixture
def exported_before(small_model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter copies the small model's file, so that only the check and what follows it run."""

    def copy(net: RecognizerNet, info: ModelInfo, path: Path) -> None:
        shutil.copy(small_model.onnx, path)

    monkeypatch.setattr(export, "_write", copy)


def other_network(model: SmallModel) -> RecognizerNet:
    """The small model with one bias moved by a thousandth."""
    net = RecognizerNet(model.info.spec).eval()
    net.load_state_dict(model.net.state_dict())
    with torch.no_grad():
        net.classifier.output.bias[1] += 1e-3
    return net


@pytest.mark.usefixtures("exported_before")
def test_export_returns_the_largest_difference(small_model: SmallModel, tmp_path: Path) -> None:
    net, info, _, _, contexts = small_model
    with torch.inference_mode():
        expected = net(torch.from_numpy(contexts)).numpy()
    difference = export.export(net, info, contexts, tmp_path / "model.onnx")
    largest = np.abs(load(tmp_path / "model.onnx").logits(contexts) - expected).max()
    assert largest <= difference <= export.MAX_DIFFERENCE
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.usefixtures("exported_before")
@pytest.mark.parametrize("old", [None, b"the model of yesterday"])
def test_a_file_that_computes_something_else_is_not_written(
    small_model: SmallModel, old: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    if old:
        path.write_bytes(old)
    with pytest.raises(ModelFileError) as caught:
        export.export(other_network(small_model), small_model.info, small_model.contexts, path)
    assert_one_line(caught.value, str(path), "not written", "0.001")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.usefixtures("exported_before")
def test_a_difference_that_is_no_number_is_refused(small_model: SmallModel, tmp_path: Path) -> None:
    net = other_network(small_model)
    with torch.no_grad():
        net.classifier.output.bias[0] = torch.nan
    with pytest.raises(ModelFileError):
        export.export(net, small_model.info, small_model.contexts, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_exported_model_takes_a_batch_of_contexts_and_gives_logits(small_model: SmallModel) -> None:
    graph = onnx.load(small_model.onnx).graph
    (samples,), (logits, embedding) = graph.input, graph.output
    assert (samples.name, logits.name, embedding.name) == ("samples", "logits", "embedding")
    batch, n_samples = samples.type.tensor_type.shape.dim
    assert batch.dim_param
    assert n_samples.dim_value == small_model.info.spec.context_samples
    assert logits.type.tensor_type.shape.dim[1].dim_value == len(small_model.info.spec.labels.names)


def test_the_exported_model_embeds_as_the_network_does(small_model: SmallModel) -> None:
    with torch.inference_mode():
        expected = small_model.net.embed(torch.from_numpy(small_model.contexts)).numpy()
    embeddings = load(small_model.onnx).embed(small_model.contexts)
    np.testing.assert_allclose(embeddings, expected, atol=export.MAX_DIFFERENCE)
    np.testing.assert_allclose(load(small_model.checkpoint).embed(small_model.contexts), expected, atol=1e-6)
    output = small_model.net.classifier.output
    logits = embeddings @ output.weight.detach().numpy().T + output.bias.detach().numpy()
    np.testing.assert_allclose(logits, load(small_model.onnx).logits(small_model.contexts), atol=1e-4)


def test_the_exported_file_is_self_contained(small_model: SmallModel, tmp_path: Path) -> None:
    alone = shutil.copy(small_model.onnx, tmp_path / "alone.onnx")
    proto = onnx.load(alone, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    tensors = [*proto.graph.initializer, *(t for function in proto.functions for t in _constants(function))]
    assert {tensor.data_location for tensor in tensors} == {onnx.TensorProto.DEFAULT}
    np.testing.assert_array_equal(
        load(alone).logits(small_model.contexts), load(small_model.onnx).logits(small_model.contexts)
    )


def _constants(function: onnx.FunctionProto) -> list[onnx.TensorProto]:
    return [attribute.t for node in function.node for attribute in node.attribute if attribute.HasField("t")]


def without_weights(path: Path) -> onnx.ModelProto:
    """A model without the bytes of its weights, in which anything may stand."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
    return proto


@pytest.mark.parametrize(
    "trace", [r"[/\\]\w[\w.-]*[/\\]", r"\w:\\", r"\.py\b", r"(?i)stack.?trace", r"(?i)traceback", r"site-packages"]
)
def test_the_graph_tells_nothing_of_the_machine_it_was_made_on(small_model: SmallModel, trace: str) -> None:
    for path in (small_model.onnx, *map(find_model, shipped_models())):
        proto = without_weights(path)
        del proto.metadata_props[:]
        assert not re.search(trace.encode(), proto.SerializeToString()), path


@pytest.mark.parametrize("name", shipped_models())
def test_the_provenance_of_a_shipped_model_names_no_absolute_path(name: str) -> None:
    (entry,) = without_weights(find_model(name)).metadata_props
    assert not re.search(r'"(/|\\|~|\w:)', entry.value)
