"""Speech Commands on disk to batches: download, official splits, packed waveforms, and what each class is made of.

A pack is one flat file of 16-bit samples with an index beside it, made once by `prepare`; an epoch opens no wav file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import AUDIO_SUFFIXES, from_int16, open_audio, read_block, to_int16
from speechrnn.config import Data
from speechrnn.errors import AudioError, DataError
from speechrnn.labels import SILENCE, UNKNOWN
from speechrnn.spec import Spec

Split = Literal["training", "validation", "testing"]
Kind = Literal["command", "word", "speech", "noise"]
Int16 = NDArray[np.int16]
Int64 = NDArray[np.int64]

PACKED_RATE_HZ = 16000
NOISE_FOLDER = "_background_noise_"
_NOISE_TRAINING_PART = 0.8  # of each noise recording, the rest is for validation
_HOP_SAMPLES = 160  # of the energy by which words are found
_FLUSH_EVERY = 500


class Clip(msgspec.Struct, frozen=True):
    """One packed recording: its source, what it is, where its samples lie and where in them the word does."""

    path: str
    size: int
    mtime_ns: int
    kind: Kind
    split: Split
    word: str
    offset: int = 0
    n_samples: int = 0
    word_start: int = 0
    word_end: int = 0
    problem: str = ""


Planned = tuple[int, Clip | None]
"""A context to come: its class, and the clip it is cut from, or None for silence."""


class Pack(NamedTuple):
    """All packed recordings: the usable clips, their samples int16 [T], and the clips left out."""

    clips: list[Clip]
    samples: Int16
    problems: list[Clip]


def download(folder: Path, version: str) -> Path:
    """Fetch and unpack Speech Commands v0.01 or v0.02 below `folder` with torchaudio, which has the checksums.

    Nothing is done if it is there. Unpacked aside and moved when complete, so an interruption leaves no half of it.
    """
    from torchaudio.datasets import SPEECHCOMMANDS

    name = f"speech_commands_{version}"
    target = folder / "SpeechCommands" / name
    if target.is_dir():
        return target
    aside = folder / "downloading"
    unpacked = aside / "SpeechCommands" / name
    shutil.rmtree(unpacked, ignore_errors=True)
    aside.mkdir(parents=True, exist_ok=True)
    try:
        SPEECHCOMMANDS(aside, url=name, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"could not download {name} ({error}); check the network and run again") from None
    target.parent.mkdir(exist_ok=True)
    unpacked.rename(target)
    shutil.rmtree(aside)
    return target


def split_of(file_name: str) -> Split:
    """The official split of a clip by the hash of its speaker (Warden, 2018, arXiv 1804.03209, section 7)."""
    speaker = file_name.partition("_nohash_")[0]
    percentage = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 2**27 * 100 / (2**27 - 1)
    return "validation" if percentage < 10 else "testing" if percentage < 20 else "training"


def find_sources(data: Data) -> list[Clip]:
    """Every audio file that the configuration names, with its kind and split. Raises DataError for missing folders."""
    base = Path(data.dir)
    commands = base / data.commands
    if not commands.is_dir():
        raise DataError(
            f"{commands}: no such folder; expected Speech Commands there. Set data.dir to where yours lies, "
            f"or download it: speechrnn prepare CONFIG --download v0.02"
        )
    listed: dict[str, Split] = {}
    splits: tuple[Split, ...] = ("validation", "testing")
    lists = [commands / f"{split}_list.txt" for split in splits]
    if all(path.is_file() for path in lists):  # with one alone, the other's speakers would be trained on
        for path, split in zip(lists, splits, strict=True):
            listed |= dict.fromkeys(path.read_text().split(), split)

    def clip(file: Path, kind: Kind, split: Split, word: str = "") -> Clip:
        stat = file.stat()
        return Clip(os.path.relpath(file, base), stat.st_size, stat.st_mtime_ns, kind, split, word)

    clips = []
    for file in _audio_files(commands):
        word = file.parent.name
        if word == NOISE_FOLDER:
            clips.append(clip(file, "noise", "training", word))
        elif file.parent != commands:
            split = listed.get(f"{word}/{file.name}", "training") if listed else split_of(file.name)
            clips.append(clip(file, "command", split, word))
    folders: list[tuple[tuple[str, ...], Kind, Split]] = [
        (data.words, "word", "training"),
        (data.words_validation, "word", "validation"),
        (data.speech, "speech", "training"),
        (data.noise, "noise", "training"),
    ]
    for names, kind, split in folders:
        for name in names:
            if not (base / name).is_dir():
                raise DataError(f"{base / name}: no such folder; correct it in [data] of the configuration")
            clips += [clip(file, kind, split, file.parent.name) for file in _audio_files(base / name)]
    return clips


def _audio_files(folder: Path) -> list[Path]:
    found = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if path.suffix.lower() in AUDIO_SUFFIXES)


def prepare(data: Data, progress: Callable[[Iterable[Clip], int], Iterable[Clip]] | None = None) -> Pack:
    """Pack all sources, or open the pack if it is there and no source has changed.

    Interrupted at any time, it goes on where it was. `progress` wraps the clips as they are packed.
    """
    folder = Path(data.dir) / data.packed
    sources = find_sources(data)
    pack = _open_pack(folder, sources)
    if pack is None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_pack(folder, Path(data.dir), sources, progress)
        pack = _open_pack(folder, sources)
        if not (folder / "samples.int16").stat().st_size:
            first = next((f"{clip.path}: {clip.problem}" for clip in _read_index(folder / "index.jsonl")), "no file")
            raise DataError(f"{data.dir}: none of the {len(sources)} audio files can be used; the first is {first}")
    if pack is None:
        raise DataError(f"{folder}: the audio changed while it was packed; run again")
    return pack


def _same_source(packed: Clip, source: Clip) -> bool:
    return (packed.path, packed.size, packed.mtime_ns, packed.kind, packed.split, packed.word) == (
        source.path,
        source.size,
        source.mtime_ns,
        source.kind,
        source.split,
        source.word,
    )


def _open_pack(folder: Path, sources: list[Clip]) -> Pack | None:
    """The pack in this folder, or None if there is none or it is not of these sources."""
    try:
        clips = _read_index(folder / "index.jsonl")
        samples = np.memmap(folder / "samples.int16", dtype=np.int16, mode="r")
    except (OSError, ValueError):
        return None
    if len(clips) != len(sources) or not all(map(_same_source, clips, sources)):
        return None
    if len(samples) != sum(clip.n_samples for clip in clips):
        return None
    return Pack([c for c in clips if not c.problem], samples, [c for c in clips if c.problem])


def _read_index(path: Path) -> list[Clip]:
    """The complete lines of an index; a last line cut short by an interruption is left out."""
    decoder = msgspec.json.Decoder(Clip)
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [decoder.decode(line) for line in lines]


def _write_pack(
    folder: Path, base: Path, sources: list[Clip], progress: Callable[[Iterable[Clip], int], Iterable[Clip]] | None
) -> None:
    """Append clips to part files, samples first and the index after them, then rename both."""
    index_part, samples_part = folder / "index.jsonl.part", folder / "samples.int16.part"
    try:
        done = _read_index(index_part)
        n_done = sum(clip.n_samples for clip in done)
        fits = len(done) <= len(sources) and all(map(_same_source, done, sources))
        if not fits or not samples_part.exists() or samples_part.stat().st_size < 2 * n_done:
            done, n_done = [], 0
    except msgspec.DecodeError:
        done, n_done = [], 0
    with samples_part.open("ab") as samples_file, index_part.open("wb") as index_file:
        samples_file.truncate(2 * n_done)
        index_file.writelines(msgspec.json.encode(clip) + b"\n" for clip in done)
        remaining: Iterable[Clip] = sources[len(done) :]
        lines = []
        for clip in progress(remaining, len(sources)) if progress else remaining:
            packed, samples = _pack_clip(base, clip, n_done)
            n_done += len(samples)
            samples_file.write(samples.tobytes())
            lines.append(msgspec.json.encode(packed) + b"\n")
            if len(lines) == _FLUSH_EVERY:
                samples_file.flush()
                index_file.writelines(lines)
                index_file.flush()
                lines = []
        samples_file.flush()
        index_file.writelines(lines)
    samples_part.replace(folder / "samples.int16")
    index_part.replace(folder / "index.jsonl")


def _pack_clip(base: Path, clip: Clip, offset: int) -> tuple[Clip, Int16]:
    """One clip with its place in the pack, and its samples [T]; none and a reason if it cannot be used."""
    path, samples, problem = base / clip.path, np.zeros(0, dtype=np.int16), ""
    try:
        with open_audio(path) as file:
            if file.channels > 1:
                problem = f"{file.channels} channels"
            elif file.samplerate != PACKED_RATE_HZ:
                problem = f"rate of {file.samplerate} Hz"
            else:
                samples = to_int16(read_block(file, -1))
    except (AudioError, OSError) as error:
        problem = str(error).removeprefix(f"{path}: ")
    if not problem and not samples.any():
        samples, problem = samples[:0], "no sound"
    start, end = word_extent(samples)
    return (
        msgspec.structs.replace(
            clip, offset=offset, n_samples=len(samples), word_start=start, word_end=end, problem=problem
        ),
        samples,
    )


def word_extent(samples: Int16) -> tuple[int, int]:
    """First and last sample of the word in a clip [T]: where the middle 98 % of the energy above the floor lie."""
    n_hops = len(samples) // _HOP_SAMPLES
    if n_hops == 0:
        return 0, len(samples)
    hops = from_int16(samples[: n_hops * _HOP_SAMPLES]).reshape(n_hops, _HOP_SAMPLES)
    energy = (hops**2).sum(1)
    energy = np.maximum(energy - 2 * np.percentile(energy, 20), 0)
    share = np.cumsum(energy) / max(float(energy.sum()), 1e-12)
    start, end = np.searchsorted(share, [0.01, 0.99])
    return int(start) * _HOP_SAMPLES, min(int(end) + 1, n_hops) * _HOP_SAMPLES


class Batch(NamedTuple):
    """Raw contexts int16 [B, T], classes int64 [B], and the first and last sample of each word int64 [B]."""

    samples: Int16
    labels: Int64
    word_start: Int64
    word_end: Int64


class Examples:
    """The clips of one split by class, and how a context is cut from each.

    Silence is cut from noise recordings: in training from the first part of all, in validation from the rest of those
    that come with Speech Commands, as the official test clips are, or of all if there are none. Clips longer
    than a context, such as running speech, are cut at a drawn place that has sound in it.
    """

    def __init__(self, pack: Pack, spec: Spec, data: Data, split: Split) -> None:
        if spec.sample_rate_hz != PACKED_RATE_HZ:
            raise DataError(f"expected model.sample_rate_hz = {PACKED_RATE_HZ} for training, got {spec.sample_rate_hz}")
        self._samples = pack.samples
        self._context = spec.context_samples
        self._names = spec.labels.names
        words: dict[str, list[Clip]] = {name: [] for name in self._names}
        all_noise = [clip for clip in pack.clips if clip.kind == "noise"]
        own_noise = [clip for clip in all_noise if clip.word == NOISE_FOLDER]
        self.noise = own_noise if split == "validation" and own_noise else all_noise
        for clip in pack.clips:
            if clip.kind == "noise" or clip.split != split:
                continue
            label = clip.word if clip.word in spec.labels.keywords else UNKNOWN
            if clip.kind == "command" and label in words:
                words[label].append(clip)
            elif clip.kind != "command" and UNKNOWN in words and label == UNKNOWN:
                words[UNKNOWN] += [clip] * max(1, clip.n_samples // self._context if clip.kind == "speech" else 1)
        self._clips = words
        self._shares = {UNKNOWN: data.unknown_share, SILENCE: data.silence_share}
        self._check(pack, split)
        self._noise_part = (0.0, _NOISE_TRAINING_PART) if split == "training" else (_NOISE_TRAINING_PART, 1.0)

    def _check(self, pack: Pack, split: Split) -> None:
        missing = [name for name, clips in self._clips.items() if not clips and name != SILENCE]
        if missing:
            counts = Counter(clip.word for clip in pack.clips if clip.kind == "command" and clip.split == split)
            has = ", ".join(f"{word} ({n})" for word, n in sorted(counts.items())) or "none"
            raise DataError(f"no {split} clips of: {', '.join(missing)}; the {split} split has {has}")
        if SILENCE in self._clips and not any(clip.n_samples >= 5 * self._context for clip in self.noise):
            raise DataError(f"no noise of at least {5 * self._context} samples to cut silence from; see data.noise")

    def counts(self) -> dict[str, int]:
        """Number of clips of each class; for silence, of noise recordings."""
        return {name: len(self.noise if name == SILENCE else clips) for name, clips in self._clips.items()}

    def noise_samples(self) -> Int16:
        """The split's part of all noise recordings, end to end, int16 [T]."""
        parts = [self._samples[start:end] for start, end in map(self._noise_range, self.noise)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16)

    def _noise_range(self, clip: Clip) -> tuple[int, int]:
        low, high = self._noise_part
        return clip.offset + int(low * clip.n_samples), clip.offset + int(high * clip.n_samples)

    def epoch(self, random: np.random.Generator) -> list[Planned]:
        """The contexts of one epoch as (class, clip), shuffled; the clip is None for silence."""
        keywords = [
            (label, clip)
            for label, name in enumerate(self._names)
            if name not in self._shares
            for clip in self._clips[name]
        ]
        plan: list[Planned] = list(keywords)
        for name, share in self._shares.items():
            if name not in self._clips:
                continue
            n = round(
                len(keywords) * share / (1 - sum(self._shares[role] for role in self._shares if role in self._clips))
            )
            label = self._names.index(name)
            clips = self._clips[name]
            if name == SILENCE:
                plan += [(label, None)] * n
            else:
                plan += [(label, clips[i]) for i in _cycle(random, len(clips), n)]
        order = random.permutation(len(plan))
        return [plan[i] for i in order]

    def batch(self, plan: list[Planned], random: np.random.Generator) -> Batch:
        """Cut the contexts of a part of an epoch."""
        samples = np.zeros((len(plan), self._context), dtype=np.int16)
        words = np.zeros((len(plan), 2), dtype=np.int64)
        for row, (_, clip) in enumerate(plan):
            if clip is None:
                samples[row] = self._cut_noise(random)
            else:
                words[row] = self._place(samples[row], clip, random)
        return Batch(samples, np.array([label for label, _ in plan], dtype=np.int64), words[:, 0], words[:, 1])

    def _cut_noise(self, random: np.random.Generator) -> Int16:
        long_enough = [(s, e) for s, e in map(self._noise_range, self.noise) if e - s >= self._context]
        lengths = np.array([end - start for start, end in long_enough], dtype=np.float64)
        start, end = long_enough[random.choice(len(long_enough), p=lengths / lengths.sum())]
        at = int(random.integers(start, end - self._context + 1))
        return self._samples[at : at + self._context]

    def _place(self, context: Int16, clip: Clip, random: np.random.Generator) -> tuple[int, int]:
        """Put a clip into the middle of a context [T], or a drawn part of a longer clip; the extent of its word."""
        samples = self._samples[clip.offset : clip.offset + clip.n_samples]
        if len(samples) > self._context:
            at = _draw_sounding(samples, self._context, random)
            context[:] = samples[at : at + self._context]
            return max(0, clip.word_start - at), min(self._context, clip.word_end - at)
        pad = (self._context - len(samples)) // 2
        context[pad : pad + len(samples)] = samples
        return clip.word_start + pad, clip.word_end + pad


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


def validation_batch(examples: Examples) -> Batch:
    """The validation set as one batch: every keyword clip, and the same unknown and silent contexts every time."""
    random = np.random.default_rng(0)
    return examples.batch(examples.epoch(random), random)
