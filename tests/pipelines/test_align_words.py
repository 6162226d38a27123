"""The list of words in running speech: what PocketSphinx hears becomes rows, and an interruption is gone on from."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from pipelines import align_words
from speechrnn.data.annotations import AlignedWord, read_aligned_words
from speechrnn.data.pack import prepare
from speechrnn.errors import DataError
from tests import made_data

CONFIG = str(Path(__file__).parents[2] / "configs" / "smoke.toml")


class Segment(NamedTuple):
    word: str
    start_frame: int
    end_frame: int


class FakeDecoder:
    """Hears the same in every recording, and fails on the one asked for."""

    n_decoded = 0
    fails_at = -1

    def __init__(self, **options: object) -> None:
        pass

    def start_utt(self) -> None:
        FakeDecoder.n_decoded += 1
        if FakeDecoder.n_decoded == FakeDecoder.fails_at:
            raise KeyboardInterrupt

    def process_raw(self, raw: bytes, full_utt: bool) -> None:
        assert full_utt

    def end_utt(self) -> None:
        pass

    def seg(self) -> list[Segment]:
        return [Segment("<s>", 0, 9), Segment("the(2)", 10, 29), Segment("[NOISE]", 30, 40), Segment("apple", 41, 79)]


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "pocketsphinx", SimpleNamespace(Decoder=FakeDecoder))
    monkeypatch.setattr(sys, "argv", ["align_words", CONFIG, "--data", str(tmp_path)])
    monkeypatch.setattr(FakeDecoder, "n_decoded", 0)
    monkeypatch.setattr(FakeDecoder, "fails_at", -1)
    return made_data.write(tmp_path, n_speakers=16)


def test_words_are_listed_with_their_times_and_trained_on(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    align_words.main()
    words = read_aligned_words(talk / "aligned_words.csv")
    names = [f"speech/training/{i}.wav" for i in range(4)]
    assert words[:2] == [AlignedWord(names[0], 0.1, 0.3, "the"), AlignedWord(names[0], 0.41, 0.8, "apple")]
    assert [word.audio for word in words[::2]] == names
    assert "8 words, 2 different, in 4 recordings" in capsys.readouterr().out
    clips = prepare(made_data.data(talk, aligned_words="aligned_words.csv")).clips
    assert sorted(clip.word for clip in clips if clip.kind == "aligned") == ["apple"] * 4 + ["the"] * 4


def test_a_transcript_is_aligned_by_force_if_all_its_words_can_be_pronounced(
    talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned: list[str] = []
    monkeypatch.setattr(FakeDecoder, "set_align_text", lambda self, text: aligned.append(text), raising=False)
    monkeypatch.setattr(FakeDecoder, "lookup_word", lambda self, word: word != "xyzzy", raising=False)
    lines = ["0 The Apple, that's it.", "1 an xyzzy"]
    (talk / "speech" / "training" / "transcripts.txt").write_text("\n".join(lines), encoding="utf-8")
    align_words.main()
    assert aligned == ["the apple that's it"]
    assert len(read_aligned_words(talk / "aligned_words.csv")) == 8


@pytest.mark.parametrize("lost", [0, 5, 20, 60, 100, 1000])
def test_an_interrupted_list_is_gone_on_with(talk: Path, monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    align_words.main()
    complete = read_aligned_words(talk / "aligned_words.csv")
    (talk / "aligned_words.csv").unlink()
    monkeypatch.setattr(FakeDecoder, "fails_at", FakeDecoder.n_decoded + 3)
    with pytest.raises(KeyboardInterrupt):
        align_words.main()
    assert not (talk / "aligned_words.csv").exists()
    part = talk / "aligned_words.csv.part"
    part.write_bytes(part.read_bytes()[: -lost or None])
    before = FakeDecoder.n_decoded
    align_words.main()
    assert read_aligned_words(talk / "aligned_words.csv") == complete
    again = FakeDecoder.n_decoded - before
    assert again == (3 if lost < 50 else 4)  # two that were not decoded, and the last in the list, maybe incomplete
    assert [path.name for path in talk.glob("aligned*")] == ["aligned_words.csv"]


def test_of_two_processes_that_list_the_same_words_one_listens(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDecoder, "end_utt", lambda self: time.sleep(0.01))
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(align_words.main) for _ in range(2)]:
            done.result()
    recordings = {word.audio for word in read_aligned_words(talk / "aligned_words.csv")}
    assert FakeDecoder.n_decoded == len(recordings) > 1


def test_a_complete_list_follows_the_recordings_there_are(talk: Path) -> None:
    align_words.main()
    (talk / "speech" / "training" / "3.wav").rename(talk / "speech" / "training" / "4.wav")
    before = FakeDecoder.n_decoded
    align_words.main()
    assert FakeDecoder.n_decoded == before + 1
    assert {Path(word.audio).stem for word in read_aligned_words(talk / "aligned_words.csv")} == {"0", "1", "2", "4"}


def test_a_recording_that_cannot_be_read_is_left_out_and_said(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (talk / "speech" / "training" / "1.wav").write_bytes(b"RIFF")
    align_words.main()
    assert "left out: " in (said := capsys.readouterr().out)
    assert "1.wav" in said
    assert len(read_aligned_words(talk / "aligned_words.csv")) == 6


def test_without_pocketsphinx_it_says_so(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(DataError, match=r"pocketsphinx: not found.*install it"):
        align_words.main()
    assert not (talk / "aligned_words.csv").exists()
