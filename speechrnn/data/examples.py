"""Which clips each class is made of, which of them form an epoch, and the validation set. Knows no files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.config import Data, UnknownSource
from speechrnn.data.channel_transfer import ChannelTransfer
from speechrnn.data.clips import Clip, Int16, Pack, Split
from speechrnn.data.cutting import Batch, Construction, Cutter, NoiseParts, PlannedContext, ending, room_responses
from speechrnn.errors import DataError
from speechrnn.labels import FOLDER_LABELS, SILENCE, UNKNOWN
from speechrnn.spec import Spec

_NOISE_TRAINING_PART = 0.8  # of each noise recording, the rest is for validation
_N_TRIES = 20  # to find a word that ends otherwise
_MIN_NOISE_CONTEXTS = 5  # in the longest noise recording
_ISOLATED: tuple[UnknownSource, ...] = ("command", "word", "aligned", "tts", "natural")
_NOT_SPLICED: tuple[UnknownSource, ...] = ("confusable", "speech", "hard_negative")
_MADE: tuple[Construction, ...] = ("splice", "reversed", "part")


class ClipsByClass:
    """The clips of one split by class: of each keyword, of each source of unknown, and noise for silence.

    Silence is cut from noise recordings: in training from the first part of all, one half from those that come with
    Speech Commands, in validation from the rest of these, as the official test clips are. Where either kind is missing
    the other serves for both. Raises DataError if a class has no clips.
    """

    def __init__(self, pack: Pack, spec: Spec, data: Data, split: Split) -> None:
        self.names = spec.labels.names
        self.context_samples = spec.context_samples
        self.data = data
        self.keywords: dict[str, list[Clip]] = {name: [] for name in spec.labels.keywords}
        self.natural: dict[str, list[Clip]] = {name: [] for name in spec.labels.keywords}
        self.unknown: dict[UnknownSource, list[Clip]] = {source: [] for source in (*_ISOLATED, *_NOT_SPLICED)}
        for clip in pack.clips:
            if clip.kind not in ("noise", "room") and clip.split == split:
                self._sort(clip, spec.labels.of_folder(clip.word), split)
        self.speech = [  # each recording once for each whole context in it
            clip for clip in self.unknown["speech"] for _ in range(max(1, clip.n_samples // self.context_samples))
        ]
        noise = [clip for clip in pack.clips if clip.kind == "noise"]
        own_noise = [clip for clip in noise if clip.word in FOLDER_LABELS]
        self.noise = own_noise if split == "validation" and own_noise else noise
        self._noise_part = (0.0, _NOISE_TRAINING_PART) if split == "training" else (_NOISE_TRAINING_PART, 1.0)
        self.rooms = [clip for clip in pack.clips if clip.kind == "room"]
        self._check(pack, split)

    def _sort(self, clip: Clip, label: str | None, split: Split) -> None:
        if label in self.natural and clip.kind == "natural":
            self.natural[label].append(clip)
        elif label in self.keywords and (clip.kind in ("command", "tts") or split == "validation"):
            self.keywords[label].append(clip)
        elif label == UNKNOWN and (clip.word not in self.data.held_out or split != "training"):
            self.unknown[cast("UnknownSource", clip.kind)].append(clip)

    def _check(self, pack: Pack, split: Split) -> None:
        missing = [name for name, clips in self.keywords.items() if not clips]
        if UNKNOWN in self.names and not any(self.unknown.values()):
            missing.append(UNKNOWN)
        if missing:
            counts = Counter(clip.word for clip in pack.clips if clip.kind == "command" and clip.split == split)
            has = ", ".join(f"{word} ({n})" for word, n in sorted(counts.items())) or "none"
            raise DataError(f"no {split} clips of: {', '.join(missing)}; the {split} split has {has}")
        n_samples = _MIN_NOISE_CONTEXTS * self.context_samples
        if SILENCE in self.names and not any(clip.n_samples >= n_samples for clip in self.noise):
            raise DataError(f"no noise of at least {n_samples} samples to cut silence from; see data.noise")

    def isolated_unknown(self) -> list[Clip]:
        """The unknown clips that hold a single word."""
        return [clip for source in _ISOLATED for clip in self.unknown[source]]

    def has(self, source: UnknownSource) -> bool:
        """Whether there are clips that contexts of this source can be made of."""
        return source in _MADE or bool(self.unknown[source])

    def counts(self) -> dict[str, int]:
        """Number of clips of each keyword, of each source of unknown, and of noise recordings for silence."""
        counts = {name: len(clips) for name, clips in self.keywords.items()}
        counts |= {f"{name}, natural": len(clips) for name, clips in self.natural.items() if clips}
        counts |= {f"{UNKNOWN}, {source}": len(clips) for source, clips in self.unknown.items() if clips}
        return counts | ({SILENCE: len(self.noise)} if SILENCE in self.names else {})

    def fractions(self) -> NDArray[np.float64]:
        """The fraction of each class in an epoch [C]."""
        others = {UNKNOWN: self.data.unknown.fraction, SILENCE: self.data.silence_fraction}
        others = {name: fraction for name, fraction in others.items() if name in self.names}
        keyword = (1 - sum(others.values())) / len(self.keywords)
        return np.array([others.get(name, keyword) for name in self.names])

    def digest(self) -> str:
        """A fingerprint of the clips: another one if any was added, removed or changed."""
        clips = [*self.keywords.values(), *self.natural.values(), *self.unknown.values(), self.noise, self.rooms]
        return hashlib.sha1(msgspec.json.encode(clips)).hexdigest()

    def vocabulary(self, min_clips: int) -> dict[str, int]:
        """The words of which there are so many clips, each with its number."""
        clips = [*self.keywords.values(), *self.natural.values(), self.isolated_unknown()]
        counts = Counter(clip.word for of_class in clips for clip in of_class)
        return {word: number for number, word in enumerate(sorted(w for w, n in counts.items() if n >= min_clips))}

    def noise_range(self, clip: Clip) -> tuple[int, int]:
        """The split's part of a noise recording, as [start, end) of the packed samples."""
        low, high = self._noise_part
        return clip.offset + int(low * clip.n_samples), clip.offset + int(high * clip.n_samples)

    def noise_parts(self) -> NoiseParts:
        """The parts of noise that hold a context: of the recordings of Speech Commands, and of the others."""
        kinds = [[clip for clip in self.noise if (clip.word in FOLDER_LABELS) == is_own] for is_own in (True, False)]
        ranges = [[self.noise_range(clip) for clip in clips] for clips in kinds]
        groups = [[(start, end) for start, end in group if end - start >= self.context_samples] for group in ranges]
        return NoiseParts([group for group in groups if group])


