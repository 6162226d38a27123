"""The graph of a model with own words: the network as it is, and after its embedding a layer for each further word."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.errors import ModelFileError
from speechrnn.recognizer import Recognizer, set_info
from speechrnn.spec import ModelInfo

if TYPE_CHECKING:
    import onnx

Array = NDArray[np.float32]


class Layer(NamedTuple):
    """The scores of own words: embedding [B, D] times `weights`, plus `bias`."""

    weights: Array
    """[D, words]."""
    bias: Array
    """[words]."""


class Columns(NamedTuple):
    """Which class scores of the network before go into those of the new one."""

    kept: tuple[int, ...]
    """Keywords that stay, in order."""
    merged: tuple[int, ...]
    """What becomes one class, unknown: the sum of these posteriors. Empty without such a class."""
    silence: int | None
    """The class of silence, if there is one."""

    def apply(self, base: NDArray[Any], own: NDArray[Any]) -> NDArray[Any]:
        """Class scores of the new network [B, C], from those before [B, C'] and those of own words [B, words]."""
        parts = [base[:, list(self.kept)], own]
        if self.merged:
            parts.append(np.logaddexp.reduce(base[:, list(self.merged)], axis=1)[:, None])
        if self.silence is not None:
            parts.append(base[:, [self.silence]])
        return np.concatenate(parts, axis=1)


def base_scores(recognizer: Recognizer) -> Callable[[Array], Array]:
    """The part of a network after its embedding: embeddings [B, D] to class scores [B, C].

    Raises ModelFileError for a model that is no ONNX file.
    """
    import onnx.utils
    import onnxruntime

    extractor = onnx.utils.Extractor(_load(recognizer))
    part = extractor.extract_model(["embedding"], ["logits"])
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])

    def scores(embeddings: Array) -> Array:
        outputs: list[Any] = session.run(["logits"], {"embedding": embeddings.astype(np.float32)})
        return np.asarray(outputs[0], dtype=np.float32)

    return scores


class _Graph:
    """A graph to which nodes are added; their names begin with a prefix that no other has."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._prefix = _unused(model, "own_words")

    def rename(self, before: str) -> str:
        """Give what is called so another name."""
        after = f"{self._prefix}_{before}_before"
        for one in self._graph.node:
            one.output[:] = [after if name == before else name for name in one.output]
            one.input[:] = [after if name == before else name for name in one.input]
        return after

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an array."""
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(values, f"{self._prefix}_{name}"))
        return f"{self._prefix}_{name}"

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node, and give the name of its output."""
        from onnx import helper

        output = f"{self._prefix}_{name}"
        self._graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def pick(self, scores: str, columns: tuple[int, ...], name: str) -> str:
        """Add a node that takes some columns."""
        return self.add("Gather", [scores, self.constant(f"{name}_at", np.array(columns, np.int64))], name, axis=1)

    def finish(self, parts: list[str], n: int) -> None:
        """Make these columns, `n` in all, the output of the graph."""
        from onnx import TensorProto, helper

        shape: list[str | int | None] = ["batch", n]
        self._graph.node.append(helper.make_node("Concat", parts, ["logits"], axis=1))
        output = next(one for one in self._graph.output if one.name == "logits")
        output.CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape))


def extended(recognizer: Recognizer, layer: Layer, columns: Columns, info: ModelInfo) -> bytes:
    """The content of a model file with own words; the network of `recognizer` is in it unchanged."""
    model = _load(recognizer)
    graph = _Graph(model)
    before = graph.rename("logits")
    parts = [graph.pick(before, columns.kept, "kept")] if columns.kept else []
    weights = graph.constant("weights", layer.weights), graph.constant("bias", layer.bias)
    parts.append(graph.add("Gemm", ["embedding", *weights], "scores"))
    if columns.merged:
        merged = graph.pick(before, columns.merged, "merged")
        last = graph.constant("last", np.array([1], np.int64))
        parts.append(graph.add("ReduceLogSumExp", [merged, last], "unknown", keepdims=1))
    if columns.silence is not None:
        parts.append(graph.pick(before, (columns.silence,), "silence"))
    graph.finish(parts, len(info.spec.labels.names))
    set_info(model, info)
    return bytes(model.SerializeToString())


def _load(recognizer: Recognizer) -> onnx.ModelProto:
    import onnx

    if recognizer.path is None or recognizer.path.suffix != ".onnx":
        raise ModelFileError(
            f"{recognizer.path}: expected an exported model, a .onnx file; export it: speechrnn export"
        )
    return onnx.load(recognizer.path)


def _unused(model: onnx.ModelProto, name: str) -> str:
    """A prefix of names that no node of the graph has: words may be added to a model that was taught before."""
    taken = {output for node in model.graph.node for output in node.output}
    return next(prefix for n in range(1, 1000) for prefix in [f"{name}_{n}"] if f"{prefix}_scores" not in taken)
