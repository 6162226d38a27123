"""Which files a folder of audio holds, for every command the same."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from speechrnn.decoding import AUDIO_SUFFIXES
from speechrnn.errors import AudioError, first_line

_LOGGER = logging.getLogger(__name__)
_N_NAMED = 3
_COMPANIONS = frozenset(
    {
        "",
        ".csv",
        ".ctm",
        ".html",
        ".json",
        ".jsonl",
        ".lab",
        ".md",
        ".srt",
        ".textgrid",
        ".toml",
        ".tsv",
        ".txt",
        ".vtt",
    }
)
"""Suffixes of what lies beside recordings as a matter of course."""


def find_audio(path: Path, *, unreadable: Callable[[str], None] = _LOGGER.warning) -> list[Path]:
    """The file itself, or all audio files below a folder in order of name.

    Links to folders are followed, each folder being entered once, and by its own name if it has one below `path`.
    Hidden files and the texts that belong to recordings are left out; what else is left out is counted and named in the
    log. `unreadable` is told of each folder that cannot be read. Raises AudioError if there is no audio, or `path`
    cannot be looked at.
    """
    try:
        if not path.is_dir():
            return [path]
    except (OSError, ValueError) as error:
        raise AudioError(f"{path}: cannot be read ({_reason(error)})") from None
    files = sorted(walk_files(path, unreadable))
    audio = [file for file in files if file.suffix.lower() in AUDIO_SUFFIXES]
    if not audio:
        raise AudioError(f"{path}: no audio in this folder; expected files such as .wav or .flac")
    others = [str(file.relative_to(path)) for file in files if file.suffix.lower() not in AUDIO_SUFFIXES | _COMPANIONS]
    if others:
        more = f" and {len(others) - _N_NAMED} more" if len(others) > _N_NAMED else ""
        _LOGGER.warning("%s: left out what is no audio: %s%s", path, ", ".join(others[:_N_NAMED]), more)
    return audio


def walk_files(root: Path, unreadable: Callable[[str], None]) -> Iterator[Path]:
    """Yield all files below a folder but hidden ones, those of one folder in order of name.

    Links to folders wait until no folder is left that is none; each folder is entered once. `unreadable` is told of
    each that cannot be read.
    """
    folders, seen = [root], set[tuple[int, int]]()
    links: list[Path] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            files, own, linked = _names(folder)
        except OSError as error:
            unreadable(f"{folder}: cannot be read ({_reason(error)})")
            continue
        seen.add((status.st_dev, status.st_ino))
        folders += [folder / name for name in own]
        links += [folder / name for name in linked]
        for name in files:
            yield folder / name


def _names(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Names of the files in a folder, of its folders, and of its links to folders, each in order; none hidden.

    Names alone, for a million entries of a folder would take more than twice the memory.
    """
    files, own, linked = list[str](), list[str](), list[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (linked if entry.is_symlink() else own).append(entry.name)
            elif entry.is_file() or entry.is_symlink():  # a broken link is named by who opens it
                files.append(entry.name)
    return sorted(files), sorted(own), sorted(linked)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)
