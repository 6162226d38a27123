"""Words: common ones for a synthesiser to say, those that sound like others, and which ones training must leave out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from speechrnn.config import Data

SOUND_LIKE = {
    "no": {"know", "noh"},
    "right": {"write", "rite", "wright"},
    "one": {"won"},
    "two": {"to", "too"},
    "four": {"for", "fore"},
    "eight": {"ate"},
}
"""Homophones of words that are often keywords."""
WEAK_FORMS = {"of"}
"""Words that are reduced within a sentence, and there sound nothing like what they are like when said alone."""


def words() -> list[str]:
    """Common English words but those of Speech Commands that are commands: they are synthesised as unknown words."""
    return Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()


def homophones(of: tuple[str, ...]) -> set[str]:
    """Other words that sound the same as these."""
    return {word for keyword in of for word in SOUND_LIKE.get(keyword, ())}


class Excluded(NamedTuple):
    """Words that training must not have as unknown."""

    words: frozenset[str]
    """The words themselves."""
    like: re.Pattern[str] | None
    """A pattern that excludes any word it matches as a whole; None for none."""

    @classmethod
    def of(cls, data: Data, keywords: tuple[str, ...]) -> Excluded:
        """The keywords, the words that a configuration holds out, the homophones of both, and what is like them."""
        known = (*keywords, *data.held_out)
        return cls(frozenset(known) | homophones(known), re.compile(data.held_out_like) if data.held_out_like else None)

    def __contains__(self, word: object) -> bool:
        return word in self.words or bool(self.like and isinstance(word, str) and self.like.fullmatch(word))
