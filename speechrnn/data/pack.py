"""From folders of audio to one packed file: sources are found, synthesised words are made, and all of it is packed.

A pack is one flat file of 16-bit samples with an index beside it, made once by `prepare`; an epoch opens no wav file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from speechrnn.audio import to_int16
from speechrnn.config import TRAINING_RATE_HZ, Data
from speechrnn.data.annotations import check_lists, with_lists
from speechrnn.data.clips import Clip, ClipKind, Int16, Pack, Refused, Source, Split, alone_in, word_extent
from speechrnn.data.speech_commands import check_splits, splits_of
from speechrnn.data.tts import plan, synthesise
from speechrnn.decoding import read_recording
from speechrnn.errors import AudioError, DataError, MissingDataError
from speechrnn.folders import find_audio
from speechrnn.labels import FOLDER_LABELS, SILENCE

_LOGGER = logging.getLogger(__name__)
PROBLEMS = "problems.txt"
"""Beside the index: the files left out, and why, and those that were packed after a change, one a line."""
_FLUSH_EVERY = 500
_FORMAT = b'{"speechrnn_pack": 5}'
"""First line of an index. A pack of another format is made anew; count up when what it says of a clip changes."""


def _split_of_speech(file_name: str, validation_fraction: float) -> Split:
    """The split of a recording of running speech, by the hash of its speaker."""
    speaker = re.split("[-_]", Path(file_name).stem)[0]
    fraction = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 1000 / 1000
    return "validation" if fraction < validation_fraction else "training"


def _source(base: Path, file: Path, kind: ClipKind, split: Split, word: str) -> Source:
    """A file to be packed. One that cannot be looked at, such as a broken link, has a size of -1; packing says why."""
    try:
        stat = file.stat()
        size, mtime_ns = stat.st_size, stat.st_mtime_ns
    except OSError:
        size, mtime_ns = -1, 0
    return Source(os.path.relpath(file, base), size, mtime_ns, kind, split, word)


def find_sources(data: Data) -> list[Source]:
    """Every audio file that the configuration names, with its kind and split. Raises DataError for missing folders."""
    base = Path(data.dir)
    commands = base / data.commands
    if not commands.is_dir():
        raise MissingDataError(
            f"{commands}: no such folder; expected Speech Commands there. Set data.dir to where yours lies, "
            f"or download it: speechrnn prepare CONFIG --download v0.02"
        )
    splits, sources = splits_of(commands), []
    for file in _found(commands):
        word = file.parent.name
        if FOLDER_LABELS.get(word) == SILENCE:
            sources.append(_source(base, file, "noise", splits(file), word))
        elif file.parent != commands:
            sources.append(_source(base, file, "command", splits(file), word))
    _check_splits(commands, sources)
    folders: list[tuple[tuple[str, ...], ClipKind, Split]] = [
        (data.words, "word", "training"),
        (data.words_validation, "word", "validation"),
        (data.natural_words, "natural", "training"),
        (data.speech, "speech", "training"),
        (data.noise, "noise", "training"),
        (data.rooms, "room", "training"),
    ]
    for names, kind, split in folders:
        for name in names:
            if not (base / name).is_dir():
                raise MissingDataError(f"{base / name}: no such folder; correct it in [data] of the configuration")
            for file in _found(base / name):
                of_file = _split_of_speech(file.name, data.speech_validation_fraction) if kind == "speech" else split
                sources.append(_source(base, file, kind, of_file, file.parent.name))
    return sources


def _check_splits(commands: Path, sources: list[Source]) -> None:
    """Warn of words that the official lists hardly name. Raises DataError for one whose clips they miss."""
    splits: defaultdict[str, Counter[Split]] = defaultdict(Counter)
    for source in sources:
        if source.kind == "command":
            splits[source.word][source.split] += 1
    for problem in check_splits(commands, splits):
        _LOGGER.warning(problem)


def _found(folder: Path) -> list[Path]:
    """The audio in a folder, which may be empty."""
    try:
        return find_audio(folder)
    except AudioError:
        return []


def prepare(
    data: Data,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
    *,
    keywords: tuple[str, ...] = (),
) -> Pack:
    """Make what is to be synthesised and pack all sources, or open the pack if it is there and no source has changed.

    Interrupted at any time, it goes on where it was; of several processes one makes the pack, and the others wait for
    it. `progress` wraps the sources as they are made and packed. `keywords` are needed where they are to be
    synthesised. Raises DataError for missing folders and lists, and where no file can be used.
    """
    base = Path(data.dir)
    folder, recordings, planned = base / data.packed, find_sources(data), plan(data, keywords)

    def sources() -> list[Source]:
        made = [_source(base, base / data.tts / item.path, item.kind, "training", item.word) for item in planned]
        return recordings + made

    check_lists(data)
    pack = _open_pack(folder, sources())
    if pack is None:
        with alone_in(folder):
            if planned:
                with alone_in(base / data.tts):
                    synthesise(base / data.tts, planned, progress)
            pack = _open_pack(folder, sources()) or _make_pack(folder, base, sources(), progress)
    return with_lists(pack, data, keywords)


def _make_pack(
    folder: Path, base: Path, sources: list[Source], progress: Callable[[Iterable[Any], int], Iterable[Any]] | None
) -> Pack:
    """Pack all sources anew. Raises DataError if none can be used, or the pack is not of them."""
    _write_pack(folder, base, sources, progress)
    pack = _open_pack(folder, sources)
    if not (folder / "samples.int16").stat().st_size:
        refused = [entry for entry in _read_index(folder / "index.jsonl") if isinstance(entry, Refused)]
        first = f"{refused[0].source.path}: {refused[0].problem}" if refused else "no file"
        raise DataError(f"{base}: none of the {len(sources)} audio files can be used; the first is {first}")
    if pack is None:
        raise DataError(f"{folder}: the audio changed while it was packed; run again")
    return pack


def _open_pack(folder: Path, sources: list[Source]) -> Pack | None:
    """The pack in this folder, or None if there is none or it is not of these sources."""
    try:
        entries = _read_index(folder / "index.jsonl")
        samples = np.memmap(folder / "samples.int16", dtype=np.int16, mode="r")
    except (OSError, ValueError):
        return None
    if [entry.source for entry in entries] != sources or len(samples) != _n_samples(entries):
        return None
    clips = [entry for entry in entries if isinstance(entry, Clip)]
    return Pack(clips, samples, [entry for entry in entries if isinstance(entry, Refused)])


def _n_samples(entries: Iterable[Clip | Refused]) -> int:
    return sum(entry.n_samples for entry in entries if isinstance(entry, Clip))


def _read_index(path: Path) -> list[Clip | Refused]:
    """The complete lines of an index; a last line cut short by an interruption is left out."""
    decoder = msgspec.json.Decoder(Clip | Refused)
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [decoder.decode(line) for line in lines[1:]] if lines[:1] == [_FORMAT] else []


def _read_done(index: Path, samples: Path, sources: list[Source]) -> list[Clip | Refused]:
    """The entries of part files that an interruption left, if they are of the first of these sources, else none."""
    try:
        done = _read_index(index)
    except msgspec.DecodeError:
        return []
    fits = [entry.source for entry in done] == sources[: len(done)]
    return done if fits and samples.exists() and samples.stat().st_size >= 2 * _n_samples(done) else []


def _write_pack(
    folder: Path, base: Path, sources: list[Source], progress: Callable[[Iterable[Any], int], Iterable[Any]] | None
) -> None:
    """Append sources to part files, samples first and the index after them, then rename both."""
    index_part, samples_part = folder / "index.jsonl.part", folder / "samples.int16.part"
    done = _read_done(index_part, samples_part, sources)
    n_done = _n_samples(done)
    with samples_part.open("ab") as samples_file, index_part.open("wb") as index_file:
        samples_file.truncate(2 * n_done)
        index_file.write(_FORMAT + b"\n")
        index_file.writelines(msgspec.json.encode(entry) + b"\n" for entry in done)
        remaining: Iterable[Source] = sources[len(done) :]
        lines = []
        for source in progress(remaining, len(sources)) if progress else remaining:
            entry, samples = _pack_source(base, source, n_done)
            n_done += len(samples)
            samples_file.write(samples.tobytes())
            lines.append(msgspec.json.encode(entry) + b"\n")
            if len(lines) == _FLUSH_EVERY:
                samples_file.flush()
                index_file.writelines(lines)
                index_file.flush()
                lines = []
        samples_file.flush()
        index_file.writelines(lines)
    _write_problems(folder / PROBLEMS, _read_index(index_part))
    samples_part.replace(folder / "samples.int16")
    index_part.replace(folder / "index.jsonl")


def _write_problems(path: Path, entries: Iterable[Clip | Refused]) -> None:
    """List the files that were left out, or changed, and why."""
    notes = [(one.source.path, one.problem if isinstance(one, Refused) else one.note) for one in entries]
    lines = [f"{name}: {note}\n" for name, note in notes if note]
    path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def _pack_source(base: Path, source: Source, offset: int) -> tuple[Clip | Refused, Int16]:
    """A source as a clip that begins at `offset`, and its samples [T]; none, and a reason, if it cannot be used."""
    samples, notes, problem = _read_samples(base / source.path)
    if not problem and not samples.any():
        problem = "no sound"
    if problem:
        return Refused(source, problem), samples[:0]
    return Clip(source, offset, len(samples), *word_extent(samples), "; ".join(notes)), samples


def _read_samples(path: Path) -> tuple[Int16, list[str], str]:
    """The samples of a file [T] at the rate of training, what was done to it for that, and why it cannot be used."""
    try:
        recording = read_recording(path, TRAINING_RATE_HZ)
    except (AudioError, OSError) as error:
        return np.zeros(0, dtype=np.int16), [], str(error).removeprefix(f"{path}: ")
    notes = list(recording.notes)
    if recording.rate_hz != TRAINING_RATE_HZ:
        notes.append(f"resampled from {recording.rate_hz} to {TRAINING_RATE_HZ} Hz")
    if recording.n_channels > 1:
        notes.append(f"{recording.n_channels} channels mixed to one")
    if recording.problem:
        notes.append(f"{recording.problem}; what there is was packed")
    return to_int16(recording.samples), notes, ""
