"""Words that nobody says and that are nearly a keyword: one or two of its sounds changed. Knows sounds, no audio.

A network that was trained on few other words takes any short word for the keyword whose length and stress it has. These
have the same length and stress, and differ in what a listener tells them by.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product

Sounds = tuple[str, ...]
"""The sounds of a word, in espeak-ng's notation, without stress."""

_N_CHANGED = 2  # sounds at most
_CONSONANT_KINDS = ("p b t d k g", "f v T D s z S Z h tS dZ", "m n N", "l r w j")  # stops, fricatives, nasals, glides
_VOWEL_KINDS = ("i: I E eI", "a A: V 0 aI aU", "O: OI oU U u:", "3:")  # front, open, back, middle
_CONSONANTS = sorted(" ".join(_CONSONANT_KINDS).split())
_VOWELS = sorted(" ".join(_VOWEL_KINDS).split())
_ALIKE = [set(kind.split()) for kind in (*_CONSONANT_KINDS, *_VOWEL_KINDS)]
_NEVER_FIRST, _NEVER_LAST = {"N", "Z"}, {"h", "w", "j"}  # in English
_SAME = {"A:": "0", "O:": "0", "v": "f", "z": "s", "D": "T", "Z": "S", "b": "p", "d": "t", "g": "k", "dZ": "tS"}
"""Sounds that one accent or a careless speaker has for another."""


def confusables(word: Sounds, keywords: Iterable[Sounds], never: Iterable[Sounds]) -> list[Sounds]:
    """What `word` becomes with one or two sounds changed, in order; vowels become vowels, consonants consonants.

    Left out is what is like any of the keywords sound for sound, and what someone might say for a word in `never`.
    """
    known = [sounds for sounds in keywords if len(sounds) == len(word)]
    forbidden = {_careless(sounds) for sounds in never}
    changed = {
        near
        for n in range(1, _N_CHANGED + 1)
        for places in combinations(range(len(word)), n)
        for near in product(*(_others(sound) if i in places else (sound,) for i, sound in enumerate(word)))
    }
    return sorted(
        near
        for near in changed
        if near[0] not in _NEVER_FIRST and near[-1] not in _NEVER_LAST
        if _careless(near) not in forbidden and not any(_is_like(near, word) for word in known)
    )


def _others(sound: str) -> list[str]:
    kind = _VOWELS if sound in _VOWELS else _CONSONANTS
    return [other for other in kind if other != sound]


def _is_like(one: Sounds, other: Sounds) -> bool:
    """Whether each sound is the same in both, or of the same kind."""
    return all(a == b or any({a, b} <= alike for alike in _ALIKE) for a, b in zip(one, other, strict=True))


def _careless(word: Sounds) -> Sounds:
    return tuple(_SAME.get(sound, sound) for sound in word)


def notation(word: Sounds) -> str:
    """How espeak-ng is told to say these sounds: the first vowel has the stress."""
    first = next((i for i, sound in enumerate(word) if sound in _VOWELS), 0)
    return "[[" + "".join(f"'{sound}" if i == first else sound for i, sound in enumerate(word)) + "]]"
