"""A model's network in two halves, so that the frames which overlapping contexts have in common are computed once.

A frame depends on its own samples alone, so this changes nothing but the order of rounding: posteriors differ by some
1e-6 from those of whole contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.recognizer import Recognizer, open_session

Array = NDArray[np.float32]
_MAX_DIFFERENCE = 1e-3
_N_TRIED = 8
_MIXING = ("Conv", "GRU", "LSTM", "RNN")


class Network(NamedTuple):
    """A recognizer as two functions: from stretches of audio to frames, and from the frames of contexts to posteriors.

    Where a network cannot be cut, a frame is one sample, and the second function is the whole of it.
    """

    frames: Callable[[Samples], Array]
    """Stretches [B, context_samples] to frames [B, N, F]."""
    posteriors: Callable[[Array], Array]
    """Frames [B, N, F] of contexts to class probabilities [B, C], each row a function of its own frames alone."""
    hop_samples: int
    """Samples between the starts of two frames."""
    frame_samples: int
    """Samples that one frame depends on."""
    n_frames: int
    """Frames of a context."""


def whole(recognizer: Recognizer) -> Network:
    """A network that is not cut: its frames are the samples."""
    n_samples = recognizer.info.spec.context_samples

    def posteriors(contexts: Array) -> Array:
        return recognizer.posteriors(contexts[:, :, 0])

    return Network(lambda stretches: stretches[:, :, None], _independent(posteriors, (n_samples, 1)), 1, 1, n_samples)


def cut(recognizer: Recognizer, step_ms: int) -> Network:
    """A recognizer cut after its features; whole where its graph or the step does not allow it.

    Needs the onnx package, without which the network stays whole, too, and takes about a third longer.
    """
    spec = recognizer.info.spec
    features, rate_hz = spec.features, spec.sample_rate_hz
    hop = features.hop_samples(rate_hz)
    n_frames = features.n_frames(spec.context_samples, rate_hz)
    if recognizer.path is None or recognizer.path.suffix != ".onnx" or (step_ms * rate_hz // 1000) % hop:
        return whole(recognizer)
    try:
        halves = _halves(recognizer.path, n_frames, features.n_features)
    except ImportError:
        return whole(recognizer)
    if halves is None:
        return whole(recognizer)
    frames, logits = map(_runner, halves)
    posteriors = _independent(Recognizer(recognizer.info, logits).posteriors, (n_frames, features.n_features))
    found = Network(frames, posteriors, hop, features.n_fft(rate_hz), n_frames)
    return found if _is_faithful(found, recognizer) else whole(recognizer)


def _independent(posteriors: Callable[[Array], Array], shape: tuple[int, int]) -> Callable[[Array], Array]:
    """A function of contexts [B, *shape] such that no row depends on the others, nor on how many there are.

    Networks in 8 bits scale a batch as a whole, so their contexts are run one by one. Others only round a context that
    is alone differently, so that it is run twice.
    """

    def together(frames: Array) -> Array:
        return posteriors(frames if len(frames) > 1 else np.repeat(frames, 2, axis=0))[: len(frames)]

    def one_by_one(frames: Array) -> Array:
        return np.concatenate([posteriors(frame[None]) for frame in frames])

    noise = np.random.default_rng(0).normal(0, np.logspace(-2, 0, _N_TRIED)[:, None, None], (_N_TRIED, *shape))
    tried = noise.astype(np.float32)
    is_independent = np.array_equal(together(tried), np.concatenate([together(frame[None]) for frame in tried]))
    return together if is_independent else one_by_one


def _halves(path: Any, n_frames: int, n_features: int) -> tuple[bytes, bytes] | None:
    """The graphs from samples to frames and from frames to logits; None where no tensor in it has their shape."""
    import onnx
    from onnx.utils import Extractor

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    name = _frames_of(model.graph, (n_frames, n_features))
    if name is None:
        return None
    first = Extractor(model).extract_model(["samples"], [name])
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] == "samples":
            node.input[0] = name  # of which only the size of the batch is used, as the check of the halves holds
    second = Extractor(model).extract_model([name], ["logits"])
    return first.SerializeToString(), second.SerializeToString()


def _frames_of(graph: Any, shape: tuple[int, int]) -> str | None:
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


def _runner(graph: bytes) -> Callable[[Array], Array]:
    session = open_session(graph)
    (name,) = (node.name for node in session.get_inputs())

    def run(values: Array) -> Array:
        outputs: list[Any] = session.run(None, {name: values})
        return np.asarray(outputs[0], dtype=np.float32)

    return run


def _is_faithful(network: Network, recognizer: Recognizer) -> bool:
    """Whether frames are shared by overlapping contexts, and give what the whole network gives, tried on noise."""
    n_samples, shift = recognizer.info.spec.context_samples, network.n_frames // 2
    stream = np.random.default_rng(0).normal(0, 0.1, n_samples + shift * network.hop_samples).astype(np.float32)
    contexts = np.stack([stream[:n_samples], stream[-n_samples:]])
    early, late = frames = network.frames(contexts)
    if np.abs(early[shift:] - late[: network.n_frames - shift]).max() > _MAX_DIFFERENCE:
        return False
    difference = network.posteriors(frames) - recognizer.posteriors(contexts)
    return bool(np.abs(difference).max() < _MAX_DIFFERENCE)
