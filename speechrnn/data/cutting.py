"""How a context is cut from packed clips: whole, spliced, reversed or in part. Knows nothing of epochs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, from_int16, rms, to_int16
from speechrnn.data.channel_transfer import OUT_OF_DOMAIN_KINDS, ChannelTransfer
from speechrnn.data.clips import Clip, ClipKind, Int16, Pack

Int64 = NDArray[np.int64]
Construction = Literal["whole", "splice", "reversed", "part"]

_NO_WORDS: tuple[ClipKind, ...] = ("confusable", "speech", "hard_negative")
_FADE_SAMPLES = 160  # where two words are joined, or one ends early
_MAX_SPLICE_GAIN = 8.0
_MIN_RMS = 1 / 32768


class PlannedContext(NamedTuple):
    """A context to be cut."""

    label: int
    """Its class."""
    clip: Clip | None
    """The clip that it is cut from; None for silence."""
    how: Construction = "whole"
    """How it is cut."""
    other: Clip | None = None
    """The clip that it is spliced with; None for none."""


class Batch(NamedTuple):
    """Contexts before augmentation, with their classes and words."""

    samples: Int16
    """Contexts, int16 [B, T]."""
    labels: Int64
    """Their classes, int64 [B]."""
    word_start: Int64
    """First sample of each word, int64 [B]."""
    word_end: Int64
    """Sample after its last one, int64 [B]."""
    words: Int64
    """Number of each word in the vocabulary of the cutter, int64 [B]; -1 for a part of a word, or another."""


class WordSegment(NamedTuple):
    """Samples with a word in them."""

    samples: Samples
    """The samples [T]."""
    start: int
    """First sample of the word."""
    end: int
    """Sample after its last one."""


class NoiseParts(NamedTuple):
    """Stretches of noise recordings, in groups that are drawn equally often."""

    groups: list[list[tuple[int, int]]]
    """For each group its stretches as [start, end) of the packed samples."""

    def draw(self, n_samples: int, random: np.random.Generator) -> int:
        """First sample of a cut of `n_samples`: any position in a group is as likely as any other."""
        ranges = self.groups[random.integers(len(self.groups))]
        lengths = np.array([end - start for start, end in ranges], dtype=np.float64)
        start, end = ranges[random.choice(len(ranges), p=lengths / lengths.sum())]
        return int(random.integers(start, end - n_samples + 1))


class Cutter:
    """Cuts planned contexts of `n_samples` from a pack. What is drawn for a context depends on its seed alone.

    Clips longer than a context, such as running speech, are cut at a drawn position that has sound in it. Samples
    become floats once, when they are read, and are rounded once, when they are put into the batch.
    """

    def __init__(
        self,
        pack: Pack,
        n_samples: int,
        noise: NoiseParts,
        channels: ChannelTransfer | None = None,
        channel_transfer_rate: float = 0.0,
    ) -> None:
        self._pack = pack
        self._n_samples = n_samples
        self._noise = noise
        self._channels = channels
        self._channel_transfer_rate = channel_transfer_rate
        self.vocabulary: dict[str, int] = {}

    def batch(self, plan: list[PlannedContext], seed: int, first: int = 0) -> Batch:
        """Cut the contexts of a part of an epoch; what is drawn for one depends on its index, from `first` on."""
        samples = np.zeros((len(plan), self._n_samples), dtype=np.int16)
        words = np.zeros((len(plan), 2), dtype=np.int64)
        for row, planned in enumerate(plan):
            random = np.random.default_rng([seed, first + row])
            if planned.clip is None:
                at = self._noise.draw(self._n_samples, random)
                samples[row] = self._pack.samples[at : at + self._n_samples]
            else:
                segment = self._cut(planned.clip, planned, random)
                context, *words[row] = place(segment, self._n_samples)
                samples[row] = to_int16(context)
        labels, numbers = [planned.label for planned in plan], [self._number_of(planned) for planned in plan]
        return Batch(samples, np.array(labels), words[:, 0], words[:, 1], np.array(numbers))

    def _number_of(self, planned: PlannedContext) -> int:
        clip = planned.clip
        if clip is None or planned.how != "whole" or clip.kind in _NO_WORDS:
            return -1
        return self.vocabulary.get(clip.word, -1)

    def _read(self, clip: Clip) -> WordSegment:
        samples = from_int16(self._pack.samples_of(clip))
        return WordSegment(_faded(samples) if clip.kind == "aligned" else samples, clip.word_start, clip.word_end)

    def _cut(self, clip: Clip, planned: PlannedContext, random: np.random.Generator) -> WordSegment:
        word = self._read(clip)
        if planned.how == "part":
            return take_part(word, random)
        if planned.how == "reversed":
            return WordSegment(word.samples[::-1], len(word.samples) - word.end, len(word.samples) - word.start)
        if planned.other is not None:
            return splice(word, self._read(planned.other), random)
        if len(word.samples) > self._n_samples:
            word = _take_context(word, self._n_samples, random)
        if self._channels and clip.kind in OUT_OF_DOMAIN_KINDS and random.random() < self._channel_transfer_rate:
            context, start, end = place(word, self._n_samples)
            return WordSegment(self._channels.apply(context, start, end, clip.kind, random), start, end)
        return word


def place(word: WordSegment, n_samples: int) -> WordSegment:
    """A segment in the middle of a context [n_samples], or of a longer one the part about its word."""
    longer = len(word.samples) - n_samples
    if longer == 0:
        return word
    excess = min(max(0, (word.start + word.end - n_samples) // 2), max(0, longer))
    samples = word.samples[excess : excess + n_samples]
    pad = (n_samples - len(samples)) // 2
    context = np.zeros(n_samples, dtype=np.float32)
    context[pad : pad + len(samples)] = samples
    shift = pad - excess
    return WordSegment(context, max(0, word.start + shift), min(n_samples, word.end + shift))


def ending(word: str) -> str:
    """The last sound of an English word, or nearly, by its spelling: o for "though", t for "white", s for "once"."""
    sounds = re.sub("(?<=[^aeiou])e$", "", re.sub("(ough|owe?|oe)$", "o", word))
    return {"c": "s", "z": "s", "d": "t"}.get(sounds[-1:], sounds[-1:])


def splice(one: WordSegment, other: WordSegment, random: np.random.Generator) -> WordSegment:
    """The first part of one word and the last part of another at the same level, joined by a short cross-fade."""
    ends = one.start + int(random.uniform(0.35, 0.65) * (one.end - one.start))
    begins = other.start + int(random.uniform(0.35, 0.65) * (other.end - other.start))
    head, tail = one.samples[:ends], other.samples[begins:]
    levels = [rms(word.samples[word.start : word.end]) + _MIN_RMS for word in (one, other)]
    tail = tail * np.float32(min(_MAX_SPLICE_GAIN, levels[0] / levels[1]))
    n_fade = min(_FADE_SAMPLES, len(head), len(tail))
    fade = np.linspace(0, 1, n_fade, dtype=np.float32)
    joined = np.concatenate([head, tail[n_fade:]])
    joined[len(head) - n_fade : len(head)] *= 1 - fade
    joined[len(head) - n_fade : len(head)] += fade * tail[:n_fade]
    return WordSegment(joined, one.start, len(head) - n_fade + other.end - begins)


def take_part(word: WordSegment, random: np.random.Generator) -> WordSegment:
    """The first or the last 30 to 55 % of a word, faded where it is cut, and silence in place of the rest."""
    n_kept = int(random.uniform(0.3, 0.55) * (word.end - word.start))
    envelope = np.zeros(len(word.samples), dtype=np.float32)
    if random.random() < 0.5:
        start, end = word.start, word.start + n_kept
        envelope[:end] = 1
    else:
        start, end = word.end - n_kept, word.end
        envelope[start:] = 1
    smooth = np.convolve(envelope, np.full(_FADE_SAMPLES, 1 / _FADE_SAMPLES, dtype=np.float32), "same")
    return WordSegment(word.samples * np.minimum(envelope, smooth), start, end)


def _faded(samples: Samples) -> Samples:
    """Samples [T] with a fade at both ends."""
    fade = np.minimum(np.arange(len(samples), dtype=np.float32) / _FADE_SAMPLES, 1)
    return samples * fade * fade[::-1]


def _take_context(word: WordSegment, n_samples: int, random: np.random.Generator) -> WordSegment:
    """A context of a longer segment, drawn among those that have at least half the loudest one's amplitude."""
    hop = n_samples // 10
    n_hops = len(word.samples) // hop
    energy = (word.samples[: n_hops * hop].reshape(n_hops, hop) ** 2).sum(1)
    energy = np.convolve(energy, np.ones(n_samples // hop), "valid")
    starts = np.flatnonzero(energy >= energy.max() / 4)
    at = min(int(starts[random.integers(len(starts))]) * hop, len(word.samples) - n_samples)
    return WordSegment(word.samples[at : at + n_samples], max(0, word.start - at), min(n_samples, word.end - at))


def room_responses(pack: Pack, rooms: Iterable[Clip], n_samples: int) -> Int16:
    """The first context of each room response, from its loudest sample on, int16 [n_rooms, n_samples]."""
    rooms = list(rooms)
    rows = np.zeros((len(rooms), n_samples), dtype=np.int16)
    for row, clip in zip(rows, rooms, strict=True):
        samples = pack.samples_of(clip)
        response = samples[int(np.abs(samples.astype(np.int32)).argmax()) :][:n_samples]
        row[: len(response)] = response
    return rows
