"""What users have to what is read: folders, patterns, lists, manifests, tables and archives as a stream of entries.

Nothing is opened but lists, manifests, tables and archives, and nothing is kept: a million recordings pass one by one.
"""

from __future__ import annotations

import glob
import gzip
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from speechrnn.bulk.shards import Entry
from speechrnn.bulk.store import is_remote
from speechrnn.decoding import AUDIO_SUFFIXES
from speechrnn.errors import DataError, MissingDataError, first_line
from speechrnn.folders import walk_files

_PATTERN = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MANIFESTS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


class Columns(msgspec.Struct, frozen=True):
    """Which columns of a Parquet table are read."""

    path: str = "path"
    """Column of paths, used if there is no column of audio."""
    audio: str = ""
    """Column of the bytes of audio files, alone or as `bytes` beside their `path`, as Hugging Face stores them."""


Report = Callable[[str], None]
"""Told of each folder that cannot be read."""


def find_entries(inputs: Iterable[str], columns: Columns, report: Report) -> Iterator[Entry]:
    """Yield the recordings of all inputs in order, each as often as it is named.

    Raises MissingDataError for an input that is not there, and DataError for one that cannot be read.
    """
    for text in inputs:
        for name in _expanded(text):
            yield from _entries(name, columns, report)


def _expanded(text: str) -> Iterator[str]:
    """The names that {a,b} and {0..9} in a text stand for, as shells read them; the text itself if it has none."""
    match = _BRACES.search(text)
    if match is None or os.path.exists(text):  # noqa: PTH110 (may be an address)
        yield text
        return
    for choice in _choices(match[1]):
        yield from _expanded(text[: match.start()] + choice + text[match.end() :])


def _choices(inner: str) -> list[str]:
    first, dots, last = inner.partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    return inner.split(",")


def _entries(name: str, columns: Columns, report: Report) -> Iterator[Entry]:
    if is_remote(name):
        yield from _remote_entries(name, columns)
    elif Path(name).is_dir():
        for file in walk_files(Path(name).absolute(), report):
            if file.suffix.lower() in AUDIO_SUFFIXES:
                yield _local(file)
    elif _PATTERN.search(name) and not Path(name).exists():
        for found in glob.iglob(name, recursive=True):  # noqa: PTH207 (Path.glob keeps and sorts what it finds)
            if Path(found).is_file():
                yield from _file_entries(str(Path(found).absolute()), columns)
    elif Path(name).exists():
        yield from _file_entries(str(Path(name).absolute()), columns)
    else:
        raise MissingDataError(f"{name}: no such file or folder")


def _local(path: str | Path) -> Entry:
    """An entry for a file of this machine, whatever bytes its name is of."""
    raw = os.fsencode(path)
    try:
        return Entry(raw.decode())
    except UnicodeDecodeError:
        return Entry(raw.decode(errors="backslashreplace"), raw=raw)


def _remote_entries(name: str, columns: Columns) -> Iterator[Entry]:
    """The objects below a prefix, of a pattern, or the one of this name, folder by folder."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(name)
        if _PATTERN.search(root):
            found = fs.glob(root, detail=True)
            for path in sorted(found):
                yield from _object(fs, path, found[path], columns)
        elif fs.isfile(root):
            yield from _object(fs, root, fs.info(root), columns)
        elif fs.isdir(root):
            for _, _, files in fs.walk(root, detail=True):
                for info in sorted(files.values(), key=lambda info: str(info["name"])):
                    if _suffix(info["name"]) in AUDIO_SUFFIXES:
                        yield from _object(fs, info["name"], info, columns)
        else:
            raise MissingDataError(f"{name}: no such object, and nothing below it")
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"{name}: {first_line(error)}") from None
    except Exception as error:  # each file system has its own
        raise DataError(f"{name}: cannot be listed ({first_line(error)})") from None


def _object(fs: Any, path: str, info: dict[str, Any], columns: Columns) -> Iterator[Entry]:
    etag = str(info.get("ETag", "")).strip('"')
    for entry in _file_entries(fs.unstrip_protocol(path), columns):
        yield msgspec.structs.replace(entry, etag=etag) if etag else entry


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _file_entries(name: str, columns: Columns) -> Iterator[Entry]:
    """What a file names or holds, by its suffix; itself, if it is none of these kinds."""
    lower = name.lower()
    try:
        if lower.endswith(".txt"):
            yield from _listed(name)
        elif lower.endswith(_MANIFESTS):
            yield from _manifest(name)
        elif lower.endswith(".parquet"):
            yield from _table(name, columns)
        elif lower.endswith(".tar"):
            yield from _archive(name)
        elif lower.endswith((".tar.gz", ".tgz", ".tar.zst")):
            raise DataError(f"{name}: expected an archive that is not compressed, for its files are read in place")
        else:
            yield Entry(name) if is_remote(name) else _local(name)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # of which pyarrow's are
        raise DataError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or first_line(error)})") from None


def open_file(name: str) -> IO[bytes]:
    """Open a file of this machine, or what fsspec opens."""
    if is_remote(name):
        import fsspec

        return fsspec.open(name, "rb").open()  # type: ignore[no-any-return]
    return Path(name).open("rb")


def _beside(name: str, path: str) -> Entry:
    """The entry of a path in a list: relative ones start from the folder of the list."""
    if is_remote(path):
        return Entry(path)
    folder = name.rpartition("/")[0]
    return Entry(f"{folder}/{path}") if is_remote(name) else _local(os.path.join(folder, path))  # noqa: PTH118


def _listed(name: str) -> Iterator[Entry]:
    with open_file(name) as file:
        for line in file:
            if path := os.fsdecode(line.rstrip(b"\r\n")):
                yield _beside(name, path)


class _Source(msgspec.Struct):
    """One of the files of a Lhotse recording."""

    source: str
    type: str = "file"
    channels: tuple[int, ...] = (0,)


class _Recording(msgspec.Struct):
    """A Lhotse recording."""

    sources: tuple[_Source, ...]


class _Line(msgspec.Struct):
    """A line of a manifest: NeMo's or a cut of Lhotse."""

    audio_filepath: str = ""
    offset: float = 0.0
    start: float = 0.0
    duration: float | None = None
    channel: int | tuple[int, ...] = 0
    recording: _Recording | None = None


