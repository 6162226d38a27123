"""Where results go: standard output, a file that is replaced only by a whole one, or a folder."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from speechrnn.errors import DeviceError

if TYPE_CHECKING:
    from speechrnn.formats import Transcript, Write

Add = Callable[["Transcript"], None]
"""Takes the next transcript."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the place. Raises DeviceError."""
    try:
        yield
    except OSError as error:
        raise DeviceError(f"{path}: cannot write there ({error.strerror}); give another place") from None


def check_place(path: Path) -> None:
    """Make the folders above `path`, and raise DeviceError now, rather than after the work, if no file can go there."""
    if path.is_dir():
        raise DeviceError(f"{path}: expected the name of a file, got a folder")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_special(path):
            tempfile.TemporaryFile(dir=path.parent).close()


def check_picture(path: Path) -> None:
    """As `check_place`, for a picture: raise DeviceError now, too, if matplotlib cannot write what its suffix says."""
    from matplotlib.figure import Figure

    try:
        Figure().savefig(io.BytesIO(), format=path.suffix[1:])
    except Exception:  # every format fails in its own way, such as for want of another program
        raise DeviceError(f"{path}: matplotlib cannot write such a picture; give a name that ends in .png") from None
    check_place(path)


def write_text(path: Path, text: str) -> None:
    """Write a whole file, then let it take the place of the old one. Raises DeviceError."""
    part = _write_part(path, text)
    if not _is_special(path):
        with writing(path):
            part.replace(path.resolve())


def _write_part(path: Path, text: str) -> Path:
    target = path.resolve()
    part = path if _is_special(path) else target.with_name(target.name + ".part")
    with writing(path):
        part.write_text(text, encoding="utf-8")
    return part


def _is_special(path: Path) -> bool:
    """Whether this is a device or a pipe, which is written to and not replaced."""
    return path.exists() and not path.is_file()


@contextmanager
def as_they_come(write: Write, echo: Callable[[str], None]) -> Iterator[Add]:
    """Print each transcript at once."""
    yield lambda transcript: echo(write([transcript]))


@contextmanager
def at_the_end(write: Write, echo: Callable[[str], None]) -> Iterator[Add]:
    """Print all transcripts together; after Ctrl-C, those that are done."""
    done: list[Transcript] = []
    try:
        yield done.append
    finally:
        if done:
            echo(write(done))


@contextmanager
def to_file(path: Path, write: Write, note: Callable[[str], None]) -> Iterator[Add]:
    """Write all transcripts to one file at the end; if there are none, what was there stays.

    After Ctrl-C the old file stays, too, and what is done lies beside it as PATH.part. Raises DeviceError.
    """
    check_place(path)
    done: list[Transcript] = []
    try:
        yield done.append
    except BaseException:
        if done:
            note(f"speechrnn: {len(done)} done, kept in {_write_part(path, write(done))}")
        raise
    if done:
        write_text(path, write(done))


@contextmanager
def to_folder(folder: Path, write: Write, suffix: str) -> Iterator[Add]:
    """Write each transcript to a file of its recording's name as it is done. Raises DeviceError."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_place(folder / suffix)
    yield lambda transcript: write_text(folder / (Path(transcript.audio).stem + suffix), write([transcript]))
