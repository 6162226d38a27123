"""Sentences in natural voices by Kokoro-82M (Apache-2.0), for those who have its files; espeak-ng gives the phonemes.

A folder holds `model.onnx`, `vocab.json` with the number of each phoneme, and a style file for each voice, `VOICE.bin`.
The model was made for sentences: it clips a word that stands alone, so words are cut out of sentences.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import soxr
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.errors import DataError

KOKORO_RATE_HZ = 24000
_MAX_PHONEMES = 500
_STYLE_SIZE = 256
_PAUSES = ",.;:!?"
# What espeak-ng writes in two letters or in one of another accent, and the letter that the model knows for it; in order
_LETTERS = {
    **{"eɪ": "A", "aɪ": "I", "aʊ": "W", "ɔɪ": "Y", "oʊ": "O", "əʊ": "Q", "tʃ": "ʧ", "dʒ": "ʤ"},  # noqa: RUF001
    **{"ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɚ": "əɹ", "əl": "ᵊl", "n̩": "ᵊn", "l̩": "ᵊl", "r": "ɹ", "x": "k", "ɬ": "l"},
    **{"ɐ": "ə", "ɾ": "T", "ʔ": "t", "e": "ɛ", "a": "æ", "ː": "", "\u0303": "", "\u0329": "", "-": ""},  # noqa: RUF001
}


class _Vocabulary(msgspec.Struct):
    vocab: dict[str, int]


class Voice(msgspec.Struct, frozen=True):
    """A voice, or a blend of two."""

    name: str
    """Name of the voice."""
    other: str = ""
    """Name of the second voice of a blend; empty for none."""
    other_fraction: float = 0.0
    """The part in [0, 1] of the second."""


class Kokoro:
    """The model and its English voices. Raises DataError for a folder that does not hold them."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            text = (folder / "vocab.json").read_bytes()
            self._numbers = msgspec.json.decode(text, type=_Vocabulary).vocab
            self._session = onnxruntime.InferenceSession(
                (folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except (OSError, msgspec.DecodeError) as error:
            raise DataError(
                f"{folder}: expected Kokoro's model.onnx, vocab.json and VOICE.bin there ({error})"
            ) from None
        self._folder = folder

    def voices(self) -> list[str]:
        """The voices whose names say that they are English: American (a) or British (b), of a woman or a man."""
        return sorted(path.stem for path in self._folder.glob("[ab][fm]_*.bin"))

    def say(self, text: str, voice: Voice, speed: float, rate_hz: int) -> Samples:
        """A text as that voice says it, `speed` times as fast as it would, float32 [T]."""
        letters = phonemes(text, is_british=voice.name.startswith("b"))
        tokens = [self._numbers[letter] for letter in letters if letter in self._numbers][:_MAX_PHONEMES]
        style = (1 - voice.other_fraction) * self._style(voice.name, len(tokens))
        if voice.other:
            style = style + voice.other_fraction * self._style(voice.other, len(tokens))
        feed = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": style[None].astype(np.float32),
            "speed": np.array([speed], dtype=np.float32),
        }
        samples = np.asarray(self._session.run(None, feed)[0], dtype=np.float32).ravel()
        return np.asarray(soxr.resample(samples, KOKORO_RATE_HZ, rate_hz), dtype=np.float32)

    def _style(self, voice: str, n_tokens: int) -> NDArray[np.float32]:
        """How a voice says a text of so many phonemes [_STYLE_SIZE]."""
        styles = np.fromfile(self._folder / f"{voice}.bin", dtype="<f4").reshape(-1, _STYLE_SIZE)
        return np.asarray(styles[n_tokens - 1])


def phonemes(text: str, *, is_british: bool) -> str:
    """The letters that the model reads for a text: phonemes, and the punctuation that makes its pauses."""
    parts = [part.strip() for part in re.split(f"([{_PAUSES}])", text)]
    letters = "".join(part if part in _PAUSES else " " + _ipa(part, is_british) for part in parts if part).strip()
    for one, other in _LETTERS.items():
        letters = letters.replace(one, other)
    return letters


def _ipa(text: str, is_british: bool) -> str:
    voice = "en-gb" if is_british else "en-us"
    command = ["espeak-ng", "-q", "--ipa", "-v", voice, "--", text]
    try:
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except FileNotFoundError:
        raise DataError(
            "espeak-ng: not found; Kokoro needs its phonemes; install it (Debian: apt install espeak-ng)"
        ) from None
    return " ".join(said.split())
