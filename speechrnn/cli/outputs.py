"""Where transcripts go: standard output, a file that is replaced only by a whole one, or a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from speechrnn.files import check_place, write_part, write_whole, writing

if TYPE_CHECKING:
    from speechrnn.formats import Transcript, Write

Add = Callable[["Transcript"], None]
"""Takes the next transcript."""


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

    After Ctrl-C the old file stays, too, and what is done lies beside it as PATH.part. Raises OutputError.
    """
    check_place(path)
    done: list[Transcript] = []
    try:
        yield done.append
    except BaseException:
        if done:
            note(f"speechrnn: {len(done)} done, kept in {write_part(path, write(done))}")
        raise
    if done:
        write_whole(path, write(done))


@contextmanager
def to_folder(folder: Path, write: Write, suffix: str) -> Iterator[Add]:
    """Write each transcript to a file of its recording's name as it is done. Raises OutputError."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_place(folder / suffix)
    yield lambda transcript: write_whole(folder / (Path(transcript.audio).stem + suffix), write([transcript]))
