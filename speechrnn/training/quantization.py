"""A model file with the weights of its recurrent layers in 8 bits: a third of the size, and faster.

Everything else stays in float32. The front-end does not stand it: its logarithm makes errors of faint bands large, and
words are lost; convolutions and the output are too small to be worth it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from speechrnn.audio import Samples
from speechrnn.decoding import read
from speechrnn.detector import Detection
from speechrnn.errors import ModelFileError
from speechrnn.folders import find_audio
from speechrnn.listening import transcribe
from speechrnn.recognizer import METADATA_KEY, Recognizer, load, save_info
from speechrnn.sources import ArraySource
from speechrnn.spotter import posteriors

MAX_MEAN_DIFFERENCE = 0.005
"""Of a posterior, on average over all steps."""
MAX_CHANGED_RATE = 0.01
"""Fraction of the steps, and of the detections, that may change."""
_QUANTISED = "LSTM"  # the recurrent layer of which ONNX Runtime has an 8-bit form
_RECURRENT = (_QUANTISED, "GRU", "RNN")
_ALIKE_S = 0.2


class Parity(NamedTuple):
    """How far a quantised model decides as the one it was made of does, on the same recordings."""

    n_steps: int
    """Steps that were compared."""
    mean_difference: float
    """Mean over the steps of the largest difference of a posterior."""
    max_difference: float
    """Largest difference of a posterior."""
    n_changed: int
    """Steps at which another class is the most probable."""
    n_detections: int
    """Detections of the model in float32."""
    n_changed_detections: int
    """Those that the quantised one lacks, and those that it alone has."""

    def holds(self) -> bool:
        """Whether the differences are within the bounds of this module. False where they are no numbers."""
        changed = self.n_changed <= MAX_CHANGED_RATE * self.n_steps
        alike = self.n_changed_detections <= max(1, MAX_CHANGED_RATE * self.n_detections)
        return changed and alike and self.mean_difference <= MAX_MEAN_DIFFERENCE

    def scores(self) -> dict[str, float]:
        """The fields by the names under which a model file keeps them."""
        fields = self._asdict().items()
        return {f"int8: {name.removeprefix('n_').replace('_', ' ')}": float(value) for name, value in fields}

    def __str__(self) -> str:
        return (
            f"posteriors differ by {self.mean_difference:.4f} on average and {self.max_difference:.3f} at most, "
            f"{self.n_changed} of {self.n_steps} steps have another class, "
            f"{self.n_changed_detections} of {self.n_detections} detections changed"
        )


def recordings_of(folder: Path, sample_rate_hz: int, n: int) -> list[Samples]:
    """Some `n` recordings [T], spread evenly over a folder; a file is a folder of one. Raises AudioError."""
    files = find_audio(folder)
    return [read(file, sample_rate_hz) for file in files[:: max(1, len(files) // n)]]


def quantize(model: Path, target: Path, recordings: Sequence[Samples]) -> Parity:
    """Write the ONNX file `model` as `target` with the weights of its LSTM layers in 8 bits, checked on recordings [T].

    Inputs, outputs and metadata stay; what the check gave is added to the scores. Raises ModelFileError, and writes
    nothing, if the model has no such layer, or decides differently: beyond MAX_MEAN_DIFFERENCE or MAX_CHANGED_RATE.
    """
    recognizer = load(model)
    proto = onnx.load(model)
    _check_layers(model, proto.graph)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "model.onnx"
        onnx.save(_quantised(proto), part)
        parity = compare(recognizer, load(part), recordings)
        if not parity.holds():
            raise ModelFileError(f"{target}: not written: with 8 bits {parity}; that is too far, keep {model}")
        save_info(part, target, recognizer.info.with_scores(parity.scores()))
    return parity


def compare(recognizer: Recognizer, other: Recognizer, recordings: Iterable[Samples]) -> Parity:
    """Compare two models on recordings [T] at their rate, step by step and by what is detected."""
    differences, n_changed, n_detections, n_changed_detections = [np.zeros(0)], 0, 0, 0
    for samples in recordings:
        here, there = (np.stack([*posteriors(each, [samples])]) for each in (recognizer, other))
        differences.append(np.abs(here - there).max(axis=1))
        n_changed += int((here.argmax(axis=1) != there.argmax(axis=1)).sum())
        source = ArraySource(samples, recognizer.info.spec.sample_rate_hz)
        found, found_there = (transcribe(source, model=each) for each in (recognizer, other))
        n_detections += len(found)
        n_changed_detections += _n_unlike(found, found_there) + _n_unlike(found_there, found)
    all_differences = np.concatenate(differences)
    mean, largest = float(all_differences.mean()), float(all_differences.max())
    return Parity(len(all_differences), mean, largest, n_changed, n_detections, n_changed_detections)


def _n_unlike(detections: Sequence[Detection], others: Sequence[Detection]) -> int:
    """Detections that have none of their keyword at their time among the others."""
    return sum(
        not any(other.label == one.label and abs(other.end_s - one.end_s) <= _ALIKE_S for other in others)
        for one in detections
    )


def _check_layers(model: Path, graph: onnx.GraphProto) -> None:
    recurrent = {node.op_type for node in graph.node} & {*_RECURRENT, "DynamicQuantizeLSTM"}
    if recurrent != {_QUANTISED}:
        raise ModelFileError(
            f"{model}: expected a model in float32 with LSTM layers, which are what 8 bits are for, got "
            f"{', '.join(sorted(recurrent)) or 'no recurrent layer'}"
        )


def _quantised(proto: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quant_utils, quantize_dynamic

    _fold_weights(proto)
    quant_utils.add_pre_process_metadata(proto)  # else it warns, for it would rather fold the front-end, too
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        quantize_dynamic(proto, path, op_types_to_quantize=[_QUANTISED], weight_type=QuantType.QInt8)
        result = onnx.load(path)
    kept = [entry for entry in result.metadata_props if entry.key == METADATA_KEY]
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    del result.graph.value_info[:]
    result.ir_version = proto.ir_version
    return result


def _fold_weights(proto: onnx.ModelProto) -> None:
    """Compute what recurrent layers take as weights, which the exporter leaves to the graph, into initialisers."""
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {name for node in graph.node if node.op_type in _RECURRENT for name in node.input[1:4]}
    weights = sorted(inputs - stored - {""})
    values = _computed(proto, weights)
    graph.initializer.extend(map(numpy_helper.from_array, values, weights))
    kept = _needed(graph, [output.name for output in graph.output], {*weights})
    used = {name for node in kept for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)


def _computed(proto: onnx.ModelProto, names: Sequence[str]) -> list[np.ndarray]:
    """The values of a graph that depend on its initialisers alone."""
    import onnxruntime

    nodes = _needed(proto.graph, names, set())
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in names]
    graph = onnx.helper.make_graph(nodes, "weights", [], outputs, tensors)
    part = onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run([*names], {})]


def _needed(graph: onnx.GraphProto, names: Iterable[str], given: set[str]) -> list[onnx.NodeProto]:
    """The nodes, in their order, that some values are computed by when others are given."""
    wanted = {*names} - given
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted & {*node.output}:
            nodes.insert(0, node)
            wanted |= {*node.input} - given
    return nodes
