"""Confusables: pseudo-words one or two phonemes from a keyword, as synthetic hard negatives. Knows phonemes, no audio.

A network that was trained on few other words takes any short word for the keyword of the same length and stress. These
have the same length and stress, and differ in phonemes alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product

from speechrnn.errors import DataError

Sounds = tuple[str, ...]
"""The sounds of a word, in espeak-ng's notation, without stress."""

_N_CHANGED = 2  # sounds at most
_CONSONANT_KINDS = ("p b t d k g", "f v T D s z S Z h tS dZ", "m n N", "l r w j")  # stops, fricatives, nasals, glides
_VOWEL_KINDS = ("i: I E eI", "a A: V 0 aI aU", "O: OI oU U u:", "3:")  # front, open, back, middle
_WEAK_VOWELS = ("i i@ e@", "A@ aI@ aU@", "O@ o@ U@", "3 @ @L")  # of the same kinds, where no stress or an r is
_CONSONANTS, _VOWELS, _WEAK = (
    sorted(" ".join(kinds).split()) for kinds in (_CONSONANT_KINDS, _VOWEL_KINDS, _WEAK_VOWELS)
)
_VOWEL_PAIRS = zip(_VOWEL_KINDS, _WEAK_VOWELS, strict=True)
_ALIKE = [set(kind.split()) for kind in (*_CONSONANT_KINDS, *map(" ".join, _VOWEL_PAIRS))]
_RARE_FIRST, _RARE_LAST = {"N", "Z"}, {"h", "w", "j"}  # in English: never or hardly ever
_SAME = {
    **{"A:": "0", "A@": "0", "O:": "0", "O@": "0", "o@": "0", "i": "i:", "3": "3:"},
    **{"v": "f", "z": "s", "D": "T", "Z": "S", "b": "p", "d": "t", "g": "k", "dZ": "tS"},
}
"""Sounds that one accent or casual speech has for another."""


def confusables(word: Sounds, keywords: Iterable[Sounds], never: Iterable[Sounds]) -> list[Sounds]:
    """What `word` becomes with one or two sounds changed, in order; vowels become vowels, consonants consonants.

    Left out is what is like any of the keywords phoneme by phoneme, and what may be pronounced for a word in `never`.
    Raises DataError for a sound that is in no table here.
    """
    unexpected = [sound for sound in word if sound not in (*_CONSONANTS, *_VOWELS, *_WEAK)]
    if unexpected:
        raise DataError(
            f"expected sounds of English, got {unexpected[0]!r} in {' '.join(word)}; "
            "correct pronunciations.json in the folder of spoken words"
        )
    known = [sounds for sounds in keywords if len(sounds) == len(word)]
    forbidden = {_normalised(sounds) for sounds in never}
    changed = {
        near
        for n in range(1, _N_CHANGED + 1)
        for changed_at in combinations(range(len(word)), n)
        for near in product(*(_others(sound) if i in changed_at else (sound,) for i, sound in enumerate(word)))
    }
    return sorted(
        near
        for near in changed
        if near[0] not in _RARE_FIRST and near[-1] not in _RARE_LAST
        if _normalised(near) not in forbidden and not any(_is_like(near, keyword) for keyword in known)
    )


def _others(sound: str) -> list[str]:
    return [other for other in (_CONSONANTS if sound in _CONSONANTS else _VOWELS) if other != sound]


def _is_like(one: Sounds, other: Sounds) -> bool:
    """Whether each sound is the same in both, or of the same kind."""
    return all(a == b or any({a, b} <= alike for alike in _ALIKE) for a, b in zip(one, other, strict=True))


def _normalised(word: Sounds) -> Sounds:
    return tuple(_SAME.get(sound, sound) for sound in word)


def notation(word: Sounds) -> str:
    """These sounds in espeak-ng's notation for its input: the first vowel has the stress."""
    first = next((i for i, sound in enumerate(word) if sound not in _CONSONANTS), 0)
    return "[[" + "".join(f"'{sound}" if i == first else sound for i, sound in enumerate(word)) + "]]"
