"""Speech Commands on disk to packed waveforms: download, official splits, and one file that holds every clip.

A pack is one flat file of 16-bit samples with an index beside it, made once by `prepare`; an epoch opens no wav file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
import math
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import AUDIO_SUFFIXES, from_int16, open_audio, read_block, to_int16
from speechrnn.config import TRAINING_RATE_HZ, Data
from speechrnn.data.tts import SOUND_LIKE, is_excluded, plan, synthesise
from speechrnn.errors import AudioError, DataError, first_line
from speechrnn.labels import FOLDER_LABELS, SILENCE

Split = Literal["training", "validation", "testing"]
ClipKind = Literal["command", "word", "aligned", "tts", "confusable", "speech", "hard_negative", "noise", "room"]
Int16 = NDArray[np.int16]
Place = TypeVar("Place")

_LOGGER = logging.getLogger(__name__)
PROBLEMS = "problems.txt"
"""Beside the index: the clips left out, and why, one a line."""
_ARCHIVES = "http://download.tensorflow.org/data"
_TEST_LABELS = ("_silence_", "_unknown_")  # which the archives of test clips have beside the ten keywords
_HOP_SAMPLES = 160  # of the energy by which words are found
_FLUSH_EVERY = 500
_HARD_NEGATIVE_SAMPLES = TRAINING_RATE_HZ * 14 // 10
_HARD_NEGATIVE_AFTER_S = 0.3
_SHORTEST_S, _LONGEST_S = 0.15, 0.9  # of an excerpt
_MARGIN_SAMPLES = TRAINING_RATE_HZ * 3 // 100
_N_PER_WORD = 20
_NEAR_SAMPLES = TRAINING_RATE_HZ // 10  # about a word that nothing is to be trained on, for its times are guessed
_SHORTEST_STRETCH = TRAINING_RATE_HZ
_FORMAT = b'{"speechrnn_pack": 3}'
"""First line of an index. A pack of another format is made anew; count up when what it says of a clip changes."""


class Clip(msgspec.Struct, frozen=True):
    """One packed recording: its source, what it is, where its samples lie and where in them the word does."""

    path: str
    size: int
    mtime_ns: int
    kind: ClipKind
    split: Split
    word: str
    offset: int = 0
    n_samples: int = 0
    word_start: int = 0
    word_end: int = 0
    problem: str = ""


class Pack(NamedTuple):
    """All packed recordings: the usable clips, their samples int16 [T], and the clips left out."""

    clips: list[Clip]
    samples: Int16
    problems: list[Clip]


def download(folder: Path, version: str) -> Path:
    """Fetch and unpack Speech Commands v0.01 or v0.02 below `folder` with torchaudio, which has the checksums."""
    from torchaudio.datasets import SPEECHCOMMANDS

    name = f"speech_commands_{version}"
    return _fetch(folder, f"SpeechCommands/{name}", lambda aside: SPEECHCOMMANDS(aside, url=name, download=True))


def download_test_set(folder: Path, version: str) -> Path:
    """Fetch and unpack the official test clips of v0.01 or v0.02, laid out as LABEL/*.wav, below `folder`."""
    name = f"speech_commands_test_set_{version}"
    return _fetch(folder, name, lambda aside: _unpack_test_set(aside, name))


def _fetch(folder: Path, name: str, unpack: Callable[[Path], object]) -> Path:
    """Let `unpack` make `name` in a folder aside, and move it when complete, so an interruption leaves no half of it.

    Nothing is done if it is there, or another process has made it meanwhile. Raises DataError if it cannot be had.
    """
    target, aside = folder / name, folder / f"{Path(name).name}.downloading"
    if target.is_dir():
        return target
    with alone_in(folder):
        if not target.is_dir():
            shutil.rmtree(aside / name, ignore_errors=True)
            aside.mkdir(exist_ok=True)
            try:
                unpack(aside)
            except (OSError, RuntimeError, HTTPException) as error:
                what = f"could not download {target.name} ({first_line(error)})"
                raise DataError(f"{what}; check the network and run again") from None
            target.parent.mkdir(exist_ok=True)
            (aside / name).rename(target)
            shutil.rmtree(aside)
    return target


def _unpack_test_set(aside: Path, name: str) -> None:
    """Fetch the archive of a test set and unpack it. One that is damaged, or is something else, is not kept."""
    from torch.hub import download_url_to_file

    archive, unpacked = aside / f"{name}.tar.gz", aside / name
    if not archive.is_file():
        download_url_to_file(f"{_ARCHIVES}/{archive.name}", str(archive))
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
            _extract(packed, unpacked)
            stream.read()  # to its end, where its checksum is
        missing = [label for label in _TEST_LABELS if not (unpacked / label).is_dir()]
        problem = f"it has no folder {' and no '.join(missing)}" if missing else ""
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        problem = first_line(error)
    if problem:
        archive.unlink()
        raise DataError(f"{name}: the archive that came is not that of the test clips ({problem}); run again")


def _extract(packed: tarfile.TarFile, folder: Path) -> None:
    """Write the files of an archive below a folder. `extractall` has no filter before Python 3.11.4.

    Raises TarError for a file that would lie outside; links and devices are left out.
    """
    for member in packed:
        target = folder / member.name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise tarfile.TarError(f"{member.name} would lie outside of {folder.name}")
        content = packed.extractfile(member) if member.isfile() else None
        if content is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)


def speaker_of(path: str) -> str:
    """The speaker of a clip of Speech Commands, as its file name has it."""
    return Path(path).name.partition("_nohash_")[0]


def split_of(file_name: str) -> Split:
    """The official split of a clip by the hash of its speaker (Warden, 2018, arXiv 1804.03209, section 7)."""
    percentage = int(hashlib.sha1(speaker_of(file_name).encode()).hexdigest(), 16) % 2**27 * 100 / (2**27 - 1)
    return "validation" if percentage < 10 else "testing" if percentage < 20 else "training"


def splits_of(commands: Path) -> Callable[[Path], Split]:
    """What tells the split of each clip of a Speech Commands tree: its official lists, or the hash where it has none.

    Recordings of noise belong to training.
    """
    listed: dict[str, Split] = {}
    splits: tuple[Split, ...] = ("validation", "testing")
    lists = [commands / f"{split}_list.txt" for split in splits]
    if all(path.is_file() for path in lists):  # with one alone, the other's speakers would be trained on
        for path, split in zip(lists, splits, strict=True):
            listed |= dict.fromkeys(path.read_text().split(), split)

    def split_of_clip(file: Path) -> Split:
        if FOLDER_LABELS.get(file.parent.name) == SILENCE:
            return "training"
        return listed.get(f"{file.parent.name}/{file.name}", "training") if listed else split_of(file.name)

    return split_of_clip


def _split_of_speech(file_name: str, validation_share: float) -> Split:
    """The split of a recording of running speech, by the hash of its speaker."""
    speaker = re.split("[-_]", Path(file_name).stem)[0]
    place = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 1000 / 1000
    return "validation" if place < validation_share else "training"


def _source(base: Path, file: Path, kind: ClipKind, split: Split, word: str) -> Clip:
    """A file to be packed. One that cannot be looked at, such as a broken link, has a size of -1; packing says why."""
    try:
        stat = file.stat()
        size, mtime_ns = stat.st_size, stat.st_mtime_ns
    except OSError:
        size, mtime_ns = -1, 0
    return Clip(os.path.relpath(file, base), size, mtime_ns, kind, split, word)


def find_sources(data: Data) -> list[Clip]:
    """Every audio file that the configuration names, with its kind and split. Raises DataError for missing folders."""
    base = Path(data.dir)
    commands = base / data.commands
    if not commands.is_dir():
        raise DataError(
            f"{commands}: no such folder; expected Speech Commands there. Set data.dir to where yours lies, "
            f"or download it: speechrnn prepare CONFIG --download v0.02"
        )
    splits, clips = splits_of(commands), []
    for file in _audio_files(commands):
        word = file.parent.name
        if FOLDER_LABELS.get(word) == SILENCE:
            clips.append(_source(base, file, "noise", splits(file), word))
        elif file.parent != commands:
            clips.append(_source(base, file, "command", splits(file), word))
    folders: list[tuple[tuple[str, ...], ClipKind, Split]] = [
        (data.words, "word", "training"),
        (data.words_validation, "word", "validation"),
        (data.speech, "speech", "training"),
        (data.noise, "noise", "training"),
        (data.rooms, "room", "training"),
    ]
    for names, kind, split in folders:
        for name in names:
            if not (base / name).is_dir():
                raise DataError(f"{base / name}: no such folder; correct it in [data] of the configuration")
            for file in _audio_files(base / name):
                of_file = _split_of_speech(file.name, data.speech_validation_fraction) if kind == "speech" else split
                clips.append(_source(base, file, kind, of_file, file.parent.name))
    return clips


def _audio_files(folder: Path) -> list[Path]:
    """All audio files below a folder, in order. Links to folders are followed, each folder being entered once."""
    found, seen = [], {folder.resolve()}
    for root, folders, names in os.walk(folder, followlinks=True):
        real = {name: (Path(root) / name).resolve() for name in sorted(folders)}
        folders[:] = [name for name, path in real.items() if path not in seen]
        seen.update(real.values())
        found += [Path(root, name) for name in names]
    return sorted(path for path in found if path.suffix.lower() in AUDIO_SUFFIXES)


def prepare(
    data: Data,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
    *,
    keywords: tuple[str, ...] = (),
) -> Pack:
    """Make what is to be synthesised and pack all sources, or open the pack if it is there and no source has changed.

    Interrupted at any time, it goes on where it was; of several processes one makes the pack, and the others wait for
    it. `progress` wraps the clips as they are made and packed. `keywords` are needed where they are to be synthesised.
    """
    base = Path(data.dir)
    folder, recordings, spoken = base / data.packed, find_sources(data), plan(data, keywords)

    def sources() -> list[Clip]:
        made = [_source(base, base / data.tts / item.path, item.kind, "training", item.word) for item in spoken]
        return recordings + made

    for field, name, pipeline in (
        ("hard_negatives", data.hard_negatives, "mine_hard_negatives"),
        ("aligned_words", data.aligned_words, "align_words"),
    ):
        if name and not (base / name).is_file():
            raise DataError(
                f"{base / name}: no such file; pipelines.{pipeline} makes it; until then --set data.{field}=''"
            )
    pack = _open_pack(folder, sources())
    if pack is None:
        with alone_in(folder):
            if spoken:
                with alone_in(base / data.tts):
                    synthesise(base / data.tts, spoken, progress)
            pack = _open_pack(folder, sources()) or _make_pack(folder, base, sources(), progress)
    return _with_lists(pack, base, data, {*keywords, *data.held_out})


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and wait until no other process works in it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")  # a spoken word may be "lock"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOGGER.warning("waiting for another process that works in %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make_pack(
    folder: Path, base: Path, sources: list[Clip], progress: Callable[[Iterable[Any], int], Iterable[Any]] | None
) -> Pack:
    """Pack all sources anew. Raises DataError if none can be used, or the pack is not of them."""
    _write_pack(folder, base, sources, progress)
    pack = _open_pack(folder, sources)
    if not (folder / "samples.int16").stat().st_size:
        first = next((f"{clip.path}: {clip.problem}" for clip in _read_index(folder / "index.jsonl")), "no file")
        raise DataError(f"{base}: none of the {len(sources)} audio files can be used; the first is {first}")
    if pack is None:
        raise DataError(f"{folder}: the audio changed while it was packed; run again")
    return pack


def _with_lists(pack: Pack, base: Path, data: Data, known: set[str]) -> Pack:
    """A pack with what the lists name as clips, and without the words in `known` where they say that these are."""
    mined = _hard_negative_clips(base / data.hard_negatives, pack.clips) if data.hard_negatives else []
    if not data.aligned_words:
        return pack._replace(clips=pack.clips + mined)
    speech = [clip for clip in pack.clips if clip.kind == "speech"]
    others = [clip for clip in pack.clips if clip.kind != "speech"]
    words = _words_of(base / data.aligned_words, pack)
    known = known.union(*(SOUND_LIKE.get(word, ()) for word in known))
    places = {clip.path: _places_of(clip, words[clip.path], known) for clip in speech}
    stretches = [part for clip in speech for part in _between(clip, places[clip.path])]
    mined = [clip for clip in mined if not _has_any(clip, places.get(clip.path, []))]
    return pack._replace(clips=others + stretches + mined + _aligned_clips(speech, words, known))


_MINE_AGAIN = "mine_hard_negatives", "mine again"
_CUT_AGAIN = "align_words", "delete it, cut again"


class FalseAlarm(NamedTuple):
    """A false alarm: the recording as the pack names it, where the keyword was heard to end, which one, its score."""

    audio: str
    end_s: float
    label: str
    score: float


def read_hard_negatives(path: Path) -> list[FalseAlarm]:
    """A list of false alarms. Raises DataError for anything else."""
    mined = _read_list(
        path, lambda row: FalseAlarm(row["audio"], float(row["end_s"]), row["label"], float(row["score"])), _MINE_AGAIN
    )
    invalid = [one.end_s for one in mined if not 0 <= one.end_s < math.inf]
    if invalid:
        raise DataError(f"{path}: expected end_s of at least 0, got {invalid[0]:g}; {_MINE_AGAIN[1]}")
    return mined


def _read_list(path: Path, of_row: Callable[[dict[str, str]], Place], made_by: tuple[str, str]) -> list[Place]:
    """A CSV file of places in recordings. Raises DataError, with the pipeline that writes it and what to do, if not."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if any(None in row.values() for row in rows):
            raise ValueError("a line is incomplete")
        return [of_row(row) for row in rows]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: expected what pipelines.{made_by[0]} writes ({error}); {made_by[1]}") from None


def _hard_negative_clips(path: Path, clips: list[Clip]) -> list[Clip]:
    """The stretches of packed recordings that a list of false alarms names, each as a clip.

    They are somewhat longer than a detection, so that contexts can be cut from them at several places.
    """
    recordings = {clip.path: clip for clip in clips}
    found = []
    for mined in read_hard_negatives(path):
        if mined.audio not in recordings:
            raise DataError(f"{path}: {mined.audio} is no recording of the configuration; delete the file, mine again")
        clip = recordings[mined.audio]
        last = min(round((mined.end_s + _HARD_NEGATIVE_AFTER_S) * TRAINING_RATE_HZ), clip.n_samples)
        first = max(0, last - _HARD_NEGATIVE_SAMPLES)
        n_samples = min(_HARD_NEGATIVE_SAMPLES, clip.n_samples - first)
        extent = {"offset": clip.offset + first, "n_samples": n_samples, "word_start": 0, "word_end": n_samples}
        found.append(msgspec.structs.replace(clip, kind="hard_negative", **extent))
    return found


class AlignedWord(NamedTuple):
    """A word in running speech: the recording as the pack names it, where the word begins and ends, which it is."""

    audio: str
    start_s: float
    end_s: float
    label: str


def read_aligned_words(path: Path) -> list[AlignedWord]:
    """A list of words in running speech. Raises DataError for anything else."""
    words = _read_list(
        path,
        lambda row: AlignedWord(row["audio"], float(row["start_s"]), float(row["end_s"]), row["label"]),
        _CUT_AGAIN,
    )
    invalid = [word for word in words if not 0 <= word.start_s < word.end_s < math.inf]
    if invalid:
        raise DataError(
            f"{path}: expected 0 <= start_s < end_s, got {invalid[0].start_s:g}, {invalid[0].end_s:g}; {_CUT_AGAIN[1]}"
        )
    return words


def _words_of(path: Path, pack: Pack) -> dict[str, list[AlignedWord]]:
    """The words that a list has of each packed recording of running speech."""
    words: dict[str, list[AlignedWord]] = {clip.path: [] for clip in pack.clips if clip.kind == "speech"}
    unusable = {clip.path for clip in pack.problems}
    for word in read_aligned_words(path):
        if word.audio in words:
            words[word.audio].append(word)
        elif word.audio not in unusable:
            raise DataError(f"{path}: {word.audio} is no speech of the configuration; run pipelines.align_words")
    return words


def _places_of(clip: Clip, words: list[AlignedWord], known: set[str]) -> list[tuple[int, int]]:
    """Where in the pack a recording has words in `known`, or what must stay unheard, with what is near, in order.

    "of" alone may stay: within a sentence it is nothing like "off", and without it little speech would be left.
    """
    unwanted = [word for word in words if word.label in known or (word.label != "of" and is_excluded(word.label))]
    places = [(round(word.start_s * TRAINING_RATE_HZ), round(word.end_s * TRAINING_RATE_HZ)) for word in unwanted]
    return sorted((clip.offset + start - _NEAR_SAMPLES, clip.offset + end + _NEAR_SAMPLES) for start, end in places)


def _between(clip: Clip, places: list[tuple[int, int]]) -> list[Clip]:
    """The stretches of a second or more of a recording that lie between places; all of it where there are none."""
    if not places:
        return [clip]
    parts, first, last = [], clip.offset, clip.offset + clip.n_samples
    for start, end in [*places, (last, last)]:
        n_samples = start - first
        if n_samples >= _SHORTEST_STRETCH:
            extent = {"offset": first, "n_samples": n_samples, "word_start": 0, "word_end": n_samples}
            parts.append(msgspec.structs.replace(clip, **extent))
        first = max(first, end)
    return parts


def _has_any(clip: Clip, places: list[tuple[int, int]]) -> bool:
    """Whether a stretch of a recording overlaps a place."""
    return any(start < clip.offset + clip.n_samples and clip.offset < end for start, end in places)


def _aligned_clips(clips: list[Clip], words: dict[str, list[AlignedWord]], known: set[str]) -> list[Clip]:
    """Words of packed recordings of running speech, each as a clip, and of each word no more than `_N_PER_WORD`.

    Left out are words in `known`, what must stay unheard, and what is too short or too long for a word alone.
    """
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        for word in words[clip.path]:
            fits = _SHORTEST_S <= word.end_s - word.start_s <= _LONGEST_S
            if fits and word.label not in known and not is_excluded(word.label):
                found.setdefault(word.label, []).append(_aligned_clip(clip, word))
    return [clip for same in found.values() for clip in _spread(same, _N_PER_WORD)]


def _aligned_clip(clip: Clip, word: AlignedWord) -> Clip:
    """A word of a recording with a margin at both ends."""
    start, end = (min(round(at_s * TRAINING_RATE_HZ), clip.n_samples) for at_s in (word.start_s, word.end_s))
    first, last = max(0, start - _MARGIN_SAMPLES), min(end + _MARGIN_SAMPLES, clip.n_samples)
    extent = {"offset": clip.offset + first, "n_samples": last - first}
    extent |= {"word_start": start - first, "word_end": end - first}
    return msgspec.structs.replace(clip, kind="aligned", word=word.label, **extent)


def _spread(clips: list[Clip], n: int) -> list[Clip]:
    """At most `n` of them, evenly from first to last: neighbours are of one speaker."""
    return [clips[i * len(clips) // n] for i in range(n)] if len(clips) > n else clips


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
    return [decoder.decode(line) for line in lines[1:]] if lines[:1] == [_FORMAT] else []


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
        index_file.write(_FORMAT + b"\n")
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
    problems = [packed for packed in _read_index(index_part) if packed.problem]
    (folder / PROBLEMS).write_text(
        "".join(f"{clip.path}: {clip.problem}\n" for clip in problems), encoding="utf-8", errors="surrogateescape"
    )
    samples_part.replace(folder / "samples.int16")
    index_part.replace(folder / "index.jsonl")


def _pack_clip(base: Path, clip: Clip, offset: int) -> tuple[Clip, Int16]:
    """One clip with its place in the pack, and its samples [T]; none and a reason if it cannot be used."""
    path, samples, problem = base / clip.path, np.zeros(0, dtype=np.int16), ""
    try:
        with open_audio(path) as file:
            if file.channels > 1:
                problem = f"{file.channels} channels"
            elif file.samplerate != TRAINING_RATE_HZ:
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
