"""Detections as text: table, JSON, JSON lines, CSV, WebVTT, SRT, Audacity labels, CTM."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from speechrnn.detector import Detection


class Transcript(msgspec.Struct, frozen=True):
    """What was detected in one audio file."""

    audio: str
    """Name of the file."""
    duration_s: float
    """Its length in s."""
    detections: tuple[Detection, ...]
    """The detections in order of time."""


def _plain(transcript: Transcript) -> dict[str, object]:
    return {
        "audio": transcript.audio,
        "duration_s": round(transcript.duration_s, 3),
        "detections": [to_object(found) for found in transcript.detections],
    }


def to_object(found: Detection) -> dict[str, object]:
    """A detection as the JSON formats show it."""
    return {
        "label": found.label,
        "start_s": found.start_s,
        "end_s": found.end_s,
        "score": found.score,
        "decided_s": found.decided_s,
    }


def to_table(transcripts: Sequence[Transcript]) -> str:
    """Columns for people: one row per detection, and a line for audio in which nothing was found."""
    words = [found.label for transcript in transcripts for found in transcript.detections]
    width = max(map(len, ["word", *words]))
    lines = []
    for transcript in transcripts:
        lines.append(f"{transcript.audio}  ({transcript.duration_s:.1f} s)")
        if transcript.detections:
            lines.append(f"  {'word':<{width}}  {'start':>8}  {'end':>8}  score")
        else:
            lines.append("  no keyword found")
        lines += [
            f"  {found.label:<{width}}  {found.start_s:>8.2f}  {found.end_s:>8.2f}  {found.score:>5.2f}"
            for found in transcript.detections
        ]
        lines.append("")
    return "\n".join(lines)


def to_json(transcripts: Sequence[Transcript], *, several: bool | None = None) -> str:
    """One object for one file, an array of such objects for several; `several` says that more were asked for."""
    plain = [_plain(transcript) for transcript in transcripts]
    text = msgspec.json.encode(plain[0] if len(plain) == 1 and not several else plain)
    return msgspec.json.format(text, indent=2).decode() + "\n"


def to_jsonl(transcripts: Sequence[Transcript]) -> str:
    """One object per file and line."""
    return "".join(msgspec.json.encode(_plain(transcript)).decode() + "\n" for transcript in transcripts)


def to_csv(transcripts: Sequence[Transcript]) -> str:
    """A header, then one row per detection."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["audio", "label", "start_s", "end_s", "score"])
    for transcript in transcripts:
        writer.writerows(
            [transcript.audio, found.label, found.start_s, found.end_s, found.score] for found in transcript.detections
        )
    return buffer.getvalue()


def to_vtt(transcripts: Sequence[Transcript]) -> str:
    """WebVTT subtitles."""
    cues = [
        f"{_clock(f.start_s, '.')} --> {_clock(f.end_s, '.')}\n{html.escape(f.label, quote=False)}\n"
        for f in _all(transcripts)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def to_srt(transcripts: Sequence[Transcript]) -> str:
    """SubRip subtitles."""
    cues = [
        f"{number}\n{_clock(f.start_s, ',')} --> {_clock(f.end_s, ',')}\n{f.label}\n"
        for number, f in enumerate(_all(transcripts), 1)
    ]
    return "\n".join(cues)


def to_audacity(transcripts: Sequence[Transcript]) -> str:
    """An Audacity label track: start, end and label, separated by tabs."""
    return "".join(f"{f.start_s:.6f}\t{f.end_s:.6f}\t{f.label}\n" for f in _all(transcripts))


def to_ctm(transcripts: Sequence[Transcript]) -> str:
    """NIST's time-marked conversation format: recording, channel, start, duration, word, confidence."""
    return "".join(
        f"{_one_field(Path(transcript.audio).stem)} 1 {f.start_s:.3f} {f.end_s - f.start_s:.3f} "
        f"{_one_field(f.label)} {f.score:.4f}\n"
        for transcript in transcripts
        for f in transcript.detections
    )


def _one_field(text: str) -> str:
    """Text without spaces, which separate the fields of CTM."""
    return "_".join(text.split())


def _all(transcripts: Sequence[Transcript]) -> list[Detection]:
    return [found for transcript in transcripts for found in transcript.detections]


def _clock(time_s: float, point: str) -> str:
    ms = round(time_s * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


Write = Callable[[Sequence[Transcript]], str]
"""Transcripts as text."""
FORMATS: dict[str, Write] = {
    "table": to_table,
    "json": to_json,
    "jsonl": to_jsonl,
    "csv": to_csv,
    "vtt": to_vtt,
    "srt": to_srt,
    "audacity": to_audacity,
    "ctm": to_ctm,
}
SUFFIXES = {
    "table": ".txt",
    "audacity": ".txt",
    **{name: f".{name}" for name in ("json", "jsonl", "csv", "vtt", "srt", "ctm")},
}
ONE_FILE_FORMATS = frozenset({"vtt", "srt", "audacity"})
"""Formats that cannot name their recording, so that each holds one."""
