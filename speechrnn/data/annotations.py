"""Lists of aligned words and false alarms in running speech, and the clips that they make of a pack.

A word in running speech that must not be trained on is cut out of it, with what is near; the other words become clips
of their own, as do the stretches in which an earlier model raised a false alarm.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from speechrnn.config import TRAINING_RATE_HZ, Data
from speechrnn.data.clips import Clip, Pack
from speechrnn.data.lexicon import WEAK_FORMS, Excluded
from speechrnn.errors import DataError, MissingDataError

Row = TypeVar("Row")
Extent = tuple[int, int]
"""First and last sample of a stretch of the pack."""

_MINE_AGAIN = "mine_hard_negatives", "mine again"
_ALIGN_AGAIN = "align_words", "delete it, align again"
_HARD_NEGATIVE_SAMPLES = TRAINING_RATE_HZ * 14 // 10  # somewhat more than a context, to cut from at several positions
_HARD_NEGATIVE_AFTER_S = 0.3
_MIN_WORD_S, _MAX_WORD_S = 0.15, 0.9  # of an aligned word that is trained on alone
_MARGIN_SAMPLES = TRAINING_RATE_HZ * 3 // 100
_NEAR_SAMPLES = TRAINING_RATE_HZ // 10  # about a word that is cut out, for alignments are inexact
_MIN_STRETCH_SAMPLES = TRAINING_RATE_HZ


class FalseAlarm(NamedTuple):
    """A false alarm in running speech."""

    audio: str
    """The recording, by its path from the data folder."""
    end_s: float
    """End of the detection in s."""
    label: str
    """Its keyword."""
    score: float
    """Its score in (0, 1]."""


class AlignedWord(NamedTuple):
    """A word in running speech."""

    audio: str
    """The recording, by its path from the data folder."""
    start_s: float
    """Start of the word in s."""
    end_s: float
    """Its end in s."""
    label: str
    """The word."""


def read_hard_negatives(path: Path) -> list[FalseAlarm]:
    """A list of false alarms, as pipelines.mine_hard_negatives writes it. Raises DataError for anything else."""
    alarms = _read_list(
        path, lambda row: FalseAlarm(row["audio"], float(row["end_s"]), row["label"], float(row["score"])), _MINE_AGAIN
    )
    invalid = [one.end_s for one in alarms if not 0 <= one.end_s < math.inf]
    if invalid:
        raise DataError(f"{path}: expected end_s of at least 0, got {invalid[0]:g}; {_MINE_AGAIN[1]}")
    return alarms


def read_aligned_words(path: Path) -> list[AlignedWord]:
    """A list of words in running speech, as pipelines.align_words writes it. Raises DataError for anything else."""
    words = _read_list(
        path,
        lambda row: AlignedWord(row["audio"], float(row["start_s"]), float(row["end_s"]), row["label"]),
        _ALIGN_AGAIN,
    )
    invalid = [word for word in words if not 0 <= word.start_s < word.end_s < math.inf]
    if invalid:
        times = f"{invalid[0].start_s:g}, {invalid[0].end_s:g}"
        raise DataError(f"{path}: expected 0 <= start_s < end_s, got {times}; {_ALIGN_AGAIN[1]}")
    return words


def _read_list(path: Path, of_row: Callable[[dict[str, str]], Row], made_by: tuple[str, str]) -> list[Row]:
    """The rows of a CSV file. Raises DataError, with the pipeline that writes it and what to do, for anything else."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if any(None in row.values() for row in rows):
            raise ValueError("a line is incomplete")
        return [of_row(row) for row in rows]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: expected what pipelines.{made_by[0]} writes ({error}); {made_by[1]}") from None


def check_lists(data: Data) -> None:
    """Raise DataError if a list that the configuration names is not there."""
    for source, name, pipeline in (
        ("hard_negative", data.unknown.hard_negative.list, _MINE_AGAIN[0]),
        ("aligned", data.unknown.aligned.list, _ALIGN_AGAIN[0]),
    ):
        path = Path(data.dir) / name
        if name and not path.is_file():
            until = f"--set data.unknown.{source}.list=''"
            raise MissingDataError(f"{path}: no such file; pipelines.{pipeline} makes it; until then {until}")


