"""From a folder of recordings to a model that detects the words, and what is told about them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import speechrnn
from speechrnn.decoding import read
from speechrnn.recognizer import find_model, load
from speechrnn.sources import ArraySource
from speechrnn.teaching.lesson import Scored, Studied, Taught, fold_takes, taught
from speechrnn.teaching.recordings import Take
from tests.helpers import EXAMPLE, RATE_HZ, ROOT, assert_one_line, run, silence, write_audio

pytestmark = pytest.mark.slow

OWN = ROOT / "examples" / "own-words"


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return taught(OWN, output=tmp_path_factory.mktemp("own") / "my.onnx", minutes=0, voices=False)


def detected(words: list[Path], model: Path | None) -> list[str]:
    parts = [part for word in words for part in (silence(1.2), read(word, RATE_HZ))]
    samples = np.concatenate([*parts, silence(1.2)]) + np.random.default_rng(0).normal(0, 3e-4, 1)
    source = ArraySource(samples.astype(np.float32), RATE_HZ)
    return [one.label for one in speechrnn.transcribe(source, model=model or "commands10")]


def test_the_model_detects_the_own_words_and_the_shipped_ones(lesson: Taught) -> None:
    assert lesson.recognizer.labels == (*load("commands10").labels[:10], "curtains", "music", "unknown", "silence")
    words = [OWN / word / "m7_nohash_0.ogg" for word in ("curtains", "music", "curtains")]
    assert detected(words, lesson.recognizer.path) == ["curtains", "music", "curtains"]
    before = [one.label for one in speechrnn.transcribe(EXAMPLE, model="commands10")]
    assert [one.label for one in speechrnn.transcribe(EXAMPLE, model=lesson.recognizer)] == before


def studied(speaker: str, n_rows: int = 5) -> Studied:
    scored = Scored(np.zeros((n_rows, 2), np.float32), np.zeros((n_rows, 2), np.float32))
    return Studied(Take(Path("a.wav"), np.zeros(9, np.float32), 0, 9, speaker), scored, scored)


@pytest.mark.parametrize(
    ("speakers", "folds"),
    [
        (["ana", "ben", "ana", "cem"], [0, 1, 0, 2]),
        (["ana", "ana", "ana"], [0, 1, 2]),  # one speaker: recording by recording
        (["", "", ""], [0, 1, 2]),
        ([*"abcdefg"], [0, 1, 2, 3, 4, 0, 1]),
    ],
)
def test_speakers_are_left_out_whole_and_never_all_of_a_word(speakers: list[str], folds: list[int]) -> None:
    takes = [studied(one) for one in speakers]
    assert fold_takes({"lights": [*takes, studied("robot", 0)]}) == {"lights": [*folds, -1]}


def test_words_by_other_speakers_each_keep_some_to_learn_from() -> None:
    folds = fold_takes({"a": [studied("ana"), studied("flo")], "b": [studied(one) for one in "abcdef"]})
    assert folds["a"] == [0, 1]


def test_the_report_counts_recordings_left_out_and_false_alarms(lesson: Taught) -> None:
    report = lesson.report
    assert [(one.word, one.n_takes, one.n_speakers) for one in report.words] == [("curtains", 5, 5), ("music", 5, 5)]
    assert report.left_out == "speakers"
    for one in report.words:
        points = [one.points[name] for name in ("strict", "balanced", "sensitive")]
        assert points[0].n_missed >= points[1].n_missed >= points[2].n_missed
        assert all(point.bound > point.false_alarms_per_hour for point in points)
    text = "\n".join(report.to_lines())
    assert "'music': 5 recordings are few; 10 are asked for" in text


def test_own_words_want_quiet_before_them_as_the_shipped_ones_do(lesson: Taught) -> None:
    before, after = load("commands10").info.options, lesson.recognizer.info.options
    assert before.quiet_before > 0
    assert (after.quiet_before, after.quiet_from_ms, after.quiet_to_ms) == (
        before.quiet_before,
        before.quiet_from_ms,
        before.quiet_to_ms,
    )


def test_an_interrupted_lesson_leaves_the_model_as_it_was(lesson: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lesson.recognizer.path
    assert path is not None
    before = path.read_bytes()

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("speechrnn.teaching.lesson.extended", interrupt)
    with pytest.raises(KeyboardInterrupt):
        taught(OWN, output=path, minutes=0)
    assert (path.read_bytes(), [*path.parent.iterdir()]) == (before, [path])


def test_different_words_under_one_label_are_told(tmp_path: Path) -> None:
    words = [read(path, RATE_HZ) for path in sorted(OWN.rglob("m*.ogg"))] + [
        read(EXAMPLE, RATE_HZ)[round(start * RATE_HZ) : round((start + 1) * RATE_HZ)] for start in (0.7, 2.2, 3.7, 5.2)
    ]
    for number, samples in enumerate(words):
        write_audio(tmp_path / "words" / "lights" / f"{number}.wav", samples)
    text = "\n".join(taught(tmp_path / "words", minutes=0).report.to_lines())
    assert "'lights': its recordings do not sound alike" in text


def test_the_model_file_says_what_was_measured(lesson: Taught) -> None:
    info = lesson.recognizer.info
    assert [*info.operating_points] == ["strict", "balanced", "sensitive"]
    assert info.options.thresholds == info.operating_points["balanced"].thresholds
    assert info.operating_points["balanced"].n_keywords == 10
    assert info.provenance.data["taught music"] == 5


def test_words_can_be_added_to_a_model_that_was_taught(lesson: Taught, tmp_path: Path) -> None:
    shutil.copytree(OWN / "music", tmp_path / "words" / "concert")
    assert lesson.recognizer.path is not None
    again = speechrnn.teach(tmp_path / "words", model=lesson.recognizer.path, keep=["music", "stop"], minutes=0)
    assert again.labels == ("music", "stop", "concert", "unknown", "silence")


def test_the_verb_writes_the_model_and_prints_the_report(tmp_path: Path) -> None:
    write_audio(tmp_path / "words" / "music" / "silent.wav", silence(1))
    for file in (OWN / "music").iterdir():
        shutil.copy(file, tmp_path / "words" / "music")
    done = run("teach", tmp_path / "words", "--output", tmp_path / "my.onnx", "--only", "--minutes", "0")
    assert done.returncode == 0, done.stderr
    assert "silent.wav: no word in it" in done.stderr
    assert done.stdout.splitlines()[0].split()[:2] == ["word", "operating"]
    assert load(tmp_path / "my.onnx").labels == ("music", "unknown", "silence")
    (tmp_path / "words" / "_not_").mkdir()
    shutil.copy(OWN / "curtains" / "m7_nohash_0.ogg", tmp_path / "words" / "_not_")
    shutil.copy(OWN / "music" / "m7_nohash_0.ogg", tmp_path / "words" / "music" / "again.ogg")
    (tmp_path / "words" / "music" / "m3_nohash_0.ogg").unlink()
    again = run("teach", tmp_path / "words", "--output", tmp_path / "my.onnx", "--only", "--minutes", "0")
    assert "'music': before 5 recordings, now 4; missed" in again.stdout


def test_a_model_without_an_embedding_is_not_taught(tmp_path: Path) -> None:
    model = onnx.load(find_model("commands10"))
    del model.graph.output[1:]
    onnx.save(model, tmp_path / "old.onnx")
    done = run("teach", OWN, "--output", tmp_path / "my.onnx", "--from", tmp_path / "old.onnx")
    assert_one_line(done, "expected a model with an embedding", "export it again")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((OWN, "--output", "my.bin"), "ends in .onnx"),
        ((OWN, "--output", "my.onnx", "--only", "--keep", "yes"), "contradicts --only"),
        ((OWN / "music", "--output", "my.onnx"), "a folder for each word"),
        ((OWN, "--output", ROOT / "README.md" / "my.onnx"), "cannot write there"),
    ],
)
def test_what_cannot_be_taught_is_one_line(arguments: tuple[str, ...], part: str, tmp_path: Path) -> None:
    assert_one_line(run("teach", *arguments, cwd=tmp_path), part)
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_synthetic_voices_are_learned_from_and_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechrnn.teaching.voices.N_VOICES", 5)
    shutil.copytree(OWN / "music", tmp_path / "words" / "music")
    shutil.copytree(OWN / "curtains", tmp_path / "words" / "rhubarb")
    notes: list[str] = []
    result = taught(tmp_path / "words", minutes=0, voices=True, note=notes.append)
    assert [one.n_takes for one in result.report.words] == [5, 5]
    assert [note.partition(":")[0] for note in notes if "synthetic voices" in note] == ["'rhubarb'"]
