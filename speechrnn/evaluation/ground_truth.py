"""Ground truth of a recording: Audacity labels, CTM, JSON, CSV, or transcripts without times.

Case never counts.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from speechrnn.detector import Detection
from speechrnn.errors import DataError
from speechrnn.formats import Transcript

SUFFIXES = (".labels.txt", ".txt", ".ctm", ".json", ".csv")
_FORMS = "Audacity labels or transcripts (.txt), .ctm, .json or .csv"


class Word(NamedTuple):
    """A spoken word, a keyword or another."""

    label: str
    """The word."""
    start_s: float
    """Its start in s from the start of the recording."""
    end_s: float
    """Its end in s."""


GroundTruth = list[Word] | Counter[str]
"""Words with their times, in order; or how often each word occurs in a transcript, which has none."""
_Rows = list[tuple[str | None, Word]]


class _Entry(msgspec.Struct):
    """A recording with its words, as `transcribe --format json` writes it; scores are ignored."""

    detections: list[_Labelled]
    audio: str | None = None


class _Labelled(msgspec.Struct):
    label: str
    start_s: float
    end_s: float


class _WrittenDetection(_Labelled):
    score: float = 1.0
    decided_s: float | None = None


class _WrittenTranscript(msgspec.Struct):
    audio: str
    duration_s: float
    detections: list[_WrittenDetection]


def read_ground_truth(path: Path, recording: str) -> GroundTruth:
    """The words of one recording in small letters; it is known by the name of its file without the suffix.

    A line of transcripts is the recording and its words; Audacity labels name no recording and hold for any. Raises
    DataError if the file cannot be read, or names recordings, but not this one.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot read the truth ({error.strerror}); expected {_FORMS}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected text in UTF-8; expected {_FORMS}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if path.suffix == ".txt" and lines and "\t" not in lines[0]:
        return _transcript(path, lines, recording)
    if path.suffix not in _READERS:
        raise DataError(f"{path}: not known as a truth file; expected {_FORMS}")
    try:
        rows, named = _READERS[path.suffix](text)
    except (ValueError, LookupError, msgspec.DecodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable as truth ({error}); expected {_FORMS}") from None
    words = [word._replace(label=word.label.casefold()) for name, word in rows if name is None or name == recording]
    for word in words:
        if not 0 <= word.start_s <= word.end_s < math.inf:
            raise DataError(f"{path}: expected 0 <= start <= end, got {word.start_s:g} and {word.end_s:g} s")
    if named and None not in named and recording not in named:
        raise DataError(f"{path}: has no recording called {recording}; it has {', '.join(sorted(map(str, named))[:3])}")
    return sorted(words, key=lambda word: word.start_s)


def count_words(truth: GroundTruth) -> Counter[str]:
    """How often each word is spoken."""
    return truth if isinstance(truth, Counter) else Counter(word.label for word in truth)


def with_model_spelling(truth: GroundTruth, keywords: Sequence[str]) -> GroundTruth:
    """The same, with keywords as the model spells them: it may have capitals, which no truth that was read has."""
    names = {word.casefold(): word for word in keywords}
    if isinstance(truth, Counter):
        return Counter({names.get(label, label): n for label, n in truth.items()})
    return [word._replace(label=names.get(word.label, word.label)) for word in truth]


def find_ground_truth(recording: Path, truth: Path | None) -> Path:
    """The ground truth of a recording: the file `truth`, or the file of its name in that folder, or beside it.

    A `transcripts.txt` there serves where there is none of its name. Raises DataError if there is none.
    """
    if truth is not None and not truth.is_dir():
        return truth
    folder = recording.parent if truth is None else truth
    candidates = [*(folder / (recording.stem + suffix) for suffix in SUFFIXES), folder / "transcripts.txt"]
    for path in candidates:
        if path.is_file() and path != recording:
            return path
    names = ", ".join(path.name for path in candidates)
    raise DataError(f"{recording}: no truth found in {folder}, where one of {names} was expected; give --truth FILE")


def read_detections(path: Path) -> list[Transcript]:
    """Detections that `transcribe` wrote as JSON or JSON lines; without `decided_s`, that is NaN.

    Raises DataError for anything else.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".jsonl":
            entries = [
                msgspec.json.decode(line, type=_WrittenTranscript) for line in content.splitlines() if line.strip()
            ]
        else:
            decoded = msgspec.json.decode(content, type=_WrittenTranscript | list[_WrittenTranscript])
            entries = decoded if isinstance(decoded, list) else [decoded]
    except OSError as error:
        raise DataError(f"{path}: cannot read the detections ({error.strerror})") from None
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: expected what transcribe --format json writes, got something else: {error}") from None
    return [Transcript(e.audio, e.duration_s, tuple(map(_detection, e.detections))) for e in entries]


def _detection(written: _WrittenDetection) -> Detection:
    decided_s = math.nan if written.decided_s is None else written.decided_s
    return Detection(written.label, written.start_s, written.end_s, written.score, decided_s)


def _transcript(path: Path, lines: list[str], recording: str) -> Counter[str]:
    for line in lines:
        name, *words = line.split()
        if name == recording:
            return Counter(word.strip(".,;:!?\"'()").casefold() for word in words)
    raise DataError(f"{path}: has no line for {recording}; expected lines of RECORDING WORD WORD ...")


def _read_audacity(text: str) -> tuple[_Rows, set[str | None]]:
    fields = [line.split("\t") for line in text.splitlines() if line.strip() and not line.startswith("\\")]
    return [(None, Word(label, float(start), float(end))) for start, end, label in fields], {None}


def _read_ctm(text: str) -> tuple[_Rows, set[str | None]]:
    rows: _Rows = []
    for line in text.splitlines():
        if line.strip() and not line.startswith(";;"):
            name, _, start, duration, label, *_ = line.split()
            rows.append((name, Word(label, float(start), float(start) + float(duration))))
    return rows, {name for name, _ in rows}


def _read_csv(text: str) -> tuple[_Rows, set[str | None]]:
    rows: _Rows = []
    table = csv.DictReader(io.StringIO(text))
    for row in table:
        label, start, end = row["label"], row["start_s"], row["end_s"]
        if label is None or start is None or end is None:
            raise ValueError(f"too few fields in line {table.line_num}")
        rows.append((Path(row["audio"]).stem if row.get("audio") else None, Word(label, float(start), float(end))))
    return rows, {name for name, _ in rows}


def _read_json(text: str) -> tuple[_Rows, set[str | None]]:
    decoded = msgspec.json.decode(text, type=_Entry | list[_Entry])
    entries = decoded if isinstance(decoded, list) else [decoded]
    names = [Path(entry.audio).stem if entry.audio else None for entry in entries]
    rows: _Rows = [
        (name, Word(word.label, word.start_s, word.end_s))
        for name, entry in zip(names, entries, strict=True)
        for word in entry.detections
    ]
    return rows, set(names)


_READERS: dict[str, Callable[[str], tuple[_Rows, set[str | None]]]] = {
    ".txt": _read_audacity,
    ".ctm": _read_ctm,
    ".csv": _read_csv,
    ".json": _read_json,
}
