"""Ordered class names with their roles: keywords first, then unknown, then silence."""

from __future__ import annotations

import unicodedata
from collections import Counter

import msgspec

from speechrnn.errors import ConfigError

UNKNOWN = "unknown"
SILENCE = "silence"
FOLDER_LABELS = {"_unknown_": UNKNOWN, "_silence_": SILENCE, "_background_noise_": SILENCE}
"""Folder names of the Speech Commands archives that name a role rather than a word."""

_MAX_KEYWORDS = 10000
_MAX_CHARACTERS = 100
_UNWRITABLE = {"Cc", "Cs", "Zl", "Zp"}  # the categories of Unicode that end a line, or cannot be written


def _is_writable(word: str) -> bool:
    """Whether a word of any script can stand in a line of any output."""
    is_plain = _UNWRITABLE.isdisjoint(map(unicodedata.category, word))
    return is_plain and word.strip() == word and 1 <= len(word) <= _MAX_CHARACTERS


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The classes of a model, in the order of its outputs. Neither unknown nor silence is ever detected.

    Raises ConfigError without a keyword, for a repeated or reserved one, and for fewer than two classes.
    """

    keywords: tuple[str, ...]
    """The words that are detected: at least one, each once."""
    unknown: bool = True
    """Whether there is a class for any speech that is no keyword."""
    silence: bool = True
    """Whether there is a class for anything that is no speech."""

    def __post_init__(self) -> None:
        if not self.keywords:
            raise ConfigError("expected at least one keyword, got none")
        if len(self.keywords) > _MAX_KEYWORDS:
            raise ConfigError(f"expected at most {_MAX_KEYWORDS} keywords, got {len(self.keywords)}")
        unwritable = [word for word in self.keywords if not _is_writable(word)]
        if unwritable:
            raise ConfigError(
                f"expected keywords without line breaks, control characters and spaces at their ends, "
                f"of 1 to {_MAX_CHARACTERS} characters, got {unwritable[0][:_MAX_CHARACTERS]!r}"
            )
        repeated = sorted(word for word, n in Counter(self.keywords).items() if n > 1)
        if repeated:
            raise ConfigError(f"expected each keyword once, got more of: {', '.join(repeated)}")
        reserved = sorted({UNKNOWN, SILENCE, *FOLDER_LABELS} & set(self.keywords))
        if reserved:
            raise ConfigError(f"expected words as keywords, got the reserved name: {', '.join(reserved)}")
        if len(self.names) < 2:
            raise ConfigError("expected at least two classes, got one")

    @property
    def names(self) -> tuple[str, ...]:
        """All class names, in the order of the model's outputs."""
        return self.keywords + (UNKNOWN,) * self.unknown + (SILENCE,) * self.silence

    def of_folder(self, folder: str) -> str | None:
        """The class that clips in a folder of this name belong to, or None if the model has no class for them."""
        name = FOLDER_LABELS.get(folder, folder)
        if name == SILENCE:
            return SILENCE if self.silence else None
        if name in self.keywords:
            return name
        return UNKNOWN if self.unknown else None
