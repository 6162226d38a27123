"""A model's network in pieces, so that what overlapping contexts have in common is computed once.

That is their features, and where an LSTM over convolutions follows these, what the convolutions make of a frame that no
edge of the context is near, and what the gates of the LSTM get of that. Nothing changes but the order of rounding:
posteriors differ by some 1e-6 from those of whole contexts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.bulk import graphs
from speechrnn.recognizer import Recognizer, open_session, softmax

Array = NDArray[np.float32]
Contexts = Sequence[Array] | Array
"""The frames [N, F] of contexts."""
_MAX_DIFFERENCE = 1e-3
_N_TRIED = 8


class Network(NamedTuple):
    """A recognizer as two functions: from stretches of audio to frames, and from the frames of contexts to posteriors.

    Where a network cannot be cut, a frame is one sample, and the second function is the whole of it.
    """

    frames: Callable[[Samples], Array]
    """Stretches [B, context_samples] to frames [B, N, F]."""
    posteriors: Callable[[Contexts], Array]
    """Frames [N, F] of B contexts to class probabilities [B, C], each row a function of its own frames alone."""
    hop_samples: int
    """Samples between the starts of two frames."""
    frame_samples: int
    """Samples from the start of a frame to the end of those that it depends on."""
    n_frames: int
    """Frames of a context."""
    silence: Array
    """Class probabilities [C] of a context that is digital silence."""
    n_before: int = 0
    """Frames before it that a frame depends on, too. So many at the beginning of a stretch are not as they are within
    one; at the beginning of a context it makes no difference."""


def whole(recognizer: Recognizer) -> Network:
    """A network that is not cut: its frames are the samples."""
    n_samples = recognizer.info.spec.context_samples

    def posteriors(contexts: Contexts) -> Array:
        return recognizer.posteriors(np.stack([*contexts])[:, :, 0])

    return _network(recognizer, lambda stretches: stretches[:, :, None], posteriors, (1, 1, n_samples), 1)


def _network(
    recognizer: Recognizer,
    frames: Callable[[Samples], Array],
    posteriors: Callable[[Contexts], Array],
    sizes: tuple[int, int, int],
    n_values: int,
    n_before: int = 0,
) -> Network:
    """A network, whose frames are of `n_values`, that knows what silence gives, and runs no stretch of it twice."""
    silent = frames(np.zeros((1, recognizer.info.spec.context_samples), dtype=np.float32))
    alone = _independent(posteriors, (sizes[2], n_values))

    def frames_of_audible(stretches: Samples) -> Array:
        is_audible = stretches.any(axis=1)
        if is_audible.all():
            return frames(stretches)
        found = np.repeat(silent, len(stretches), axis=0)
        if is_audible.any():
            found[is_audible] = frames(stretches[is_audible])
        return found

    return Network(frames_of_audible, alone, *sizes, alone([silent[0]])[0], n_before)


def cut(recognizer: Recognizer, step_ms: int) -> Network:
    """A recognizer cut into as many pieces as its graph and the step allow.

    Needs the onnx package, without which the network stays whole, too, and takes twice as long.
    """
    hop = recognizer.info.spec.features.hop_samples(recognizer.info.spec.sample_rate_hz)
    n_samples = step_ms * recognizer.info.spec.sample_rate_hz // 1000
    if recognizer.path is None or recognizer.path.suffix != ".onnx" or n_samples % hop:
        return whole(recognizer)
    try:
        return next(_faithful(recognizer, n_samples // hop), None) or whole(recognizer)
    except ImportError:
        return whole(recognizer)


def _faithful(recognizer: Recognizer, step_frames: int) -> Iterator[Network]:
    """The ways to cut a network that give what the whole gives, the fastest first."""
    for make in (functools.partial(in_pieces, step_frames=step_frames), in_halves):
        network = make(recognizer)
        if network and _is_faithful(network, recognizer):
            yield network


def _shape(recognizer: Recognizer) -> tuple[int, int]:
    """Frames of a context, and features of a frame."""
    spec = recognizer.info.spec
    return spec.features.n_frames(spec.context_samples, spec.sample_rate_hz), spec.features.n_features


def _sizes(recognizer: Recognizer) -> tuple[int, int, int]:
    """Samples between two frames, samples of a frame, and frames of a context."""
    features, rate_hz = recognizer.info.spec.features, recognizer.info.spec.sample_rate_hz
    return features.hop_samples(rate_hz), features.n_fft(rate_hz), _shape(recognizer)[0]


def in_halves(recognizer: Recognizer) -> Network | None:
    """A network cut after its features; None where its graph does not allow it."""
    assert recognizer.path is not None
    halves = graphs.halves(recognizer.path, _shape(recognizer))
    if halves is None:
        return None
    frames, logits = map(_runner, halves)

    def posteriors(contexts: Contexts) -> Array:
        return softmax(recognizer.checked(logits(np.stack([*contexts])), len(contexts)))

    return _network(recognizer, frames, posteriors, _sizes(recognizer), _shape(recognizer)[1])


def in_pieces(recognizer: Recognizer, step_frames: int) -> Network | None:
    """A network cut within its first LSTM, too; None where its graph does not allow it, or the step is too long."""
    assert recognizer.path is not None
    pieces = graphs.pieces(recognizer.path, _shape(recognizer))
    if pieces is None or step_frames > pieces.stem.n_inner:
        return None
    run = _Pieces(pieces, _shape(recognizer)[1])

    def posteriors(contexts: Contexts) -> Array:
        return softmax(recognizer.checked(run.logits(contexts), len(contexts)))

    return _network(recognizer, run.frames, posteriors, _sizes(recognizer), run.n_values, 2 * pieces.stem.reach)


class _Pieces:
    """A network in pieces. Its frames hold the features, and behind them what the gates get where no edge is near.

    The latter stands in the last frame that it depends on.
    """

    def __init__(self, pieces: graphs.Pieces, n_features: int) -> None:
        stem, size = pieces.stem, pieces.n_gates
        self._run_features, self._run_inner = _runner(pieces.frames), _runner(pieces.inner)
        self._run_logits = _runner(pieces.logits)
        self._edges = [
            (_runner(pieces.left), stem.left, slice(0, stem.n_left)),
            (_runner(pieces.right), stem.right, slice(stem.first_right, stem.n_outputs)),
        ]
        self._stem, self._size, self._n_features = stem, size, n_features
        self._directions = [slice(at, at + size) for at in range(0, pieces.n_directions * size, size)]
        self.n_values = n_features + pieces.n_directions * size
        """Values of a frame."""

    def frames(self, stretches: Samples) -> Array:
        """Stretches [B, context_samples] to frames [B, N, F]."""
        n_before, n_features = 2 * self._stem.reach, self._n_features
        found = np.empty((len(stretches), self._stem.n_frames, self.n_values), dtype=np.float32)
        found[:, :, :n_features] = features = self._run_features(stretches)
        found[:, :n_before, n_features:] = 0
        found[:, n_before:, n_features:] = self._run_inner(features).transpose(1, 0, 2)
        return found

    def logits(self, contexts: Contexts) -> Array:
        """The frames of contexts to logits [B, C]."""
        shape = self._stem.n_outputs, len(contexts), self._size
        directions = [np.empty(shape, dtype=np.float32) for _ in self._directions]
        for run, frames, target in self._edges:
            edge = run(np.stack([context[frames, : self._n_features] for context in contexts]))
            for part, direction in zip(self._directions, directions, strict=True):
                direction[target] = edge[:, :, part]
        self._fill(directions, contexts)
        return self._run_logits(*directions)

    def _fill(self, directions: Sequence[Array], contexts: Contexts) -> None:
        """Copy what the gates get of all outputs but those of the edges."""
        source, target = self._stem.inner, slice(self._stem.n_left, self._stem.first_right)
        for part, direction in zip(self._directions, directions, strict=True):
            behind = slice(self._n_features + part.start, self._n_features + part.stop)
            for number, context in enumerate(contexts):
                direction[target, number] = context[source, behind]


def _independent(posteriors: Callable[[Contexts], Array], shape: tuple[int, int]) -> Callable[[Contexts], Array]:
    """A function of contexts, each [*shape], such that no row depends on the others, nor on how many there are.

    Networks in 8 bits scale a batch as a whole, so their contexts are run one by one. Others only round a context that
    is alone differently, so that it is run twice.
    """

    def together(contexts: Contexts) -> Array:
        return posteriors(contexts if len(contexts) > 1 else [*contexts, *contexts])[: len(contexts)]

    def one_by_one(contexts: Contexts) -> Array:
        return np.concatenate([posteriors([context]) for context in contexts])

    noise = np.random.default_rng(0).normal(0, np.logspace(-2, 0, _N_TRIED)[:, None, None], (_N_TRIED, *shape))
    tried = [*noise.astype(np.float32)]
    is_independent = np.array_equal(together(tried), np.concatenate([together([context]) for context in tried]))
    return together if is_independent else one_by_one


def _runner(graph: bytes) -> Callable[..., Array]:
    session = open_session(graph)
    names = [node.name for node in session.get_inputs()]

    def run(*values: Array) -> Array:
        outputs: list[Any] = session.run(None, dict(zip(names, values, strict=True)))
        return np.asarray(outputs[0], dtype=np.float32)

    return run


def _is_faithful(network: Network, recognizer: Recognizer) -> bool:
    """Whether frames are shared by overlapping contexts, and give what the whole network gives, tried on noise."""
    n_samples, shift = recognizer.info.spec.context_samples, network.n_frames // 2
    stream = np.random.default_rng(0).normal(0, 0.1, n_samples + shift * network.hop_samples).astype(np.float32)
    contexts = np.stack([stream[:n_samples], stream[-n_samples:]])
    early, late = frames = network.frames(contexts)
    shared = slice(network.n_before, network.n_frames - shift)
    if np.abs(early[shift:][shared] - late[shared]).max() > _MAX_DIFFERENCE:
        return False
    difference = network.posteriors(frames) - recognizer.posteriors(contexts)
    return bool(np.abs(difference).max() < _MAX_DIFFERENCE)
