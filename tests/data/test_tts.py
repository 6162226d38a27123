"""Synthesised words: which, in which voices, made once, and never one that is excluded."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from speechrnn.audio import to_int16
from speechrnn.config import Data, load_experiment
from speechrnn.data import tts as synthesis
from speechrnn.data.clips import Int16
from speechrnn.data.lexicon import Excluded, words
from speechrnn.data.pack import prepare
from speechrnn.data.tts import TtsClip, plan, pronunciations, speak, synthesise
from speechrnn.errors import DataError
from tests import made_data
from tests.conftest import CONFIGS

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
KEYWORDS = ("yes", "right")


def beep(spoken: TtsClip) -> Int16:
    """Stands for the synthesiser: a tone of another pitch for each word."""
    return to_int16(0.3 * np.sin(np.arange(4000) * (0.1 + len(spoken.word) / 50)).astype(np.float32))


EXAM = load_experiment(CONFIGS / "commands10.toml").data


def test_no_listed_word_is_a_command_of_speech_commands() -> None:
    assert len(words()) == len(set(words())) > 1000
    assert {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"}.isdisjoint(words())


@pytest.mark.parametrize(
    "word", "back backs setback forward forwards straightforward follow follower swallow learn learning of".split()
)
def test_a_word_held_out_or_like_one_is_excluded(word: str) -> None:
    assert word in Excluded.of(EXAM, KEYWORDS)
    assert word not in Excluded.of(Data(), KEYWORDS)


@pytest.mark.parametrize("word", "one only own gone weapon soft coffee bag ford bark fellow yellow earn lean".split())
def test_other_words_are_not(word: str) -> None:
    assert word not in Excluded.of(EXAM, KEYWORDS)


@pytest.mark.parametrize("word", ["right", "write", "know"])
def test_keywords_and_words_held_out_are_excluded_with_their_homophones(word: str) -> None:
    assert word in Excluded.of(Data(held_out=("no",)), KEYWORDS)
    assert word not in Excluded.of(Data(), ("yes",))


def test_a_word_like_one_held_out_is_synthesised_for_others() -> None:
    theirs, ours = (
        {item.word for item in plan(data, KEYWORDS)}
        for data in (
            made_data.settings(n_tts_per_word=1),
            made_data.settings(n_tts_per_word=1, held_out=EXAM.held_out, held_out_like=EXAM.held_out_like),
        )
    )
    assert {"back", "background", "backpack", "follow", "learn"} == theirs - ours


def test_every_word_is_synthesised_as_often_as_asked_and_keywords_too() -> None:
    spoken = plan(made_data.settings(n_tts_per_word=3, n_tts_per_keyword=20), KEYWORDS)
    n_of = {word: sum(item.word == word for item in spoken) for word in {item.word for item in spoken}}
    assert all(n_of[word] == 20 for word in KEYWORDS)
    assert all(n == 3 for word, n in n_of.items() if word not in KEYWORDS)
    assert len({item.path for item in spoken}) == len(spoken)
    assert len({item.voice for item in spoken}) > 300


def test_words_held_out_and_words_that_sound_like_keywords_are_not_synthesised() -> None:
    spoken = {
        item.word for item in plan(made_data.settings(n_tts_per_word=1, held_out=("apple",)), ("no", "four", "two"))
    }
    assert spoken.isdisjoint({"apple", "know", "for", "to", "too", "two"})
    assert "acid" in spoken


def test_more_clips_of_a_word_keep_those_that_there_were() -> None:
    few, many = (set(plan(made_data.settings(n_tts_per_word=n), ())) for n in (2, 3))
    assert few < many


def test_nothing_is_synthesised_by_default() -> None:
    assert plan(Data(), KEYWORDS) == []


def test_clips_are_made_once_and_an_interruption_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[TtsClip] = []

    def speak_until(n: int) -> None:
        def fake(spoken: TtsClip) -> Int16:
            if len(made) == n:
                raise KeyboardInterrupt
            made.append(spoken)
            return beep(spoken)

        monkeypatch.setattr(synthesis, "speak", fake)

    monkeypatch.setattr(shutil, "which", lambda program: program)
    wanted = plan(Data(n_tts_per_keyword=5), KEYWORDS)
    speak_until(3)
    with pytest.raises(KeyboardInterrupt):
        synthesise(tmp_path, wanted)
    speak_until(100)
    synthesise(tmp_path, wanted)
    synthesise(tmp_path, wanted)
    assert sorted(made) == wanted
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert files == {spoken.path for spoken in wanted}
    samples, rate_hz = soundfile.read(tmp_path / wanted[0].path, dtype="int16")
    assert rate_hz == 16000
    assert np.array_equal(samples, beep(wanted[0]))


def test_a_missing_synthesiser_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(DataError, match="espeak-ng: not found; install it"):
        synthesise(tmp_path, plan(Data(n_tts_per_keyword=1), KEYWORDS))
    synthesise(tmp_path, [])


def test_synthesised_words_are_packed_as_training_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "speak", beep)
    monkeypatch.setattr(shutil, "which", lambda program: program)
    monkeypatch.setattr(synthesis, "words", lambda: ["apple", "lock"])
    data = made_data.data(made_data.write(tmp_path, n_speakers=4), n_tts_per_word=2, n_tts_per_keyword=3)
    (tmp_path / "tts" / "pear").mkdir(parents=True)
    soundfile.write(tmp_path / "tts" / "pear" / "of_another_configuration.wav", np.ones(100) / 2, 16000)
    clips = [clip for clip in prepare(data, keywords=KEYWORDS).clips if clip.kind == "tts"]
    assert sorted(clip.word for clip in clips) == ["apple"] * 2 + ["lock"] * 2 + ["right"] * 3 + ["yes"] * 3
    assert {clip.split for clip in clips} == {"training"}


def test_of_what_is_nearly_a_keyword_there_are_as_many_clips_as_asked(tmp_path: Path) -> None:
    (tmp_path / "tts").mkdir()
    sounds = {"yes": "jEs", "up": "Vp", "on": "0n", "off": "0f", "back": "bak", "forward": "fAwAd", "bus": "bVs"}
    text = msgspec.json.encode({word: list(said) for word, said in sounds.items()})
    (tmp_path / "tts" / "pronunciations.json").write_bytes(text)
    data = made_data.settings(dir=str(tmp_path), n_confusables_per_keyword=30, held_out=("bus",))
    wanted = plan(data, ("yes", "up"))
    assert {clip.kind for clip in wanted} == {"confusable"}
    assert len(wanted) == len({clip.path for clip in wanted}) == 60
    assert all(re.fullmatch(r"_nearly_/\w+/[\w-]+\.wav", clip.path) for clip in wanted)
    assert len({clip.word for clip in wanted}) == 60
    more_of_each = made_data.settings(dir=str(tmp_path), n_confusables_per_keyword=40, held_out=("bus",))
    more = plan(more_of_each, ("yes", "up"))
    assert set(wanted) < set(more)
    other = plan(msgspec.structs.replace(data, held_out=()), ("yes", "up"))
    assert len(set(wanted) & set(other)) >= 58


def test_the_sounds_of_a_word_need_the_synthesiser_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: program)
    monkeypatch.setattr(synthesis, "_sounds", lambda word: tuple(word))
    assert pronunciations(tmp_path, ("yes", "no"))["no"] == ("n", "o")
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert pronunciations(tmp_path, ("no", "yes"))["yes"] == ("y", "e", "s")
    with pytest.raises(DataError, match="espeak-ng: not found; install it"):
        pronunciations(tmp_path, ("no", "maybe"))
    (tmp_path / "pronunciations.json").write_text("[1]")
    with pytest.raises(DataError, match=r"pronunciations.json: expected the sounds of words.*delete it"):
        pronunciations(tmp_path, ("no",))


@needs_espeak
def test_espeak_tells_the_sounds_of_a_word_and_says_what_is_nearly_it(tmp_path: Path) -> None:
    assert pronunciations(tmp_path, ("up", "left"))["left"] == ("l", "E", "f", "t")
    data = made_data.settings(dir=str(tmp_path), n_confusables_per_keyword=4)
    takes = [speak(spoken) for spoken in plan(data, ("up", "left"))]
    assert len({samples.tobytes() for samples in takes}) == 8
    assert all(16000 * 0.1 < len(samples) < 16000 for samples in takes)


@needs_espeak
def test_espeak_says_each_word_in_each_voice_without_silence_around_it() -> None:
    takes = [speak(spoken) for spoken in plan(Data(n_tts_per_keyword=10), KEYWORDS)]
    for samples in takes:
        assert samples.dtype == np.int16
        assert 16000 * 0.1 < len(samples) < 16000 * 1.5
        assert 0.45 < np.abs(samples).max() / 32768 < 0.55
        assert np.abs(samples[:160]).max() > 20
        assert np.abs(samples[-160:]).max() > 20
    assert len({samples.tobytes() for samples in takes}) == len(takes)
