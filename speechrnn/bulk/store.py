"""A folder of results, on this machine or wherever fsspec writes: files that appear whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from speechrnn.errors import OutputError, first_line
from speechrnn.files import writing


class Store(Protocol):
    """A folder that is written to; names in it may have one folder before them."""

    place: str

    def read(self, name: str) -> bytes:
        """A file. Raises FileNotFoundError."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which appears whole and replaces an older one. Raises OutputError."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none; whether it was written. Raises OutputError."""

    def names(self, start: str) -> list[str]:
        """Names of the files that begin so, sorted; none in folders."""

    def written_s(self, name: str) -> float:
        """When a file was written, in s since 1970; 0 where that is not known."""

    def remove(self, name: str) -> None:
        """Remove a file or a folder if it is there."""


class _Folder:
    """A folder of this machine, or of a file system that several share."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._path = Path(place)

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with self._whole(name, content) as part:
            part.replace(self._path / name)

    def create(self, name: str, content: bytes) -> bool:
        with self._whole(name, content) as part:
            try:
                os.link(part, self._path / name)
            except FileExistsError:
                return False
            return True

    @contextmanager
    def _whole(self, name: str, content: bytes) -> Iterator[Path]:
        """A file of this content that is on the disk, beside the place where it shall be."""
        path = self._path / name
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        with writing(path):
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield part
            finally:
                part.unlink(missing_ok=True)

    def names(self, start: str) -> list[str]:
        if not self._path.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self._path) if entry.name.startswith(start))

    def written_s(self, name: str) -> float:
        return (self._path / name).stat().st_mtime

    def remove(self, name: str) -> None:
        path = self._path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class _Remote:
    """A place that fsspec writes to. A file of an object store appears when all of it has arrived."""

    def __init__(self, place: str) -> None:
        import fsspec

        self.place = place
        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(place, use_listings_cache=False)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        return bytes(self._fs.cat_file(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        self._pipe(name, content, "overwrite")

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._pipe(name, content, "create")
        except FileExistsError:
            return False
        return True

    def _pipe(self, name: str, content: bytes, mode: str) -> None:
        try:
            self._fs.pipe_file(self._path(name), content, mode=mode)
        except FileExistsError:
            raise
        except Exception as error:  # each file system has its own
            raise OutputError(f"{self.place}/{name}: cannot write there ({first_line(error)})") from None

    def names(self, start: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            listed = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in listed)
        return sorted(name for name in names if name.startswith(start))

    def written_s(self, name: str) -> float:
        with suppress(NotImplementedError, FileNotFoundError):
            return float(self._fs.modified(self._path(name)).timestamp())
        return 0.0

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=True)


def is_remote(place: str) -> bool:
    """Whether a place is one that fsspec opens."""
    return "://" in place


def open_store(place: str) -> Store:
    """The folder of a path or an address. Raises OutputError if it is a file."""
    if is_remote(place):
        return _Remote(place)
    if Path(place).exists() and not Path(place).is_dir():
        raise OutputError(f"{place}: expected a folder, got a file; give another --output")
    return _Folder(str(Path(place).absolute()))


@contextmanager
def as_file(store: Store, name: str) -> Iterator[Path]:
    """A file of a store as one of this machine, for as long as it is used."""
    with tempfile.TemporaryDirectory(prefix="speechrnn-") as folder:
        path = Path(folder) / name
        path.write_bytes(store.read(name))
        yield path
