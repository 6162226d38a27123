"""Files that are written: whole or not at all, to a path checked before the work, and over nothing that is read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from speechrnn.errors import ConfigError, OutputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the path. Raises OutputError."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot write there ({error.strerror}); give another path") from None


def check_place(path: Path) -> None:
    """Make the folders above `path`, and raise OutputError now, rather than after the work, if no file can go there."""
    if path.is_dir():
        raise OutputError(f"{path}: expected the name of a file, got a folder")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_special(path):
            tempfile.TemporaryFile(dir=path.parent).close()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a whole file, then replace the old one by it. Raises OutputError."""
    part = write_part(path, content)
    if not _is_special(path):
        with writing(path):
            part.replace(path.resolve())


def write_part(path: Path, content: str | bytes) -> Path:
    """Write a whole file beside the old one as PATH.part, and say where. Raises OutputError."""
    target = path.resolve()
    part = path if _is_special(path) else target.with_name(target.name + ".part")
    with writing(path):
        if isinstance(content, str):
            part.write_text(content, encoding="utf-8")
        else:
            part.write_bytes(content)
    return part


def _is_special(path: Path) -> bool:
    """Whether this is a device or a pipe, which is written to and not replaced."""
    return path.exists() and not path.is_file()


def write_json(path: Path, result: msgspec.Struct) -> None:
    """As `write_whole`, of a result as JSON for people and programs. Raises OutputError."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")


def check_not_read(written: Iterable[Path | None], read: Iterable[Path]) -> None:
    """Raise ConfigError if a file that would be written exists and is one that is read, under whatever name."""
    inputs = [*read]
    for path in written:
        if path is not None and path.is_file() and any(is_same(path, other) for other in inputs):
            raise ConfigError(f"{path}: is read here and would be written over; give another name for what is written")


def is_same(one: Path, other: Path) -> bool:
    """Whether two names mean one thing that exists."""
    return one.exists() and other.exists() and one.samefile(other)


def printable(text: str | Path) -> str:
    """A path, or a text that holds one, with ? for bytes that are not valid in it."""
    return str(text).encode(errors="replace").decode()
