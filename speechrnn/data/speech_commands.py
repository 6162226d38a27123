"""Speech Commands (Warden, 2018, arXiv 1804.03209): its download, its test clips, its official splits and speakers."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path

from speechrnn.data.clips import Split, alone_in
from speechrnn.errors import DataError, first_line
from speechrnn.labels import FOLDER_LABELS, SILENCE

_ARCHIVES = "http://download.tensorflow.org/data"
_MIN_CLIPS, _MIN_KEPT = 20, 0.02
_TEST_LABELS = ("_silence_", "_unknown_")  # which the archives of test clips have beside the ten keywords


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
            listed |= dict.fromkeys(_read_list(path), split)

    def split_of_clip(file: Path) -> Split:
        if FOLDER_LABELS.get(file.parent.name) == SILENCE:
            return "training"
        return listed.get(_entry_of(file), "training") if listed else split_of(file.name)

    return split_of_clip


def _read_list(path: Path) -> list[str]:
    """The entries WORD/FILE of an official list, one a line, whatever the system that it was written on."""
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    entries = (unicodedata.normalize("NFC", line.strip()).replace("\\", "/").removeprefix("./") for line in lines)
    return [entry for entry in entries if entry]


def _entry_of(file: Path) -> str:
    return unicodedata.normalize("NFC", f"{file.parent.name}/{file.name}")


def check_splits(commands: Path, words: Mapping[str, Counter[Split]]) -> list[str]:
    """What is wrong with the official lists of a tree, of whose words so many clips were put into each split.

    A line for each word of twenty clips or more of which the lists name fewer than one in fifty. Raises DataError if
    the lists have entries of a word and no clip is among them: its validation and test clips would be trained on.
    """
    paths = [commands / f"{split}_list.txt" for split in ("validation", "testing")]
    if not all(path.is_file() for path in paths):
        return []
    listed = Counter(entry.partition("/")[0] for path in paths for entry in _read_list(path))
    notes = []
    for word, splits in words.items():
        n_clips, n_kept = splits.total(), splits.total() - splits["training"]
        n_entries = listed[unicodedata.normalize("NFC", word)]
        what = f"{commands / word}: the official lists have {n_entries} entries, of {n_kept} of its {n_clips} clips"
        if n_entries and not n_kept:
            raise DataError(f"{what}; correct {paths[0].name} and {paths[1].name}, or remove both to split by speaker")
        if n_clips >= _MIN_CLIPS and n_kept < n_clips * _MIN_KEPT:
            notes.append(f"{what}; the others are trained on")
    return notes
