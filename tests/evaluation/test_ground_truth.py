"""Ground truth files: every form gives the same words; each recording has its own; one line for what is unreadable."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from speechrnn.detector import Detection
from speechrnn.errors import DataError
from speechrnn.evaluation.ground_truth import Word, find_ground_truth, read_detections, read_ground_truth
from speechrnn.formats import FORMATS, Transcript
from tests.helpers import assert_one_line

WORDS = [Word("yes", 0.5, 1.25), Word("no", 2.0, 2.5)]
FOUND = Transcript("rooms/a.wav", 4.0, tuple(Detection(*word, 0.75, word.end_s + 0.1) for word in WORDS))
OTHER = Transcript("rooms/b.wav", 4.0, (Detection("up", 1.0, 1.5, 0.9, 1.6),))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("form", ["audacity", "ctm", "json", "csv"])
def test_what_transcribe_writes_can_be_corrected_and_read_as_truth(form: str, tmp_path: Path) -> None:
    suffix = ".txt" if form == "audacity" else f".{form}"
    path = write(tmp_path / f"a{suffix}", FORMATS[form]([FOUND]))
    assert read_ground_truth(path, "a") == WORDS


@pytest.mark.parametrize("form", ["ctm", "json", "csv"])
def test_of_several_recordings_the_words_of_the_one_asked_for_are_read(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"all.{form}", FORMATS[form]([OTHER, FOUND]))
    assert read_ground_truth(path, "a") == WORDS
    with pytest.raises(DataError) as caught:
        read_ground_truth(path, "c")
    assert_one_line(caught.value, str(path), "no recording called c", "a, b")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "", []),
        ("a.txt", "2.0\t2.5\tno\n\\\t100\t200\n0.5\t1.25\tyes\n", WORDS),
        ("a.csv", "label,start_s,end_s\nyes,0.5,1.25\nno,2,2.5\n", WORDS),
        ("a.csv", "label,start_s,end_s\n", []),
        ("a.ctm", ";; a comment\na 1 0.5 0.75 yes\na A 2.0 0.5 no 0.9\n", WORDS),
        ("a.json", '{"detections": [{"label": "yes", "start_s": 0.5, "end_s": 1.25}]}', WORDS[:1]),
        ("a.csv", "audio,label,start_s,end_s,score\na.wav,yes,0.5,1.25\n", WORDS[:1]),
        ("a.txt", "b SAY YES\na NO, SAID HE: NO\n", Counter({"no": 2, "said": 1, "he": 1})),
        ("a.txt", "0.5\t1.25\tYes\n2.0\t2.5\tNO\n", WORDS),
        ("a.csv", "label,start_s,end_s\nYES,0.5,1.25\nNo,2,2.5\n", WORDS),
        ("a.ctm", "a 1 0.5 0.75 YES\na A 2.0 0.5 No\n", WORDS),
        ("a.json", '{"detections": [{"label": "Yes", "start_s": 0.5, "end_s": 1.25}]}', WORDS[:1]),
    ],
)
def test_truth_of_other_hands(name: str, text: str, expected: object, tmp_path: Path) -> None:
    assert read_ground_truth(write(tmp_path / name, text), "a") == expected


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("a.txt", "0.5\tyes\n", ["not readable as truth"]),
        ("a.txt", "x\ty\tyes\n", ["not readable as truth"]),
        ("a.txt", "b SAY YES\n", ["no line for a"]),
        ("a.csv", "word,from,to\nyes,1,2\n", ["not readable as truth", "label"]),
        ("a.csv", "label,start_s,end_s\nno,2,2.5\nyes,0.5\n", ["not readable as truth", "too few fields in line 3"]),
        ("a.csv", "start_s,end_s,label\n0.5,1.25\n", ["not readable as truth", "too few fields"]),
        ("a.ctm", "a 1 0.5\n", ["not readable as truth"]),
        ("a.json", "[1]", ["not readable as truth"]),
        ("a.json", '{"detections": [{"label": "yes", "start_s": 2.0, "end_s": 1.0}]}', ["0 <= start <= end"]),
        ("a.txt", "nan\t1\tyes\n", ["0 <= start <= end"]),
        ("a.xml", "<a/>", ["not known as a truth file", ".ctm"]),
    ],
)
def test_what_is_no_truth_is_one_line(name: str, text: str, parts: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(DataError) as caught:
        read_ground_truth(path, "a")
    assert_one_line(caught.value, str(path), *parts)


def test_a_missing_file_and_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    for name, part in (("a.txt", "UTF-8"), ("none.txt", "No such file")):
        with pytest.raises(DataError) as caught:
            read_ground_truth(tmp_path / name, "a")
        assert_one_line(caught.value, name, part)


def test_the_truth_of_a_recording_is_beside_it_or_in_the_folder_that_is_given(tmp_path: Path) -> None:
    recording = tmp_path / "a.wav"
    with pytest.raises(DataError) as caught:
        find_ground_truth(recording, None)
    assert_one_line(caught.value, "a.labels.txt", "a.ctm", "--truth")
    transcripts = write(tmp_path / "transcripts.txt", "a YES\n")
    assert find_ground_truth(recording, None) == transcripts
    beside = write(tmp_path / "a.csv", "")
    assert find_ground_truth(recording, None) == beside
    own = write(tmp_path / "truth" / "a.ctm", "")
    assert find_ground_truth(recording, tmp_path / "truth") == own
    assert find_ground_truth(recording, own) == own


def test_detections_come_back_as_they_were_written(tmp_path: Path) -> None:
    for form in ("json", "jsonl"):
        assert read_detections(write(tmp_path / f"a.{form}", FORMATS[form]([FOUND, OTHER]))) == [FOUND, OTHER]
    assert read_detections(write(tmp_path / "one.json", FORMATS["json"]([FOUND]))) == [FOUND]


@pytest.mark.parametrize("ending", ["", ', "decided_s": null'])
def test_detections_that_tell_no_time_of_the_decision_have_none(ending: str, tmp_path: Path) -> None:
    detection = f'{{"label": "yes", "start_s": 0.5, "end_s": 1.25, "score": 0.75{ending}}}'
    path = write(tmp_path / "a.json", f'{{"audio": "a.wav", "duration_s": 4, "detections": [{detection}]}}')
    ((found,),) = [transcript.detections for transcript in read_detections(path)]
    assert (found.label, found.end_s, math.isnan(found.decided_s)) == ("yes", 1.25, True)


@pytest.mark.parametrize("text", ["", "{}", '[{"audio": "a.wav"}]', "yes"])
def test_detections_that_transcribe_did_not_write_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_detections(write(tmp_path / "a.json", text))
    assert_one_line(caught.value, "a.json", "transcribe --format json")
