"""The graph of a model file in pieces that run apart, so that what overlapping contexts share is computed once.

Knows nodes and shapes, no audio. Every function needs the onnx package, and gives None for a graph that it does not
know how to cut; whether the pieces compute what the whole does is for others to try.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import onnx

_MIXING = ("Conv", "GRU", "LSTM", "RNN")
_FLOAT = 1  # onnx.TensorProto.FLOAT, without the package


class Stem(NamedTuple):
    """How the convolutions before the recurrent layers see frames, and which of their outputs a context's edges change.

    Output j of a context is centred on its frame `stride * j`. Beyond its edges a context is padded, so that its first
    and last outputs are its own. Those in between are the same in every context that they lie in.
    """

    n_frames: int
    """Frames of a context."""
    stride: int
    """Frames between two outputs."""
    reach: int
    """Frames on either side of the centre that an output depends on."""

    @property
    def n_left(self) -> int:
        """Outputs that the beginning of the context changes."""
        return -(-self.reach // self.stride)

    @property
    def first_right(self) -> int:
        """The first output that the end of the context changes."""
        return (self.n_frames - 1 - self.reach) // self.stride + 1

    @property
    def left(self) -> slice:
        """The frames that the outputs of the beginning depend on."""
        return slice(0, (self.n_left - 1) * self.stride + self.reach + 1)

    @property
    def right(self) -> slice:
        """The frames that the outputs of the end depend on."""
        return slice(self.first_right * self.stride - self.reach, self.n_frames)

    @property
    def inner(self) -> slice:
        """The last of the frames that each of the other outputs depends on."""
        first = self.n_left * self.stride + self.reach
        return slice(first, first + self.n_inner * self.stride, self.stride)

    @property
    def n_inner(self) -> int:
        """Outputs that no edge changes."""
        return self.first_right - self.n_left

    @property
    def n_outputs(self) -> int:
        """Outputs of a context."""
        return -(-self.n_frames // self.stride)


class Pieces(NamedTuple):
    """A network that begins its recurrent layers with convolutions and an LSTM, in graphs."""

    stem: Stem
    """What lies between frames and the LSTM."""
    frames: bytes
    """Samples [B, T] to frames [B, N, F]."""
    inner: bytes
    """Frames [B, N, F] to what the gates of the LSTM get of each [N - 2 * reach, B, G], no edge being near."""
    left: bytes
    """The frames `stem.left` of contexts to what the gates get of them [n, B, G]."""
    right: bytes
    """The frames `stem.right` of contexts to what the gates get of them [n, B, G]."""
    logits: bytes
    """What the gates get of all outputs to logits [B, C]: a tensor [N, B, n_gates] for each direction of the LSTM."""
    n_directions: int
    """1 or 2."""
    n_gates: int
    """Values that the gates of a direction get of a frame."""


def halves(path: Path, shape: tuple[int, int]) -> tuple[bytes, bytes] | None:
    """The graphs from samples to frames, and from frames [B, *shape] to logits."""
    from onnx.utils import Extractor

    model = _load(path)
    name = _frames_of(model.graph, shape)
    if name is None:
        return None
    first = Extractor(model).extract_model(["samples"], [name])
    _size_batch_by(model.graph, name, 0)
    second = Extractor(model).extract_model([name], ["logits"])
    return first.SerializeToString(), second.SerializeToString()


def pieces(path: Path, shape: tuple[int, int]) -> Pieces | None:
    """The graphs of a network whose frames are [B, *shape], if an LSTM over convolutions follows them."""
    from onnx.utils import Extractor

    model = _load(path)
    name, lstm = _frames_of(model.graph, shape), _lstm(model.graph)
    if name is None or lstm is None:
        return None
    projection = _projection(model, name, lstm.node)
    stem = _stem(projection.graph, shape[0])
    if stem is None:
        return None
    frames = Extractor(model).extract_model(["samples"], [name])
    return Pieces(
        stem,
        frames.SerializeToString(),
        _without_edges(projection).SerializeToString(),
        _with_edge(projection, 0).SerializeToString(),
        _with_edge(projection, 1).SerializeToString(),
        _with_loop(model, lstm).SerializeToString(),
        len(lstm.is_reversed),
        4 * lstm.size,
    )


def _load(path: Path) -> onnx.ModelProto:
    import onnx

    return onnx.shape_inference.infer_shapes(onnx.load(path))


def _frames_of(graph: onnx.GraphProto, shape: tuple[int, int]) -> str | None:
    """The last tensor [B, *shape] before what mixes frames."""
    shapes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim) for value in graph.value_info
    }
    found = None
    for node in graph.node:
        if node.op_type in _MIXING:
            break
        if len(node.output) == 1 and shapes.get(node.output[0], ())[1:] == shape:
            found = str(node.output[0])
    return found


def _size_batch_by(graph: onnx.GraphProto, name: str, axis: int) -> None:
    """Take the size of the batch, which is all that is asked of the shape of the samples, from another tensor."""
    import onnx

    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] == "samples":
            node.CopyFrom(onnx.helper.make_node("Shape", [name], node.output, start=axis, end=axis + 1))


def _attributes(node: onnx.NodeProto) -> dict[str, list[int]]:
    return {attribute.name: [*attribute.ints] for attribute in node.attribute}


def _stem(graph: onnx.GraphProto, n_frames: int) -> Stem | None:
    """What the convolutions of a graph do along the time, their first axis; None if an output is not centred."""
    reach, stride = 0, 1
    for node in _convolutions(graph):
        attributes = _attributes(node)
        n_axes, size = len(attributes["kernel_shape"]), attributes["kernel_shape"][0]
        if attributes["dilations"][0] != 1 or [*attributes["pads"][::n_axes]] != [size // 2] * 2 or size % 2 == 0:
            return None
        reach += size // 2 * stride
        stride *= attributes["strides"][0]
    return Stem(n_frames, stride, reach) if reach and 2 * reach < n_frames else None


def _convolutions(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if node.op_type == "Conv")


def _projection(model: onnx.ModelProto, name: str, lstm: onnx.NodeProto) -> onnx.ModelProto:
    """The graph from the frames `name` [B, N, F] to what the gates of an LSTM get of its input, [N, B, G]."""
    from onnx.helper import make_node, make_tensor_value_info
    from onnx.utils import Extractor

    model = copy.deepcopy(model)
    graph = model.graph
    directions_last, every = _constant(graph, "directions_last", [0, -1]), _constant(graph, "every", [-1])
    graph.node.extend(
        [
            make_node("Transpose", [lstm.input[1]], ["turned"], perm=[2, 0, 1]),
            make_node("Reshape", ["turned", directions_last], ["weights"]),
            make_node("Split", [lstm.input[3]], ["input_bias", "state_bias"], axis=1, num_outputs=2),
            make_node("Add", ["input_bias", "state_bias"], ["biases"]),
            make_node("Reshape", ["biases", every], ["bias"]),
            make_node("MatMul", [lstm.input[0], "weights"], ["unbiased"]),
            make_node("Add", ["unbiased", "bias"], ["gates"]),
        ]
    )
    graph.output.append(make_tensor_value_info("gates", _FLOAT, None))
    return Extractor(model).extract_model([name], ["gates"])


def _constant(graph: onnx.GraphProto, name: str, values: int | Sequence[int]) -> str:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
    return name


def _without_edges(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same convolutions, of any number of frames, without padding, and with an output for each frame."""
    model, dilation = copy.deepcopy(model), 1
    _free_shapes(model.graph)
    for node in _convolutions(model.graph):
        attributes = _attributes(node)
        n_axes, stride = len(attributes["strides"]), attributes["strides"][0]
        _set(node, "pads", {0: 0, n_axes: 0})
        _set(node, "dilations", {0: dilation})
        _set(node, "strides", {0: 1})
        dilation *= stride
    return model


