"""Every output format, read back by a parser that shares nothing with its writer."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from speechrnn.detector import Detection
from speechrnn.formats import FORMATS, ONE_FILE_FORMATS, SUFFIXES, Transcript


class Row(NamedTuple):
    """A detection as a format tells it; None where the format has no place for it."""

    audio: str | None
    label: str
    start_s: float
    end_s: float
    score: float | None = None


Parse = Callable[[str], list[Row]]
TOLERANCE_S = {"table": 0.0051, "ctm": 0.0011}  # hundredths; a rounded start and a rounded duration


def parse_table(text: str) -> list[Row]:
    rows, audio = [], ""
    for line in text.splitlines():
        if not line.startswith("  "):
            audio = re.sub(r"  \(\d+\.\d s\)$", "", line)
        elif found := re.fullmatch(r"  (.*\S) +(\d+\.\d\d) +(\d+\.\d\d) +(\d\.\d\d)", line):
            rows.append(Row(audio, found[1], float(found[2]), float(found[3]), float(found[4])))
        else:
            assert re.fullmatch(r"  word +start +end +score|  no keyword found", line)
    return rows


def rows_of_object(item: dict[str, object]) -> list[Row]:
    assert item.keys() == {"audio", "duration_s", "detections"}
    assert isinstance(item["detections"], list)
    return [Row(str(item["audio"]), *(found[name] for name in Row._fields[1:])) for found in item["detections"]]


def parse_json(text: str) -> list[Row]:
    content = json.loads(text)
    return [row for item in (content if isinstance(content, list) else [content]) for row in rows_of_object(item)]


def parse_jsonl(text: str) -> list[Row]:
    assert text.endswith("\n")
    return [row for line in text[:-1].split("\n") for row in rows_of_object(json.loads(line))]


def parse_csv(text: str) -> list[Row]:
    return [
        Row(row["audio"], row["label"], float(row["start_s"]), float(row["end_s"]), float(row["score"]))
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]


def seconds(clock: str) -> float:
    found = re.fullmatch(r"(\d{2,}):([0-5]\d):([0-5]\d)[.,](\d{3})", clock)
    assert found, clock
    hours, minutes, whole, ms = map(int, found.groups())
    return hours * 3600 + minutes * 60 + whole + ms / 1000


def parse_vtt(text: str) -> list[Row]:
    header, *cues = text.rstrip("\n").split("\n\n")
    assert header == "WEBVTT"
    rows = []
    for cue in cues:
        times, label = cue.split("\n")
        start, end = times.split(" --> ")
        assert "," not in times
        assert not re.search(r"<|&(?!amp;|lt;|gt;)", label)
        rows.append(Row(None, html.unescape(label), seconds(start), seconds(end)))
    return rows


def parse_srt(text: str) -> list[Row]:
    rows = []
    for number, cue in enumerate(text.rstrip("\n").split("\n\n") if text else [], 1):
        counter, times, label = cue.split("\n")
        assert counter == str(number)
        start, end = times.split(" --> ")
        assert "." not in times
        rows.append(Row(None, label, seconds(start), seconds(end)))
    return rows


def parse_audacity(text: str) -> list[Row]:
    rows = []
    for line in text.splitlines():
        start, end, label = line.split("\t")
        rows.append(Row(None, label, float(start), float(end)))
    return rows


def parse_ctm(text: str) -> list[Row]:
    rows = []
    for line in text.splitlines():
        recording, channel, start, duration, label, score = line.split()
        assert channel == "1"
        rows.append(Row(recording, label, float(start), float(start) + float(duration), float(score)))
    return rows


PARSERS: dict[str, Parse] = {
    "table": parse_table,
    "json": parse_json,
    "jsonl": parse_jsonl,
    "csv": parse_csv,
    "vtt": parse_vtt,
    "srt": parse_srt,
    "audacity": parse_audacity,
    "ctm": parse_ctm,
}
every_format = pytest.mark.parametrize("name", FORMATS)


def transcript(audio: str, *detections: tuple[str, float, float, float]) -> Transcript:
    found = tuple(Detection(label, start, end, score, end + 0.2) for label, start, end, score in detections)
    return Transcript(audio, 4000.06, found)


def assert_tells(name: str, text: str, transcripts: Sequence[Transcript]) -> None:
    """The text, parsed, is what was found, as far as the format has places for it."""
    rows = PARSERS[name](text)
    expected = [(item.audio, found) for item in transcripts for found in item.detections]
    assert len(rows) == len(expected)
    for row, (audio, found) in zip(rows, expected, strict=True):
        stem = audio.rpartition("/")[2].rpartition(".")[0]
        assert row.audio == (None if name in ONE_FILE_FORMATS else "_".join(stem.split()) if name == "ctm" else audio)
        assert row.label == ("_".join(found.label.split()) if name == "ctm" else found.label)
        tolerance_s = TOLERANCE_S.get(name, 0.0006)
        assert (row.start_s, row.end_s) == pytest.approx((found.start_s, found.end_s), abs=tolerance_s)
        assert row.score is None or row.score == pytest.approx(found.score, abs=0.0051 if name == "table" else 1e-9)


AUDIO_NAMES = [
    "a.wav",
    "folder/my take 2.wav",
    'one, "two".flac',
    "it's.wav",
    "Zoë/日本 語.wav",
    "a.b.c.wav",
    "1;2.wav",
]
WORDS = ["yes", "turn on", "ja, bitte", 'say "hi"', "öffnen", "はい", "R&B <live>", "it's"]


@every_format
@pytest.mark.parametrize("audio", AUDIO_NAMES)
def test_names_of_files_survive(name: str, audio: str) -> None:
    transcripts = [transcript(audio, ("yes", 1.25, 1.75, 0.9), ("no", 2.0, 2.5, 0.8125))]
    assert_tells(name, FORMATS[name](transcripts), transcripts)


@every_format
@pytest.mark.parametrize("label", WORDS)
def test_labels_survive(name: str, label: str) -> None:
    transcripts = [transcript("a.wav", (label, 1.25, 1.75, 0.9), ("no", 2.0, 2.5, 0.8125))]
    assert_tells(name, FORMATS[name](transcripts), transcripts)


@every_format
@pytest.mark.parametrize("start_s", [0.0, 0.001, 1.001, 59.9996, 60.0, 3599.9994, 3599.9996, 3661.25, 360000.5])
def test_times_survive(name: str, start_s: float) -> None:
    transcripts = [transcript("a.wav", ("yes", start_s, start_s + 0.5, 0.7))]
    assert_tells(name, FORMATS[name](transcripts), transcripts)


@every_format
def test_audio_without_keywords_is_told(name: str) -> None:
    text = FORMATS[name]([transcript("quiet.wav")])
    assert PARSERS[name](text) == []
    assert ("quiet.wav" in text) == (name in ("table", "json", "jsonl"))


@every_format
def test_several_files_keep_their_order(name: str) -> None:
    transcripts = [
        transcript("b.wav", ("yes", 5.0, 5.5, 0.9)),
        transcript("quiet.wav"),
        transcript("a.wav", ("no", 1.0, 1.5, 0.8), ("yes", 2.0, 2.5, 1.0)),
    ]
    assert_tells(name, FORMATS[name](transcripts), transcripts)


def test_json_is_an_object_for_one_file_and_an_array_for_several() -> None:
    one = transcript("a.wav", ("yes", 1.0, 1.5, 0.9))
    found = {"label": "yes", "start_s": 1.0, "end_s": 1.5, "score": 0.9, "decided_s": 1.7}
    plain = {"audio": "a.wav", "duration_s": 4000.06, "detections": [found]}
    assert json.loads(FORMATS["json"]([one])) == plain
    assert json.loads(FORMATS["json"]([one, one])) == [plain, plain]
    assert [json.loads(line) for line in FORMATS["jsonl"]([one, one]).splitlines()] == [plain, plain]


def test_the_table_lines_up_and_tells_the_duration() -> None:
    text = FORMATS["table"]([transcript("a.wav", ("yes", 1.0, 1.5, 0.9), ("öffnen", 3601.25, 3601.75, 1.0))])
    header, *lines = text.splitlines()
    assert header == "a.wav  (4000.1 s)"
    assert {len(line) for line in lines} == {len("  öffnen   3601.25   3601.75   1.00")}


def test_every_format_has_a_parser_and_a_suffix() -> None:
    assert PARSERS.keys() == FORMATS.keys() == SUFFIXES.keys()
    assert FORMATS.keys() >= ONE_FILE_FORMATS
