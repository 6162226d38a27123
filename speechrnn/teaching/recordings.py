"""The recordings of own words: a folder for each word, files of any length and format, read, checked and cut apart."""

from __future__ import annotations

import hashlib
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechrnn.audio import Samples, to_int16
from speechrnn.data.clips import word_extent
from speechrnn.data.speech_commands import speaker_of
from speechrnn.decoding import read
from speechrnn.errors import AudioError, DataError, MissingDataError, Report, results_of
from speechrnn.folders import find_audio
from speechrnn.labels import FOLDER_LABELS, SILENCE
from speechrnn.teaching.judging import MIN_WORD_MS, stretches

NOT = "_not_"
"""The folder of what must not be taken for a word, such as false alarms; `_unknown_` is another name for it."""
ROOM = "_background_noise_"
"""The folder of recordings of the room without speech."""
MIN_TAKES = 3
"""Recordings of a word that are needed at least."""
MAX_TAKES = 300
"""Files of a word that are read at most, evenly chosen."""

_AROUND_MS = 500
_SINGLE_S = 2.5  # a file up to this length holds one word
_MAX_UNPACKED_BYTES = 2 << 30
_MIN_PEAK = 0.003  # -50 dB of full scale


class Take(NamedTuple):
    """One recording of a word, with what was heard around it."""

    path: Path
    """The file that it comes from."""
    samples: Samples
    """The word and up to half a second on either side [T], in [-1, 1]."""
    start: int
    """First sample of the word."""
    end: int
    """Sample after its last one."""
    speaker: str
    """Who speaks: what stands before `_nohash_` in the name of the file; empty where it names nobody."""

    @property
    def word(self) -> Samples:
        """The word alone [T]."""
        return self.samples[self.start : self.end]


class OwnRecordings(NamedTuple):
    """All that a folder of own words holds."""

    takes: dict[str, list[Take]]
    """Recordings of each word."""
    others: list[Take]
    """Recordings of what must not be taken for a word."""
    rooms: list[Samples]
    """Recordings of the room [T]."""


def read_folder(folder: Path, rate_hz: int, report: Report) -> OwnRecordings:
    """Read the recordings of own words, FOLDER/WORD/*.wav, at a rate.

    A file that cannot be used goes to `report`, with the reason. A file longer than 2.5 seconds is cut at its pauses.
    Raises DataError where there is no word, or a word has fewer than three different recordings left.
    """
    names = _word_folders(folder)
    takes = {unicodedata.normalize("NFC", name): _read_word(folder / name, rate_hz, report) for name in names}
    for word, some in takes.items():
        if len(some) < MIN_TAKES:
            raise DataError(
                f"{folder / word}: expected at least {MIN_TAKES} different recordings of the word, got {len(some)}; "
                "record more, ten are good"
            )
    return OwnRecordings(
        takes,
        [take for name in _role_folders(folder, silence=False) for take in _read_word(folder / name, rate_hz, report)],
        [room for name in _role_folders(folder, silence=True) for room in _read_rooms(folder / name, rate_hz, report)],
    )


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder of own words that a zip archive holds, as long as it is used; a folder is its own.

    Raises DataError for an archive that is damaged or too large.
    """
    if path.is_dir() or not zipfile.is_zipfile(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="speechrnn-") as place:
        folder = Path(place) / path.stem
        _unpack(path, folder)
        inside = [one for one in folder.iterdir() if not one.name.startswith("__")]
        is_wrapped = len(inside) == 1 and any(one.is_dir() for one in inside[0].glob("*"))
        yield inside[0] if is_wrapped else folder


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            if sum(one.file_size for one in opened.infolist()) > _MAX_UNPACKED_BYTES:
                raise DataError(
                    f"{archive}: expected at most {_MAX_UNPACKED_BYTES >> 30} GiB in it; unpack it yourself"
                )
            opened.extractall(folder)
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); make it again, or unpack it yourself") from None


def _word_folders(folder: Path) -> list[str]:
    """Names of the folders of words, in order. Raises MissingDataError, and DataError if there is none."""
    if not folder.is_dir():
        raise MissingDataError(f"{folder}: no such folder; expected FOLDER/WORD/*.wav, or make it: speechrnn record")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[:1] not in "._")
    if not found:
        raise DataError(
            f"{folder}: expected a folder for each word, {folder}/WORD/*.wav, got none; see: speechrnn record"
        )
    return found


def _role_folders(folder: Path, *, silence: bool) -> list[str]:
    roles = {**FOLDER_LABELS, NOT: "unknown"}
    return [name for name, role in roles.items() if (role == SILENCE) == silence and (folder / name).is_dir()]


def _read_word(folder: Path, rate_hz: int, report: Report) -> list[Take]:
    """The different takes in a folder; of takes that are the same to the sample, the first."""
    seen, kept = dict[bytes, Path](), []
    for take in [
        take for some in results_of(_audio(folder), lambda file: takes_of(file, rate_hz), report) for take in some
    ]:
        content = hashlib.blake2b(to_int16(take.word).tobytes(), digest_size=16).digest()
        if content in seen:
            report(AudioError(f"{take.path}: the same recording as {seen[content].name}, left out"))
            continue
        seen[content] = take.path
        kept.append(take)
    return kept


def _audio(folder: Path) -> list[Path]:
    """The files in a folder, or as many of them as are used, spread evenly."""
    try:
        files = find_audio(folder)
    except AudioError:
        return []
    n = min(len(files), MAX_TAKES)
    return [files[number * len(files) // n] for number in range(n)]


def _read_rooms(folder: Path, rate_hz: int, report: Report) -> Iterator[Samples]:
    return results_of(_audio(folder), lambda file: read(file, rate_hz), report)


def takes_of(file: Path, rate_hz: int) -> list[Take]:
    """The words in a file, one for each stretch between pauses. Raises AudioError if there is none."""
    samples = read(file, rate_hz)
    speaker = speaker_of(file.name) if "_nohash_" in file.name else ""
    found = []
    for first, last in words_in(samples, rate_hz):
        around = _AROUND_MS * rate_hz // 1000
        low, high = max(0, first - around), min(len(samples), last + around)
        found.append(Take(file, samples[low:high], first - low, last - low, speaker))
    if not found:
        raise AudioError(f"{file}: no word in it, it is silent or too faint; record it again, louder or closer")
    return found


def words_in(samples: Samples, rate_hz: int) -> list[tuple[int, int]]:
    """First and last sample of each word in a recording [T]: all of a short one, else the stretches between pauses."""
    if not len(samples) or float(np.abs(samples).max()) < _MIN_PEAK:
        return []
    if len(samples) <= _SINGLE_S * rate_hz:
        start, end = word_extent(to_int16(samples))
        return [(start, end)] if end - start >= MIN_WORD_MS * rate_hz // 1000 else []
    return stretches(samples, rate_hz)