def _with_edge(model: onnx.ModelProto, side: int) -> onnx.ModelProto:
    """The same convolutions, of any number of frames, padded at the beginning (side 0) or the end (side 1) alone."""
    model = copy.deepcopy(model)
    _free_shapes(model.graph)
    for node in _convolutions(model.graph):
        n_axes = len(_attributes(node)["strides"])
        _set(node, "pads", {(1 - side) * n_axes: 0})
    return model


def _set(node: onnx.NodeProto, name: str, values: dict[int, int]) -> None:
    """Change some of the numbers of an attribute."""
    (attribute,) = (each for each in node.attribute if each.name == name)
    for place, value in values.items():
        attribute.ints[place] = value


def _free_shapes(graph: onnx.GraphProto) -> None:
    """Let reshaped tensors [B, N, F] be of any N, and forget the shapes that were inferred."""
    from onnx import numpy_helper

    del graph.value_info[:]
    graph.input[0].type.tensor_type.shape.dim[1].dim_param = "frames"
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for number, node in enumerate(graph.node):
        size = sizes.get(node.input[1]) if node.op_type == "Reshape" else None
        if size is not None and len(size) == 3:
            node.input[1] = _constant(graph, f"size{number}", [0, -1, int(size[-1])])
            del node.attribute[:]  # else 0 is no size of the input


class _Lstm(NamedTuple):
    """An LSTM of a graph, by what of it is needed to write its recurrence anew."""

    node: onnx.NodeProto
    size: int
    """Values of a state."""
    is_reversed: tuple[bool, ...]
    """For each direction, whether it goes from the last frame to the first."""


def _lstm(graph: onnx.GraphProto) -> _Lstm | None:
    """The first recurrent layer of a graph, if it is an LSTM with biases."""
    from onnx.helper import get_node_attr_value

    node = next((node for node in graph.node if any(name in node.op_type for name in _MIXING[1:])), None)
    if node is None or node.op_type != "LSTM" or not node.input[3]:
        return None
    named = {b"forward": (False,), b"reverse": (True,), b"bidirectional": (False, True)}
    return _Lstm(node, get_node_attr_value(node, "hidden_size"), named[get_node_attr_value(node, "direction")])


