"""Words in natural voices: what is said by whom, and what is cut out and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import natural_voices
from pipelines.natural_voices import VALIDATION_VOICES, Cutter, Lexicon, Sentence, plan
from speechrnn.config import Data
from speechrnn.data.kokoro import Voice, phonemes

VOICES = [*VALIDATION_VOICES, "af_heart", "am_puck", "bf_emma"]
KEYWORDS = ("yes", "no", "on")
DATA = Data(held_out=("back",), held_out_like="back.*|of")


def lexicon() -> Lexicon:
    return Lexicon.of(DATA, KEYWORDS)


def test_no_training_sentence_has_a_part_of_a_voice_held_out() -> None:
    sentences = plan(VOICES, lexicon(), 200, 50)
    used = {one.split: set[str]() for one in sentences}
    for one in sentences:
        used[one.split] |= {one.voice.name, one.voice.other} - {""}
    assert used == {"training": {"af_heart", "am_puck", "bf_emma"}, "validation": set(VALIDATION_VOICES)}


def test_sentences_follow_from_their_numbers() -> None:
    assert plan(VOICES, lexicon(), 20, 5) == plan(VOICES, lexicon(), 30, 5)[:25]


def test_half_of_the_words_are_keywords_and_none_is_excluded() -> None:
    said = [word for one in plan(VOICES, lexicon(), 500, 0) for word in one.wanted]
    assert sum(word in KEYWORDS for word in said) / len(said) == pytest.approx(0.5, abs=0.05)
    assert not {"back", "backward", "know", "of"} & set(said)
    assert {"note", "own", "yet"} <= set(said)


class FakeDecoder:
    """Aligns each word of a text to 0.4 s, and takes every word alone for the first choice but one."""

    def __init__(self, mistaken: str) -> None:
        self.mistaken, self.words = mistaken, list[str]()

    def lookup_word(self, word: str) -> str:
        return word

    def set_align_text(self, text: str) -> None:
        self.words = text.split()

    def add_jsgf_string(self, name: str, grammar: str) -> None:
        self.words = [grammar.partition("<word> = ")[2].split(" | ")[0]]

    def activate_search(self, name: str) -> None:
        self.words = ["oops" if word == self.mistaken else word for word in self.words]

    def start_utt(self) -> None:
        pass

    process_raw: Callable[..., None] = lambda *_, **__: None
    end_utt: Callable[..., None] = lambda *_: None

    def seg(self) -> list[Any]:
        class Segment:
            def __init__(self, word: str, number: int) -> None:
                self.word, self.start_frame, self.end_frame = word, 40 * number, 40 * number + 39

        return [Segment(word, number) for number, word in enumerate(self.words)]


def test_words_are_cut_where_they_are_and_kept_if_taken_for_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natural_voices, "open_decoder", lambda *_, **__: FakeDecoder("on"))
    samples = np.repeat(np.linspace(0.1, 0.5, 5), 6400).astype(np.float32)
    sentence = Sentence(
        "s", "training", "Now yes, on! Yes.", Voice("af_heart", "am_puck", 0.3), 1.0, ("yes", "on", "yes")
    )
    rows = list(natural_voices.cut_words(sentence, samples, Cutter(lexicon()), tmp_path))
    assert [(row.label, row.taken_for, row.duration_s) for row in rows] == [
        ("yes", "yes", 0.4),
        ("on", "oops", 0.4),
        ("yes", "yes", 0.4),
    ]
    assert [round(10 ** (row.level_db / 20), 1) for row in rows] == [0.2, 0.3, 0.4]
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.wav"))
    assert kept == ["training/yes/afheartampuck-s-0.wav", "training/yes/afheartampuck-s-2.wav"]


def test_phonemes_are_in_the_letters_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"Go now": "ɡˈoʊ nˈaʊ", "left": "lˈɛft"}  # noqa: RUF001
    monkeypatch.setattr("speechrnn.data.kokoro._ipa", lambda text, is_british: said[text])
    assert phonemes("Go now, left!", is_british=False) == "ɡˈO nˈW, lˈɛft!"  # noqa: RUF001
