"""Words that are nearly a keyword: which they are, and which they never are."""

from __future__ import annotations

import pytest

from speechrnn.data.confusables import confusables, notation
from speechrnn.errors import DataError

SOUNDS = {
    "yes": ("j", "E", "s"),
    "no": ("n", "oU"),
    "up": ("V", "p"),
    "left": ("l", "E", "f", "t"),
    "go": ("g", "oU"),
}
NEVER = [("0", "n"), ("0", "f"), ("b", "a", "k")]
VOWELS = "a A: V 0 aI aU i: I E eI O: OI oU U u: 3:".split()


def near(word: str) -> list[tuple[str, ...]]:
    return confusables(SOUNDS[word], SOUNDS.values(), NEVER)


@pytest.mark.parametrize("word", SOUNDS)
def test_one_or_two_sounds_are_changed_vowels_to_vowels(word: str) -> None:
    found = near(word)
    assert len(found) == len(set(found)) > 200
    for other in found:
        assert len(other) == len(SOUNDS[word])
        assert 1 <= sum(a != b for a, b in zip(other, SOUNDS[word], strict=True)) <= 2
        assert [sound in VOWELS for sound in other] == [sound in VOWELS for sound in SOUNDS[word]]


def test_what_a_listener_hardly_tells_from_a_keyword_is_left_out() -> None:
    assert ("V", "s") in near("up")
    assert {("V", "t"), ("V", "b"), ("0", "p")}.isdisjoint(near("up"))
    assert {("g", "oU"), ("k", "O:"), ("d", "oU")}.isdisjoint(near("no"))
    assert ("s", "oU") in near("no")


def test_excluded_words_are_left_out_however_they_are_pronounced() -> None:
    said = {("0", "f"), ("O:", "f"), ("A:", "f"), ("0", "v"), ("A:", "v"), ("0", "n"), ("A:", "n"), ("O:", "n")}
    assert said.isdisjoint(near("up"))
    assert said & set(confusables(SOUNDS["up"], SOUNDS.values(), []))


def test_consonants_that_hardly_begin_or_end_an_english_word_do_not() -> None:
    assert not [word for name in SOUNDS for word in near(name) if word[0] in "NZ" or word[-1] in "hwj"]


@pytest.mark.parametrize("said", ["f o@", "z i@ r oU", "S i: l @", "m A@ v I n", "h a p i"])
def test_vowels_without_stress_are_vowels(said: str) -> None:
    word = tuple(said.split())
    found = confusables(word, [word], [])
    assert found
    assert {other[1] for other in found} <= {word[1], *VOWELS}
    assert all(len(other) == len(word) for other in found)


def test_a_sound_of_no_table_is_named() -> None:
    with pytest.raises(DataError, match=r"expected sounds of English, got 'x' in l 0 x"):
        confusables(("l", "0", "x"), [], [])


@pytest.mark.parametrize(
    ("word", "text"), [(("V", "p"), "[['Vp]]"), (("s", "t", "i:", "p"), "[[st'i:p]]"), (("n", "3:"), "[[n'3:]]")]
)
def test_the_first_vowel_is_stressed(word: tuple[str, ...], text: str) -> None:
    assert notation(word) == text
