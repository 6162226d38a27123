"""What each class is made of, and how a context is cut from a packed clip. Knows nothing of files or networks."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import from_int16, to_int16
from speechrnn.config import Data, UnknownSource
from speechrnn.data.channel_transfer import OUT_OF_DOMAIN_KINDS, ChannelTransfer
from speechrnn.data.clips import Clip, Int16, Pack, Split
from speechrnn.errors import DataError
from speechrnn.labels import FOLDER_LABELS, SILENCE, UNKNOWN
from speechrnn.spec import Spec

Int64 = NDArray[np.int64]
Construction = Literal["whole", "splice", "reversed", "part", "gap", "onset"]

_NOISE_TRAINING_PART = 0.8  # of each noise recording, the rest is for validation
_FADE_SAMPLES = 160  # where two words are joined, or one ends early
_N_TRIES = 20  # to find a word that ends otherwise
_ISOLATED: tuple[UnknownSource, ...] = ("command", "word", "aligned", "tts")
_NOT_SPLICED: tuple[UnknownSource, ...] = ("confusable", "speech", "hard_negative")
_MADE: tuple[Construction, ...] = ("splice", "reversed", "part", "gap", "onset")


class PlannedContext(NamedTuple):
    """A context to come: its class, the clip it is cut from (None for silence), how, and the clip it is joined with."""

    label: int
    clip: Clip | None
    how: Construction = "whole"
    other: Clip | None = None


class Batch(NamedTuple):
    """Raw contexts int16 [B, T], classes int64 [B], and the first and last sample of each word int64 [B]."""

    samples: Int16
    labels: Int64
    word_start: Int64
    word_end: Int64


class WordSegment(NamedTuple):
    """A stretch of samples int16 [T] and where in it the word lies."""

    samples: Int16
    start: int
    end: int


class Examples:
    """The clips of one split by class, and the contexts that are made of them.

    Silence is cut from noise recordings: in training from the first part of all, one half from those that come with
    Speech Commands, in validation from the rest of these, as the official test clips are. Where either kind is missing
    the other serves for both. Clips longer than a context, such as running speech, are cut at a drawn place that has
    sound in it.
    """

    def __init__(self, pack: Pack, spec: Spec, data: Data, split: Split) -> None:
        self._samples = pack.samples
        self._context = spec.context_samples
        self._data = data
        self.names = spec.labels.names
        self._keywords: dict[str, list[Clip]] = {name: [] for name in spec.labels.keywords}
        self._unknown: dict[UnknownSource, list[Clip]] = {source: [] for source in (*_ISOLATED, *_NOT_SPLICED)}
        for clip in pack.clips:
            label = spec.labels.of_folder(clip.word)
            if clip.kind in ("noise", "room") or clip.split != split:
                continue
            if label in self._keywords and clip.kind in ("command", "tts"):
                self._keywords[label].append(clip)
            elif label == UNKNOWN and (clip.word not in data.held_out or split != "training"):
                self._unknown[cast("UnknownSource", clip.kind)].append(clip)
        self._speech = [  # each recording once for each whole context in it
            clip for clip in self._unknown["speech"] for _ in range(max(1, clip.n_samples // self._context))
        ]
        noise = [clip for clip in pack.clips if clip.kind == "noise"]
        own_noise = [clip for clip in noise if clip.word in FOLDER_LABELS]
        self.noise = own_noise if split == "validation" and own_noise else noise
        self._noise_part = (0.0, _NOISE_TRAINING_PART) if split == "training" else (_NOISE_TRAINING_PART, 1.0)
        kinds = [[clip for clip in self.noise if (clip.word in FOLDER_LABELS) == is_own] for is_own in (True, False)]
        self._noise_ranges = [ranges for ranges in map(self._long_enough, kinds) if ranges]
        self.rooms = [clip for clip in pack.clips if clip.kind == "room"]
        self._channels = None
        if data.channel_transfer_rate and split == "training":
            self._channels = ChannelTransfer(pack.samples, (clip for clip in pack.clips if clip.split == split))
        self._check(pack, split)

    def _check(self, pack: Pack, split: Split) -> None:
        missing = [name for name, clips in self._keywords.items() if not clips]
        if UNKNOWN in self.names and not any(self._unknown.values()):
            missing.append(UNKNOWN)
        if missing:
            counts = Counter(clip.word for clip in pack.clips if clip.kind == "command" and clip.split == split)
            has = ", ".join(f"{word} ({n})" for word, n in sorted(counts.items())) or "none"
            raise DataError(f"no {split} clips of: {', '.join(missing)}; the {split} split has {has}")
        if SILENCE in self.names and not any(clip.n_samples >= 5 * self._context for clip in self.noise):
            raise DataError(f"no noise of at least {5 * self._context} samples to cut silence from; see data.noise")

    def _isolated_unknown(self) -> list[Clip]:
        return [clip for source in _ISOLATED for clip in self._unknown[source]]

    def counts(self) -> dict[str, int]:
        """Number of clips of each keyword, of each source of unknown, and of noise recordings for silence."""
        counts = {name: len(clips) for name, clips in self._keywords.items()}
        counts |= {f"{UNKNOWN}, {source}": len(clips) for source, clips in self._unknown.items() if clips}
        return counts | ({SILENCE: len(self.noise)} if SILENCE in self.names else {})

    def shares(self) -> NDArray[np.float64]:
        """The share of each class in an epoch [C]."""
        others = {UNKNOWN: self._data.unknown_fraction, SILENCE: self._data.silence_fraction}
        others = {name: share for name, share in others.items() if name in self.names}
        keyword = (1 - sum(others.values())) / len(self._keywords)
        return np.array([others.get(name, keyword) for name in self.names])

    def digest(self) -> str:
        """A fingerprint of the clips: another one if any was added, removed or changed."""
        clips = [*self._keywords.values(), *self._unknown.values(), self.noise, self.rooms]
        return hashlib.sha1(msgspec.json.encode(clips)).hexdigest()

    def noise_samples(self) -> Int16:
        """The split's part of all noise recordings, end to end, int16 [T]."""
        parts = [self._samples[start:end] for start, end in map(self._noise_range, self.noise)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16)

    def room_samples(self) -> Int16:
        """The first context of each room response, from its loudest sample on, int16 [n_rooms, T]."""
        rows = np.zeros((len(self.rooms), self._context), dtype=np.int16)
        for row, clip in zip(rows, self.rooms, strict=True):
            samples = self._of(clip)
            response = samples[int(np.abs(samples.astype(np.int32)).argmax()) :][: self._context]
            row[: len(response)] = response
        return rows

    def _long_enough(self, noise: list[Clip]) -> list[tuple[int, int]]:
        """Where in the pack the split's parts of recordings lie that hold a context."""
        return [(start, end) for start, end in map(self._noise_range, noise) if end - start >= self._context]

    def _noise_range(self, clip: Clip) -> tuple[int, int]:
        low, high = self._noise_part
        return clip.offset + int(low * clip.n_samples), clip.offset + int(high * clip.n_samples)

    def epoch(self, random: np.random.Generator) -> list[PlannedContext]:
        """The contexts of one epoch, shuffled. Each keyword comes equally often, each of its clips likewise."""
        n_keywords = sum(map(len, self._keywords.values()))
        plan = []
        for label, clips in enumerate(self._keywords.values()):
            plan += [
                PlannedContext(label, clips[i]) for i in _cycle(random, len(clips), n_keywords // len(self._keywords))
            ]
        shares = dict(zip(self.names, self.shares(), strict=True))
        n_all = len(plan) / sum(shares[name] for name in self._keywords)
        if UNKNOWN in shares:
            plan += self._plan_unknown(round(n_all * shares[UNKNOWN]), random)
        if SILENCE in shares:
            plan += [PlannedContext(self.names.index(SILENCE), None)] * round(n_all * shares[SILENCE])
        order = random.permutation(len(plan))
        return [plan[i] for i in order]

    def _plan_unknown(self, n: int, random: np.random.Generator) -> list[PlannedContext]:
        """`n` unknown contexts, from the sources there are in the proportions of `unknown_mix`."""
        label = self.names.index(UNKNOWN)
        mix = {source: weight for source, weight in self._data.unknown_mix.items() if weight and self._has(source)}
        if not mix:
            raise DataError(f"no clips of what data.unknown_mix weighs: {', '.join(self._data.unknown_mix)}")
        ends = np.rint(np.cumsum(list(mix.values())) / sum(mix.values()) * n).astype(int)
        plan = []
        for source, n_of_source in zip(mix, np.diff(ends, prepend=0), strict=True):
            if source in _MADE:
                plan += [self._draw_made(label, source, random) for _ in range(n_of_source)]
            else:
                clips = self._speech if source == "speech" else self._unknown[source]
                plan += [PlannedContext(label, clips[i]) for i in _cycle(random, len(clips), n_of_source)]
        return plan

    def _has(self, source: UnknownSource) -> bool:
        """Whether there are clips that contexts of this source can be made of."""
        if source == "onset":
            return bool(self._speech)
        return source in _MADE or bool(self._unknown[source])

    def _draw_made(self, label: int, how: Construction, random: np.random.Generator) -> PlannedContext:
        if how == "part":
            return PlannedContext(label, self._draw_keyword(random), how)
        if how == "onset":
            return PlannedContext(label, self._speech[random.integers(len(self._speech))], how)
        one = self._draw_word(random)
        if how == "reversed":
            return PlannedContext(label, one, how)
        if how == "gap":
            return PlannedContext(label, one, how, self._draw_word(random))
        for _ in range(_N_TRIES):
            other = self._draw_word(random)
            if ending(other.word) != ending(one.word):  # "go" and "no" end alike: the one, spliced, would be the other
                return PlannedContext(label, one, how, other)
        return PlannedContext(label, one, "reversed")

    def _draw_keyword(self, random: np.random.Generator) -> Clip:
        clips = list(self._keywords.values())[random.integers(len(self._keywords))]
        return clips[random.integers(len(clips))]

    def _draw_word(self, random: np.random.Generator) -> Clip:
        """Half of the time a keyword, else an unknown word."""
        sources = [clips for clips in map(self._unknown.__getitem__, _ISOLATED) if clips]
        if not sources or random.random() < 0.5:
            return self._draw_keyword(random)
        clips = sources[random.integers(len(sources))]
        return clips[random.integers(len(clips))]

    def every(self, random: np.random.Generator) -> list[PlannedContext]:
        """Every keyword and every isolated unknown word once, and silence in its share of the whole."""
        plan = [PlannedContext(label, c) for label, clips in enumerate(self._keywords.values()) for c in clips]
        if UNKNOWN in self.names:
            plan += [
                PlannedContext(self.names.index(UNKNOWN), c)
                for c in self._isolated_unknown() or self._unknown["speech"]
            ]
        if SILENCE in self.names:
            share = max(self._data.silence_fraction, 1 / (10 * len(plan)))
            plan += [PlannedContext(self.names.index(SILENCE), None)] * round(len(plan) * share / (1 - share))
        order = random.permutation(len(plan))
        return [plan[i] for i in order]

    def batch(self, plan: list[PlannedContext], seed: int, first: int = 0) -> Batch:
        """Cut the contexts of a part of an epoch; what is drawn for one depends on its place, from `first` on."""
        samples = np.zeros((len(plan), self._context), dtype=np.int16)
        words = np.zeros((len(plan), 2), dtype=np.int64)
        for row, planned in enumerate(plan):
            cut = self._cut(planned, np.random.default_rng([seed, first + row]))
            words[row] = _place(samples[row], cut)
        return Batch(samples, np.array([p.label for p in plan], dtype=np.int64), words[:, 0], words[:, 1])

    def _of(self, clip: Clip) -> Int16:
        samples = self._samples[clip.offset : clip.offset + clip.n_samples]
        return _faded(samples) if clip.kind == "aligned" else samples

    def _cut(self, planned: PlannedContext, random: np.random.Generator) -> WordSegment:
        clip, other = planned.clip, planned.other
        if clip is None:
            return WordSegment(self._cut_noise(random), 0, 0)
        cut = WordSegment(self._of(clip), clip.word_start, clip.word_end)
        if planned.how == "part":
            return take_part(cut, random)
        if planned.how == "reversed":
            return WordSegment(cut.samples[::-1], len(cut.samples) - cut.end, len(cut.samples) - cut.start)
        if other is not None:
            next_word = WordSegment(self._of(other), other.word_start, other.word_end)
            if planned.how == "gap":
                return leave_gap(cut, next_word, self._context, random)
            return splice(cut, next_word, random)
        if len(cut.samples) > self._context:
            at = _draw_sounding(cut.samples, self._context, random)
            samples = cut.samples[at : at + self._context]
            cut = WordSegment(samples, max(0, cut.start - at), min(self._context, cut.end - at))
        if planned.how == "onset":
            return take_part(WordSegment(cut.samples, 0, len(cut.samples)), random)
        if self._channels and clip.kind in OUT_OF_DOMAIN_KINDS and random.random() < self._data.channel_transfer_rate:
            context = np.zeros(self._context, dtype=np.int16)
            start, end = _place(context, cut)
            return WordSegment(
                to_int16(self._channels.lend(from_int16(context), start, end, clip.kind, random)), start, end
            )
        return cut

    def _cut_noise(self, random: np.random.Generator) -> Int16:
        ranges = self._noise_ranges[random.integers(len(self._noise_ranges))]
        lengths = np.array([end - start for start, end in ranges], dtype=np.float64)
        start, end = ranges[random.choice(len(ranges), p=lengths / lengths.sum())]
        at = int(random.integers(start, end - self._context + 1))
        return self._samples[at : at + self._context]


def _place(context: Int16, cut: WordSegment) -> tuple[int, int]:
    """Put a stretch of samples into the middle of a context [T], or of a longer one the part about its word.

    Returns the extent of the word there.
    """
    longer = len(cut.samples) - len(context)
    excess = min(max(0, (cut.start + cut.end - len(context)) // 2), max(0, longer))
    samples = cut.samples[excess : excess + len(context)]
    pad = (len(context) - len(samples)) // 2
    context[pad : pad + len(samples)] = samples
    shift = pad - excess
    return max(0, cut.start + shift), min(len(context), cut.end + shift)


def ending(word: str) -> str:
    """The last sound of an English word, or nearly, by its spelling: o for "though", t for "white", s for "once"."""
    heard = re.sub("(?<=[^aeiou])e$", "", re.sub("(ough|owe?|oe)$", "o", word))
    return {"c": "s", "z": "s", "d": "t"}.get(heard[-1:], heard[-1:])


def splice(one: WordSegment, other: WordSegment, random: np.random.Generator) -> WordSegment:
    """The first part of one word and the last part of another at the same level, joined by a short cross-fade."""
    ends = one.start + int(random.uniform(0.35, 0.65) * (one.end - one.start))
    begins = other.start + int(random.uniform(0.35, 0.65) * (other.end - other.start))
    head, tail = from_int16(one.samples[:ends]), from_int16(other.samples[begins:])
    tail = tail * min(8.0, _level(one) / _level(other))
    n_fade = min(_FADE_SAMPLES, len(head), len(tail))
    fade = np.linspace(0, 1, n_fade, dtype=np.float32)
    joined = np.concatenate([head, tail[n_fade:]])
    joined[len(head) - n_fade : len(head)] *= 1 - fade
    joined[len(head) - n_fade : len(head)] += fade * tail[:n_fade]
    return WordSegment(to_int16(joined), one.start, len(head) - n_fade + other.end - begins)


def _level(cut: WordSegment) -> float:
    """Root mean square of a word, and never zero."""
    word = cut.samples[cut.start : cut.end].astype(np.float32)
    return float(np.sqrt((word**2).mean())) + 1.0 if len(word) else 1.0


def take_part(cut: WordSegment, random: np.random.Generator) -> WordSegment:
    """The first or the last 30 to 55 % of a word or speech, faded where it is cut, and silence in place of the rest."""
    n_kept = int(random.uniform(0.3, 0.55) * (cut.end - cut.start))
    samples = from_int16(cut.samples)
    envelope = np.zeros(len(samples), dtype=np.float32)
    if random.random() < 0.5:
        start, end = cut.start, cut.start + n_kept
        envelope[:end] = 1
    else:
        start, end = cut.end - n_kept, cut.end
        envelope[start:] = 1
    smooth = np.convolve(envelope, np.full(_FADE_SAMPLES, 1 / _FADE_SAMPLES, dtype=np.float32), "same")
    return WordSegment(to_int16(samples * np.minimum(envelope, smooth)), start, end)


def leave_gap(one: WordSegment, other: WordSegment, n_samples: int, random: np.random.Generator) -> WordSegment:
    """A context [n_samples] with the end of one word at its start and the start of another at its end.

    Of each there are 20 to 50 %. Both keep their levels, and what follows the one and precedes the other; where this
    ends, there is silence.
    """
    n_tail, n_head = (int(random.uniform(0.2, 0.5) * (cut.end - cut.start)) for cut in (one, other))
    half = n_samples // 2
    tail = from_int16(one.samples[one.end - n_tail :])[:half]
    head = from_int16(other.samples[: other.start + n_head])[-half:]
    samples = np.zeros(n_samples, dtype=np.float32)
    samples[: len(tail)] = tail * _fade_in(len(tail))[::-1]
    samples[n_samples - len(head) :] = head * _fade_in(len(head))
    return WordSegment(to_int16(samples), 0, n_samples)


def _faded(samples: Int16) -> Int16:
    """Samples [T] with a fade at both ends."""
    fade = _fade_in(len(samples))
    return to_int16(from_int16(samples) * fade * fade[::-1])


def _fade_in(n_samples: int) -> NDArray[np.float32]:
    return np.minimum(np.arange(n_samples, dtype=np.float32) / _FADE_SAMPLES, 1)


def _cycle(random: np.random.Generator, n_items: int, n: int) -> Iterator[int]:
    """`n` drawn indices below `n_items`, each as often as any other, within one."""
    while n > 0:
        order = random.permutation(n_items)[:n]
        yield from map(int, order)
        n -= len(order)


def _draw_sounding(samples: Int16, context_samples: int, random: np.random.Generator) -> int:
    """A start in a recording [T], drawn among those whose context has at least half the loudest one's amplitude."""
    hop = context_samples // 10
    n_hops = len(samples) // hop
    energy = (from_int16(samples[: n_hops * hop]).reshape(n_hops, hop) ** 2).sum(1)
    energy = np.convolve(energy, np.ones(context_samples // hop), "valid")
    starts = np.flatnonzero(energy >= energy.max() / 4)
    return min(int(starts[random.integers(len(starts))]) * hop, len(samples) - context_samples)


class Validation(NamedTuple):
    """The validation contexts, the same every time, and which of them are of words that are never trained on [B]."""

    batch: Batch
    is_held_out: NDArray[np.bool_]


def validation_set(examples: Examples, held_out: tuple[str, ...]) -> Validation:
    """Every keyword and unknown clip of a split once, and its silence."""
    random = np.random.default_rng(0)
    plan = examples.every(random)
    is_held_out = [planned.clip is not None and planned.clip.word in held_out for planned in plan]
    return Validation(examples.batch(plan, seed=0), np.array(is_held_out))