def plan_epoch(clips: ClipsByClass, random: np.random.Generator) -> list[PlannedContext]:
    """The contexts of one epoch, shuffled. Each keyword comes equally often, each of its clips likewise."""
    n_keywords = sum(map(len, clips.keywords.values()))
    plan = []
    for label, name in enumerate(clips.keywords):
        drawn = _draw_clips(clips, name, n_keywords // len(clips.keywords), random)
        plan += [PlannedContext(label, clip) for clip in drawn]
    fractions = dict(zip(clips.names, clips.fractions(), strict=True))
    n_all = len(plan) / sum(fractions[name] for name in clips.keywords)
    if UNKNOWN in fractions:
        plan += _plan_unknown(clips, round(n_all * fractions[UNKNOWN]), random)
    if SILENCE in fractions:
        plan += [PlannedContext(clips.names.index(SILENCE), None)] * round(n_all * fractions[SILENCE])
    return [plan[i] for i in random.permutation(len(plan))]


def _draw_clips(clips: ClipsByClass, keyword: str, n: int, random: np.random.Generator) -> list[Clip]:
    """`n` clips of a keyword; those in natural voices, if there are any, make up their fraction."""
    natural, others = clips.natural[keyword], clips.keywords[keyword]
    n_natural = round(clips.data.natural_fraction * n) if natural else 0
    drawn = [natural[i] for i in _cycle(random, len(natural), n_natural)]
    return drawn + [others[i] for i in _cycle(random, len(others), n - n_natural)]


def _plan_unknown(clips: ClipsByClass, n: int, random: np.random.Generator) -> list[PlannedContext]:
    """`n` unknown contexts, from the sources there are in the proportions of their weights."""
    label, weights = clips.names.index(UNKNOWN), clips.data.unknown.weights()
    mix = {source: weight for source, weight in weights.items() if clips.has(source)}
    if not mix:
        raise DataError(f"no clips of the sources that data.unknown weighs: {', '.join(weights)}")
    ends = np.rint(np.cumsum(list(mix.values())) / sum(mix.values()) * n).astype(int)
    plan = []
    for source, n_of_source in zip(mix, np.diff(ends, prepend=0), strict=True):
        if source in _MADE:
            plan += [_plan_made(clips, label, source, random) for _ in range(n_of_source)]
        else:
            of_source = clips.speech if source == "speech" else clips.unknown[source]
            plan += [PlannedContext(label, of_source[i]) for i in _cycle(random, len(of_source), n_of_source)]
    return plan


def _plan_made(clips: ClipsByClass, label: int, how: Construction, random: np.random.Generator) -> PlannedContext:
    if how == "part":
        return PlannedContext(label, _draw_keyword(clips, random), how)
    one = _draw_word(clips, random)
    if how == "reversed":
        return PlannedContext(label, one, how)
    for _ in range(_N_TRIES):
        other = _draw_word(clips, random)
        if ending(other.word) != ending(one.word):  # "go" and "no" end alike: the one, spliced, would be the other
            return PlannedContext(label, one, how, other)
    return PlannedContext(label, one, "reversed")


def _draw_keyword(clips: ClipsByClass, random: np.random.Generator) -> Clip:
    of_keyword = list(clips.keywords.values())[random.integers(len(clips.keywords))]
    return of_keyword[random.integers(len(of_keyword))]


def _draw_word(clips: ClipsByClass, random: np.random.Generator) -> Clip:
    """Half of the time a keyword, else an unknown word."""
    sources = [of_source for of_source in map(clips.unknown.__getitem__, _ISOLATED) if of_source]
    if not sources or random.random() < 0.5:
        return _draw_keyword(clips, random)
    of_source = sources[random.integers(len(sources))]
    return of_source[random.integers(len(of_source))]


def plan_every_clip(clips: ClipsByClass, random: np.random.Generator) -> list[PlannedContext]:
    """Every keyword and every isolated unknown word once, and silence as its fraction of the whole."""
    plan = [PlannedContext(label, c) for label, of_word in enumerate(clips.keywords.values()) for c in of_word]
    if UNKNOWN in clips.names:
        unknown = clips.isolated_unknown() or clips.unknown["speech"]
        plan += [PlannedContext(clips.names.index(UNKNOWN), clip) for clip in unknown]
    if SILENCE in clips.names:
        fraction = max(clips.data.silence_fraction, 1 / (10 * len(plan)))
        n_silence = round(len(plan) * fraction / (1 - fraction))
        plan += [PlannedContext(clips.names.index(SILENCE), None)] * n_silence
    return [plan[i] for i in random.permutation(len(plan))]


def _cycle(random: np.random.Generator, n_items: int, n: int) -> Iterator[int]:
    """`n` drawn indices below `n_items`, each as often as any other, within one."""
    while n > 0:
        order = random.permutation(n_items)[:n]
        yield from map(int, order)
        n -= len(order)


class Examples:
    """The examples of one split: its clips by class, and what cuts contexts from them."""

    def __init__(self, pack: Pack, spec: Spec, data: Data, split: Split) -> None:
        self.clips = ClipsByClass(pack, spec, data, split)
        channels = None
        if data.channel_transfer_rate and split == "training":
            channels = ChannelTransfer(pack, (clip for clip in pack.clips if clip.split == split))
        noise, rate = self.clips.noise_parts(), data.channel_transfer_rate
        self._cutter = Cutter(pack, spec.context_samples, noise, channels, rate)
        self._pack = pack

    def epoch(self, random: np.random.Generator) -> list[PlannedContext]:
        """The contexts of one epoch, shuffled: `plan_epoch`."""
        return plan_epoch(self.clips, random)

    def batch(self, plan: list[PlannedContext], seed: int, first: int = 0) -> Batch:
        """The contexts of a part of a plan: `Cutter.batch`."""
        return self._cutter.batch(plan, seed, first)

    def set_vocabulary(self, min_clips: int) -> int:
        """Let batches number the word of a context, if there are so many clips of it; how many such words there are."""
        self._cutter.vocabulary = self.clips.vocabulary(min_clips)
        return len(self._cutter.vocabulary)

    def noise_samples(self) -> Int16:
        """The split's part of all noise recordings, end to end, int16 [T]."""
        parts = [self._pack.samples[start:end] for start, end in map(self.clips.noise_range, self.clips.noise)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16)

    def room_samples(self) -> Int16:
        """The first context of each room response, from its loudest sample on, int16 [n_rooms, T]."""
        return room_responses(self._pack, self.clips.rooms, self.clips.context_samples)


class Validation(NamedTuple):
    """The validation contexts, the same every time."""

    batch: Batch
    """The contexts."""
    is_held_out: NDArray[np.bool_]
    """Which of them are of words that are never trained on [B]."""


def validation_set(examples: Examples, held_out: tuple[str, ...]) -> Validation:
    """Every keyword and unknown clip of a split once, and its silence."""
    plan = plan_every_clip(examples.clips, np.random.default_rng(0))
    is_held_out = [planned.clip is not None and planned.clip.word in held_out for planned in plan]
    return Validation(examples.batch(plan, seed=0), np.array(is_held_out))