def _with_loop(model: onnx.ModelProto, lstm: _Lstm) -> onnx.ModelProto:
    """The graph from what the gates of an LSTM get, a tensor [N, B, n_gates] for each direction, to the logits."""
    from onnx.helper import make_tensor_value_info
    from onnx.utils import Extractor

    model = copy.deepcopy(model)
    graph, output = model.graph, lstm.node.output[0]
    every = range(len(lstm.is_reversed))
    gates = [f"x{number}_all" for number in every]
    at = next(place for place, node in enumerate(graph.node) if output in node.output)
    kept = [*graph.node]
    del graph.node[:]
    graph.node.extend([*kept[:at], *_first_states(graph, lstm), _loop(lstm), *_joined(graph, lstm), *kept[at + 1 :]])
    graph.input.extend(make_tensor_value_info(name, _FLOAT, [None, None, 4 * lstm.size]) for name in gates)
    _size_batch_by(graph, gates[0], 1)
    weights = [f"R{number}" for number in every]  # the extractor does not look into the loop for them
    graph.output.extend(make_tensor_value_info(name, _FLOAT, None) for name in weights)
    extracted = Extractor(model).extract_model(gates, ["logits", *weights])
    del extracted.graph.output[1:]
    return extracted


def _first_states(graph: onnx.GraphProto, lstm: _Lstm) -> Iterator[onnx.NodeProto]:
    """The weights R, and the states h and c to begin with, of each direction."""
    from onnx.helper import make_node

    for number, _ in enumerate(lstm.is_reversed):
        place = _constant(graph, f"direction{number}", number)
        for source, name in ((2, "R"), (5, "h"), (6, "c")):
            yield make_node("Gather", [lstm.node.input[source], place], [f"{name}{number}"], axis=0)


def _joined(graph: onnx.GraphProto, lstm: _Lstm) -> Iterator[onnx.NodeProto]:
    """The states of all directions as one tensor [N, D, B, H], as an LSTM gives them."""
    from onnx.helper import make_node

    every = range(len(lstm.is_reversed))
    axis = _constant(graph, "direction_axis", [1])
    yield from (make_node("Unsqueeze", [f"y{number}_all", axis], [f"y{number}_one"]) for number in every)
    yield make_node("Concat", [f"y{number}_one" for number in every], lstm.node.output[:1], axis=1)


def _loop(lstm: _Lstm) -> onnx.NodeProto:
    """The recurrence of an LSTM, all directions at once, over what the gates get."""
    from onnx.helper import make_graph, make_node, make_tensor_value_info

    every = range(len(lstm.is_reversed))
    states = [f"{kind}{number}" for number in every for kind in "hc"]
    taken = [*(f"{state}_in" for state in states), *(f"x{number}" for number in every)]
    given = [*(f"{state}_out" for state in states), *(f"y{number}" for number in every)]
    nodes = [node for number in every for node in _cell(number)]
    inputs, outputs = (
        [make_tensor_value_info(name, _FLOAT, [None, None]) for name in names] for names in (taken, given)
    )
    body = make_graph(nodes, "cell", inputs, outputs)
    _constant(body, "closed_and_new", [3 * lstm.size, lstm.size])
    _constant(body, "each", [lstm.size] * 3)
    return make_node(
        "Scan",
        [*states, *(f"x{number}_all" for number in every)],
        [*(f"{state}_last" for state in states), *(f"y{number}_all" for number in every)],
        body=body,
        num_scan_inputs=len(every),
        scan_input_directions=[*map(int, lstm.is_reversed)],
        scan_output_directions=[*map(int, lstm.is_reversed)],
    )


def _cell(number: int) -> list[onnx.NodeProto]:
    """One step of an LSTM in a direction; its gates lie as ONNX has them: input, output, forget, and the new value."""
    from onnx.helper import make_node

    def names(*parts: str) -> list[str]:
        return [f"{part}{number}" for part in parts]

    h_in, c_in, h_out, c_out = (f"{kind}{number}_{end}" for end in ("in", "out") for kind in "hc")
    return [
        make_node("Gemm", [h_in, *names("R", "x")], names("sum"), transB=1),
        make_node("Split", [*names("sum"), "closed_and_new"], names("closed", "new"), axis=1),
        make_node("Sigmoid", names("closed"), names("open")),
        make_node("Tanh", names("new"), names("candidate")),
        make_node("Split", [*names("open"), "each"], names("i", "o", "f"), axis=1),
        make_node("Mul", names("i", "candidate"), names("added")),
        make_node("Mul", [*names("f"), c_in], names("kept")),
        make_node("Add", names("added", "kept"), [c_out]),
        make_node("Tanh", [c_out], names("squashed")),
        make_node("Mul", names("o", "squashed"), [h_out]),
        make_node("Identity", [h_out], names("y")),
    ]
