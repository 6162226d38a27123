"""What own words are told apart from: embeddings of speech, words and noise that come with a shipped model.

No audio is in them. Speech lies there step by step as a stream has it, so that false alarms per hour can be counted;
other words lie there with their names. All of it is of speakers that the model was not trained on, in two halves by
speaker: what is learned from one half is measured on the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.errors import ModelFileError
from speechrnn.recognizer import Recognizer, shipped_models

Array = NDArray[np.float32]
N_POSITIONS = 4
"""Contexts of a word, as the detector has them one after the other."""
_FOLDER = Path(__file__).parent.parent / "pretrained"
_SUFFIX = ".negatives.npz"
_SAME_TRUNK = 0.05
_LEVELS = 127
_QUANTILE = 0.9995


class Space(NamedTuple):
    """The directions of an embedding in which sounds differ; what is stored, and what heads look at."""

    mean: Array
    """Of all embeddings [D]."""
    directions: Array
    """Orthonormal columns [D, d]."""
    within: Array
    """Covariance [d, d] of the contexts of one word."""
    probe: Array
    """The embedding [D] of a fixed sound, by which a network is known again."""

    def reduce(self, embeddings: Array) -> Array:
        """Embeddings [B, D] to coordinates [B, d]."""
        return np.asarray((embeddings - self.mean) @ self.directions, dtype=np.float32)

    def restore(self, reduced: Array) -> Array:
        """Coordinates [B, d] to embeddings [B, D], of which the part outside of the space is lost."""
        return np.asarray(reduced @ self.directions.T + self.mean, dtype=np.float32)


class Speech(NamedTuple):
    """Running speech, step by step."""

    rows: Array
    """Coordinates of its contexts [n, d]."""
    firsts: NDArray[np.int64]
    """First row of each recording."""
    halves: NDArray[np.int64]
    """The half, 0 or 1, that each recording belongs to."""
    words: tuple[str, ...]
    """Words that are known to be said."""
    spans: NDArray[np.int64]
    """Rows [first, last) in whose contexts each of them is [words, 2]."""

    @property
    def half_of_rows(self) -> NDArray[np.int64]:
        """The half that each row belongs to [n]."""
        return np.repeat(self.halves, np.diff([*self.firsts, len(self.rows)]))

    def says(self, word: str) -> NDArray[np.bool_]:
        """Whether a context has some of this word in it [n]."""
        found = np.zeros(len(self.rows), dtype=bool)
        for spoken, (first, last) in zip(self.words, self.spans, strict=True):
            if spoken.casefold() == word.casefold():
                found[first:last] = True
        return found


class Words(NamedTuple):
    """Words said alone."""

    rows: Array
    """Coordinates of the contexts of each [n, N_POSITIONS, d]."""
    names: tuple[str, ...]
    """What is said in each."""
    halves: NDArray[np.int64]
    """The half, 0 or 1, that its speaker belongs to."""


class Negatives(NamedTuple):
    """All that comes with a model."""

    space: Space
    """The directions."""
    speech: Speech
    """Running speech."""
    words: Words
    """Other words, and the keywords of the model."""
    noise: Array
    """Coordinates of contexts of noise [n, d]."""
    step_ms: int
    """Time between two rows of speech in ms."""

    @property
    def hours(self) -> float:
        """Length of the speech."""
        return len(self.speech.rows) * self.step_ms / 3_600_000

    def save(self, path: Path) -> None:
        """Write them: coordinates as 8-bit integers."""
        rows = [self.speech.rows, self.words.rows.reshape(-1, self.speech.rows.shape[1]), self.noise]
        scale = np.quantile(np.abs(np.concatenate(rows)), _QUANTILE, axis=0).astype(np.float32) / _LEVELS
        speech, words, noise = (np.clip(np.rint(part / scale), -_LEVELS, _LEVELS).astype(np.int8) for part in rows)
        arrays: dict[str, NDArray[Any]] = {
            **{name: value.astype(np.float32) for name, value in self.space._asdict().items()},
            "step_ms": np.array(self.step_ms),
            "scale": scale,
            "speech": speech,
            "firsts": self.speech.firsts,
            "halves": self.speech.halves.astype(np.int8),
            "spoken": np.array(self.speech.words),
            "spans": self.speech.spans.astype(np.int32),
            "words": words,
            "names": np.array(self.words.names),
            "word_halves": self.words.halves.astype(np.int8),
            "noise": noise,
        }
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` has written."""
        with np.load(path, allow_pickle=False) as stored:
            parts = {name: stored[name] for name in stored.files}
        scale = parts["scale"]
        restored = {name: parts[name] * scale for name in ("speech", "words", "noise")}
        spoken, names = (tuple(map(str, parts[name])) for name in ("spoken", "names"))
        return cls(
            Space(*(parts[name] for name in Space._fields)),
            Speech(restored["speech"], parts["firsts"], parts["halves"].astype(np.int64), spoken, parts["spans"]),
            Words(restored["words"].reshape(len(names), N_POSITIONS, -1), names, parts["word_halves"].astype(np.int64)),
            restored["noise"],
            int(parts["step_ms"]),
        )


def path_of(model: str) -> Path:
    """Where the negatives of a shipped model lie."""
    return _FOLDER / f"{model}{_SUFFIX}"


def find_negatives(recognizer: Recognizer) -> Negatives:
    """Those of the shipped model whose network this is, be it with further words.

    Raises ModelFileError if there is none.
    """
    probe = probe_of(recognizer)
    for path in map(path_of, shipped_models()):
        if path.is_file():
            negatives = Negatives.load(path)
            stored = negatives.space.probe
            if probe.shape == stored.shape and float(np.abs(probe - stored).max()) < _SAME_TRUNK:
                return negatives
    with_negatives = ", ".join(name for name in shipped_models() if path_of(name).is_file())
    raise ModelFileError(
        f"{recognizer.path}: expected a model that comes with examples of other speech ({with_negatives}), or one that "
        "was taught from it; no such examples belong to this network"
    )


def probe_of(recognizer: Recognizer) -> Array:
    """The embedding [D] of a fixed sound. Raises ModelFileError for a model without an embedding."""
    n = recognizer.info.spec.context_samples
    sweep = np.sin(np.linspace(0, 40, n) ** 2) * np.hanning(n) * 0.3
    embedding: Array = recognizer.embed(sweep[None].astype(np.float32))[0]
    return embedding


def embed_all(recognizer: Recognizer, contexts: Iterable[Samples], n_at_once: int = 32) -> Array:
    """Embeddings [B, D] of contexts, so many at a time."""
    return np.concatenate([recognizer.embed(np.stack(part)) for part in _parts(contexts, n_at_once)])


def _parts(contexts: Iterable[Samples], n: int) -> Iterator[list[Samples]]:
    part: list[Samples] = []
    for context in contexts:
        part.append(context)
        if len(part) == n:
            yield part
            part = []
    if part:
        yield part
