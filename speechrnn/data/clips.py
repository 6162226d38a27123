"""What a data set is made of: sources on disk, packed clips, and where in a clip its word lies."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import from_int16

Split = Literal["training", "validation", "testing"]
ClipKind = Literal[
    "command", "word", "aligned", "tts", "natural", "confusable", "speech", "hard_negative", "noise", "room"
]
Int16 = NDArray[np.int16]

_LOGGER = logging.getLogger(__name__)
_HOP_SAMPLES = 160  # of the energy by which words are found


class Source(msgspec.Struct, frozen=True):
    """An audio file to be packed."""

    path: str
    """Its path from the data folder."""
    size: int
    """Its size in bytes; -1 if it cannot be looked at, as a broken link."""
    mtime_ns: int
    """Time of its last change in ns."""
    kind: ClipKind
    """What kind of clip it is."""
    split: Split
    """The split that it belongs to."""
    word: str
    """What is said in it; for noise, rooms and running speech the name of the folder."""


class Clip(msgspec.Struct, frozen=True, tag="clip"):
    """A stretch of the packed samples, with a word in it."""

    source: Source
    """The file that it comes from."""
    offset: int
    """First sample in the pack."""
    n_samples: int
    """Length in samples."""
    word_start: int
    """First sample of the word, from the start of the clip."""
    word_end: int
    """Sample after its last one."""
    note: str = ""
    """What was done to the file, such as resampling, and what is missing of it."""

    @property
    def path(self) -> str:
        """The file, as its path from the data folder."""
        return self.source.path

    @property
    def kind(self) -> ClipKind:
        """What kind of clip it is."""
        return self.source.kind

    @property
    def split(self) -> Split:
        """The split that it belongs to."""
        return self.source.split

    @property
    def word(self) -> str:
        """What is said in it; for noise, rooms and running speech the name of the folder."""
        return self.source.word

    def labelled(self, kind: ClipKind, word: str | None = None) -> Clip:
        """The same samples as a clip of another kind, and of another word if one is given."""
        source = msgspec.structs.replace(self.source, kind=kind, word=self.word if word is None else word)
        return msgspec.structs.replace(self, source=source)

    def part(self, first: int, last: int, word: tuple[int, int] | None = None) -> Clip:
        """The samples [first, last) of this clip; `word` is its extent, counted from the clip's start, else all."""
        start, end = word or (first, last)
        return Clip(self.source, self.offset + first, last - first, start - first, end - first)


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A source that cannot be packed."""

    source: Source
    """The file."""
    problem: str
    """Why, in one line."""


class Pack(NamedTuple):
    """All packed recordings."""

    clips: list[Clip]
    """The usable clips."""
    samples: Int16
    """Their samples, int16 [T]."""
    refused: list[Refused]
    """The sources that cannot be used."""

    def samples_of(self, clip: Clip) -> Int16:
        """The samples of a clip, int16 [n_samples]."""
        return self.samples[clip.offset : clip.offset + clip.n_samples]


def word_extent(samples: Int16) -> tuple[int, int]:
    """First and last sample of the word in a clip [T]: where the middle 98 % of the energy above the floor lie."""
    n_hops = len(samples) // _HOP_SAMPLES
    if n_hops == 0:
        return 0, len(samples)
    hops = from_int16(samples[: n_hops * _HOP_SAMPLES]).reshape(n_hops, _HOP_SAMPLES)
    energy = (hops**2).sum(1)
    energy = np.maximum(energy - 2 * np.percentile(energy, 20), 0)
    cumulated = np.cumsum(energy) / max(float(energy.sum()), 1e-12)
    start, end = np.searchsorted(cumulated, [0.01, 0.99])
    return int(start) * _HOP_SAMPLES, min(int(end) + 1, n_hops) * _HOP_SAMPLES


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and wait until no other process works in it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")  # a word may be "lock"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOGGER.warning("waiting for another process that works in %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