def _manifest(name: str) -> Iterator[Entry]:
    """The entries of a NeMo manifest or of Lhotse cuts, by what their lines hold."""
    decode = msgspec.json.Decoder(_Line).decode
    with open_file(name) as raw, gzip.open(raw) if name.lower().endswith(".gz") else raw as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _of_line(name, decode(line))
            except (msgspec.DecodeError, ValueError) as error:
                raise DataError(
                    f"{name}, line {number}: expected an object with audio_filepath, as in manifests of NeMo, or a cut "
                    f"of Lhotse with a recording ({first_line(error)})"
                ) from None


def _of_line(name: str, line: _Line) -> Entry:
    if line.audio_filepath:
        entry, offset_s, problem = _beside(name, line.audio_filepath), line.offset, ""
    elif line.recording and line.recording.sources:
        entry, offset_s, problem = (
            _beside(name, line.recording.sources[0].source),
            line.start,
            _beyond(line.recording.sources),
        )
    else:
        raise ValueError("it has neither")
    return msgspec.structs.replace(entry, offset_s=offset_s, duration_s=line.duration, problem=problem)


def _beyond(sources: tuple[_Source, ...]) -> str:
    """Why a recording of Lhotse cannot be read here; empty if it can."""
    if len(sources) > 1 or len(sources[0].channels) > 1:
        return "expected a recording of one channel; split its channels into files"
    if sources[0].type not in ("file", "url"):
        return f"expected a recording in a file or at an address, got one of type {sources[0].type}"
    return ""


def _table(name: str, columns: Columns) -> Iterator[Entry]:
    import pyarrow.parquet

    with open_file(name) as raw:
        table = pyarrow.parquet.ParquetFile(raw)
        column = columns.audio or columns.path
        if column not in table.schema_arrow.names:
            known = ", ".join(table.schema_arrow.names)
            raise DataError(f"{name}: has no column {column}, but {known}; give --path-column or --audio-column")
        if columns.audio:
            yield from _audio_rows(name, table, columns.audio)
            return
        for batch in table.iter_batches(columns=[column], batch_size=10_000):
            for path in batch.column(0).to_pylist():
                yield _beside(name, str(path))


def _audio_rows(name: str, table: Any, column: str) -> Iterator[Entry]:
    """An entry for each row that holds audio, named by its path in there if it has one, else by its number."""
    leaves = [table.schema.column(i).path for i in range(len(table.schema))]
    named = f"{column}.path" if f"{column}.path" in leaves else None
    number = 0
    for group in range(table.num_row_groups):
        n_rows = table.metadata.row_group(group).num_rows
        paths = _paths(table, group, named) if named else [None] * n_rows
        for row, path in enumerate(paths):
            yield Entry(f"{name}/{path or number}", file=name, part=(group, row))
            number += 1


def _paths(table: Any, group: int, leaf: str) -> list[str | None]:
    column = table.read_row_group(group, columns=[leaf]).column(0)
    return [value and value.get("path") for value in column.to_pylist()]


def _archive(name: str) -> Iterator[Entry]:
    """The audio in a tar file, by where its bytes are."""
    try:
        with open_file(name) as raw, tarfile.open(fileobj=raw, mode="r:", ignore_zeros=True) as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # which would grow with every file
                if member.isfile() and _suffix(member.name) in AUDIO_SUFFIXES:
                    shown = member.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
                    yield Entry(f"{name}/{shown}", file=name, part=(member.offset_data, member.size))
    except tarfile.TarError as error:
        raise DataError(f"{name}: not readable as a tar file ({first_line(error)})") from None