def with_lists(pack: Pack, data: Data, keywords: tuple[str, ...]) -> Pack:
    """A pack with what the lists of the configuration name as clips, and without the excluded words that they find.

    Excluded are the keywords, the words held out, and what sounds like either.
    """
    base, alarm_list, aligned = Path(data.dir), data.unknown.hard_negative.list, data.unknown.aligned
    alarms = _hard_negatives_of(base / alarm_list, pack) if alarm_list else []
    if not aligned.list:
        return pack._replace(clips=pack.clips + alarms)
    speech = [clip for clip in pack.clips if clip.kind == "speech"]
    others = [clip for clip in pack.clips if clip.kind != "speech"]
    words, excluded = _words_of(base / aligned.list, pack), Excluded.of(data, keywords)
    gaps = {clip.path: _gaps_in(clip, words[clip.path], excluded) for clip in speech}
    stretches = [part for clip in speech for part in _between(clip, gaps[clip.path])]
    alarms = [clip for clip in alarms if not _overlaps(clip, gaps.get(clip.path, []))]
    return pack._replace(clips=others + stretches + alarms + _aligned_of(speech, words, excluded, aligned.n_per_word))


def _hard_negatives_of(path: Path, pack: Pack) -> list[Clip]:
    """The stretches of packed recordings that a list of false alarms names, each as a clip."""
    recordings = {clip.path: clip for clip in pack.clips}
    found = []
    for alarm in read_hard_negatives(path):
        if alarm.audio not in recordings:
            raise DataError(f"{path}: {alarm.audio} is no recording of the configuration; delete the file, mine again")
        clip = recordings[alarm.audio]
        last = min(round((alarm.end_s + _HARD_NEGATIVE_AFTER_S) * TRAINING_RATE_HZ), clip.n_samples)
        first = max(0, last - _HARD_NEGATIVE_SAMPLES)
        last = min(first + _HARD_NEGATIVE_SAMPLES, clip.n_samples)
        found.append(clip.part(first, last).labelled("hard_negative"))
    return found


def _words_of(path: Path, pack: Pack) -> dict[str, list[AlignedWord]]:
    """The words that a list has of each packed recording of running speech."""
    words: dict[str, list[AlignedWord]] = {clip.path: [] for clip in pack.clips if clip.kind == "speech"}
    refused = {one.source.path for one in pack.refused}
    for word in read_aligned_words(path):
        if word.audio in words:
            words[word.audio].append(word)
        elif word.audio not in refused:
            raise DataError(f"{path}: {word.audio} is no speech of the configuration; run pipelines.align_words")
    return words


def _gaps_in(clip: Clip, words: list[AlignedWord], excluded: Excluded) -> list[Extent]:
    """Where a recording has excluded words, with what is near, in samples of the pack and in order."""
    unwanted = [
        word
        for word in words
        if word.label in excluded.words or (word.label not in WEAK_FORMS and word.label in excluded)
    ]
    extents = [(round(word.start_s * TRAINING_RATE_HZ), round(word.end_s * TRAINING_RATE_HZ)) for word in unwanted]
    return sorted((clip.offset + start - _NEAR_SAMPLES, clip.offset + end + _NEAR_SAMPLES) for start, end in extents)


def _between(clip: Clip, gaps: list[Extent]) -> list[Clip]:
    """The stretches of a second or more of a recording that lie between gaps; all of it where there are none."""
    if not gaps:
        return [clip]
    parts, first, last = [], clip.offset, clip.offset + clip.n_samples
    for start, end in [*gaps, (last, last)]:
        if start - first >= _MIN_STRETCH_SAMPLES:
            parts.append(clip.part(first - clip.offset, start - clip.offset))
        first = max(first, end)
    return parts


def _overlaps(clip: Clip, gaps: list[Extent]) -> bool:
    """Whether a stretch of a recording overlaps a gap."""
    return any(start < clip.offset + clip.n_samples and clip.offset < end for start, end in gaps)


def _aligned_of(
    clips: list[Clip], words: dict[str, list[AlignedWord]], excluded: Excluded, n_per_word: int
) -> list[Clip]:
    """Words of packed recordings of running speech, each as a clip, and of each word no more than `n_per_word`.

    Left out are excluded words and what is too short or too long for a word alone.
    """
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        for word in words[clip.path]:
            if _MIN_WORD_S <= word.end_s - word.start_s <= _MAX_WORD_S and word.label not in excluded:
                found.setdefault(word.label, []).append(_aligned(clip, word))
    return [clip for same in found.values() for clip in _spread(same, n_per_word)]


def _aligned(clip: Clip, word: AlignedWord) -> Clip:
    """A word of a recording with a margin at both ends."""
    start, end = (min(round(at_s * TRAINING_RATE_HZ), clip.n_samples) for at_s in (word.start_s, word.end_s))
    first, last = max(0, start - _MARGIN_SAMPLES), min(end + _MARGIN_SAMPLES, clip.n_samples)
    return clip.part(first, last, (start, end)).labelled("aligned", word.label)


def _spread(clips: list[Clip], n: int) -> list[Clip]:
    """At most `n` of them, evenly from first to last: neighbours are of one speaker."""
    return [clips[i * len(clips) // n] for i in range(n)] if len(clips) > n else clips
