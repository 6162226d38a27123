"""An entry of the listing to an open recording; what lies in object stores is fetched ahead, by threads."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from speechrnn.audio import Samples
from speechrnn.bulk.inputs import open_file
from speechrnn.bulk.shards import Entry
from speechrnn.bulk.store import is_remote
from speechrnn.decoding import AudioFile, open_audio
from speechrnn.errors import AudioError, DataError, MissingAudioError, SpeechRnnError, first_line

Result = TypeVar("Result")
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_FIRST_WAIT_S = 0.5
_N_AHEAD = 8
_N_THREADS = 4
_COPY_BYTES = 2**20
_N_ROWS = 16  # of a table, in memory at a time


class StorageError(DataError):
    """A file that its storage does not give, also when it was asked again."""


class Opened(NamedTuple):
    """A recording that can be read."""

    audio: AudioFile
    """Its file."""
    etag: str
    """Its version."""


def opened(entry: Entry, n_retries: int, columns_audio: str) -> Opened:
    """Open a recording, whose bytes are then on this machine. Raises AudioError, and StorageError after all retries."""
    if entry.problem:
        raise AudioError(f"{entry.path}: {entry.problem}")
    if entry.part is None and not is_remote(entry.opened):
        return _local(entry, Path(entry.opened), n_retries)
    file = _with_retries(lambda: _fetched(entry, columns_audio), entry, n_retries)
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise AudioError(f"{entry.path}: expected audio, got an empty file")
    try:
        return Opened(AudioFile(Path(entry.path), file), entry.etag)
    except (OSError, ValueError) as error:
        file.close()
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{entry.path}: cannot be read ({first_line(error)})") from None


def _local(entry: Entry, path: Path, n_retries: int) -> Opened:
    def status() -> os.stat_result:
        with path.open("rb") as file:
            return os.fstat(file.fileno())

    found = _with_retries(status, entry, n_retries) if path.is_file() else None
    audio = open_audio(path)
    return Opened(audio, f"{found.st_mtime_ns:x}-{found.st_size:x}" if found else "")


def _with_retries(work: Callable[[], Result], entry: Entry, n_retries: int) -> Result:
    """What `work` gives, asked again after a while where storage fails; not where the file is missing or forbidden."""
    for attempt in range(n_retries + 1):
        try:
            return work()
        except FileNotFoundError:
            raise MissingAudioError(f"{entry.path}: no such file") from None
        except SpeechRnnError:
            raise
        except Exception as error:  # each storage has its own
            if isinstance(error, _PERMANENT) or attempt == n_retries:
                raise StorageError(f"{entry.path}: its storage fails ({first_line(error)})") from None
        time.sleep(_FIRST_WAIT_S * 2**attempt)
    raise AssertionError("there is a last attempt")


def _fetched(entry: Entry, column: str) -> IO[bytes]:
    """A copy of the recording's bytes in a file without a name."""
    target = tempfile.TemporaryFile(prefix="speechrnn-")  # noqa: SIM115 (AudioFile closes it)
    try:
        if entry.part and not entry.file.lower().endswith(".tar"):
            target.write(_table_bytes(entry.file, *entry.part, column))
        else:
            with open_file(entry.opened) as source:
                _copy(source, target, entry.part)
        target.flush()
        return target
    except BaseException:
        target.close()
        raise


def _copy(source: IO[bytes], target: IO[bytes], part: tuple[int, int] | None) -> None:
    """Copy a file, or a part of it given by its first byte and its size."""
    if part is None:
        shutil.copyfileobj(source, target, _COPY_BYTES)
        return
    start, size = part
    source.seek(start)
    while size and (data := source.read(min(size, _COPY_BYTES))):
        target.write(data)
        size -= len(data)
    if size:
        raise OSError("the archive ends within it")


class _TableCursor:
    """The audio in a row group of a table, in order, some rows in memory at a time."""

    def __init__(self, name: str, group: int, column: str) -> None:
        self._lock = threading.Lock()
        self._name, self._group, self._column = name, group, column
        self._rewind()

    def _rewind(self) -> None:
        import pyarrow.parquet

        self._file = open_file(self._name)
        table = pyarrow.parquet.ParquetFile(self._file)
        self._batches = table.iter_batches(_N_ROWS, row_groups=[self._group], columns=[self._column])
        self._kept = deque[tuple[int, Any]](maxlen=2)
        self._n_seen = 0

    def value(self, row: int) -> Any:
        with self._lock:
            if row < self._n_seen and row < self._kept[0][0]:
                self._file.close()
                self._rewind()
            while row >= self._n_seen:
                column = next(self._batches).column(0)
                self._kept.append((self._n_seen, column))
                self._n_seen += len(column)
            start, column = next((start, column) for start, column in reversed(self._kept) if start <= row)
            return column[row - start].as_py()

    def __del__(self) -> None:
        self._file.close()


_cursor = functools.lru_cache(maxsize=2)(_TableCursor)


def _table_bytes(name: str, group: int, row: int, column: str) -> bytes:
    value = _cursor(name, group, column).value(row)
    return bytes((value["bytes"] if isinstance(value, dict) else value) or b"")


def opened_ahead(
    entries: Sequence[tuple[int, Entry]], n_retries: int, columns_audio: str
) -> Iterator[tuple[int, Entry, Future[Opened]]]:
    """Yield each entry with its recording, which was asked for some entries before, in a thread."""
    waiting = deque[tuple[int, Entry, Future[Opened]]]()
    left = iter(entries)
    with ThreadPoolExecutor(_N_THREADS, thread_name_prefix="speechrnn") as executor:
        try:
            while True:
                for index, entry in left:
                    waiting.append((index, entry, executor.submit(opened, entry, n_retries, columns_audio)))
                    if len(waiting) >= _N_AHEAD:
                        break
                if not waiting:
                    return
                yield waiting.popleft()
        finally:
            for _, _, future in waiting:
                future.cancel()


def stretch(blocks: Iterator[Samples], rate_hz: int, entry: Entry) -> Iterator[Samples]:
    """The part of a recording at `rate_hz` that an entry names; what follows it is not read."""
    if not entry.offset_s and entry.duration_s is None:
        yield from blocks
        return
    first = round(entry.offset_s * rate_hz)
    last = None if entry.duration_s is None else first + round(entry.duration_s * rate_hz)
    at = 0
    for block in blocks:
        part = block[max(0, first - at) : None if last is None else max(0, last - at)]
        if len(part):
            yield part
        at += len(block)
        if last is not None and at >= last:
            return
    if at <= first:
        raise AudioError(f"{entry.path}: ends at {at / rate_hz:.2f} s, before its offset of {entry.offset_s:g} s")
