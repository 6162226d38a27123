"""Words synthesised by espeak-ng as training clips: unknown words, keywords, and confusables of the keywords.

Every clip of a word follows from the word and its number alone, so a folder that was made in part is completed.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import soundfile
import soxr

from speechrnn.audio import to_int16
from speechrnn.config import Data
from speechrnn.data.confusables import Sounds, confusables, notation
from speechrnn.data.lexicon import Excluded, words
from speechrnn.errors import DataError

TTS_RATE_HZ = 16000
_PROGRAM = "espeak-ng"
_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
_REFERENCE_ACCENT = "en-gb"
_VARIANTS = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen "
    "RicishayMax RicishayMax2 RicishayMax3 Storm adam anika antonio aunty belinda benjamin boris caleb david ed edward "
    "edward2 f1 f2 f3 f4 f5 grandma grandpa gustave iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3 klatt4 "
    "linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby "
    "steph steph2 steph3 travis victor whisper zac"
).split()  # of espeak-ng 1.51, without those that sound like no people
_STRESS = "',"
_PRONUNCIATIONS = "pronunciations.json"
_PEAK = 0.5
_QUIET = 1e-3  # of full scale; what espeak-ng puts around a word is below it


class TtsClip(NamedTuple):
    """A clip to be synthesised by espeak-ng."""

    word: str
    """The word, or its phonemes in espeak-ng's notation."""
    voice: str
    """Name of the voice."""
    pitch: int
    """Pitch, 0 to 99."""
    words_per_minute: int
    """Speed."""
    kind: Literal["tts", "confusable"] = "tts"
    """A word, or a confusable of a keyword."""

    @property
    def path(self) -> str:
        """Where it lies in the folder of synthesised clips."""
        folder = f"_nearly_/{re.sub(r'[^A-Za-z0-9]', '_', self.word)}" if self.kind == "confusable" else self.word
        return f"{folder}/{self.voice.replace('+', '_')}_{self.pitch}_{self.words_per_minute}.wav"


def plan(data: Data, keywords: tuple[str, ...]) -> list[TtsClip]:
    """The clips that a configuration asks for: unknown words, the keywords themselves, and confusables of these.

    Without synthesised keywords a network would learn that a synthesiser never says one. Raises DataError if espeak-ng
    is needed for the sounds of a keyword, and missing.
    """
    excluded = Excluded.of(data, keywords)
    others = [word for word in words() if word not in excluded]
    wanted = [(word, data.unknown.tts.n_per_word) for word in others]
    wanted += [(word, data.n_tts_per_keyword) for word in keywords]
    clips = {_draw(word, _random(word, number)) for word, n in wanted for number in range(n)}
    return sorted(clips | _plan_confusables(data, keywords))


def _plan_confusables(data: Data, keywords: tuple[str, ...]) -> set[TtsClip]:
    """For each keyword a number of clips, each of another confusable of it, as long as there are any.

    None is like a word held out. Which ones they are hardly changes when one word more is held out.
    """
    if not data.unknown.confusable.n_per_keyword:
        return set()
    sounds = pronunciations(Path(data.dir) / data.tts, (*keywords, *data.held_out))
    planned = set()
    for keyword in keywords:
        near = confusables(
            sounds[keyword], [sounds[word] for word in keywords], [sounds[word] for word in data.held_out]
        )
        order = sorted(near, key=lambda one: _seed(f"nearly {keyword} {one}"))
        for word in map(notation, order[: data.unknown.confusable.n_per_keyword]):
            planned.add(_draw(word, _random(word, 0))._replace(kind="confusable"))
    return planned


def pronunciations(folder: Path, words: tuple[str, ...]) -> dict[str, Sounds]:
    """The sounds of words, from a file in the folder of synthesised clips or else from espeak-ng, then kept there.

    Raises DataError if espeak-ng is missing, or the file is not readable.
    """
    path = folder / _PRONUNCIATIONS
    try:
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, Sounds]) if path.exists() else {}
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: expected the sounds of words, got something else ({error}); delete it") from None
    missing = [word for word in words if word not in known]
    if missing:
        _check_program()
        known |= {word: _sounds(word) for word in missing}
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix=_PRONUNCIATIONS, delete=False) as part:  # two may do so at once
            part.write(msgspec.json.encode(known))
        Path(part.name).replace(path)
    return known


def _sounds(word: str) -> Sounds:
    options = ["-v", _REFERENCE_ACCENT, "-q", "-x", "--sep=_"]
    said = subprocess.run([_PROGRAM, *options, "--", word], capture_output=True, check=True, text=True).stdout
    return tuple(sound for part in said.split("_") if (sound := part.strip().strip(_STRESS)))


def _random(word: str, number: int) -> np.random.Generator:
    return np.random.default_rng(_seed(f"{word} {number}"))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _draw(word: str, random: np.random.Generator) -> TtsClip:
    voice = f"{_ACCENTS[random.integers(len(_ACCENTS))]}+{_VARIANTS[random.integers(len(_VARIANTS))]}"
    return TtsClip(word, voice, int(random.integers(25, 75)), int(random.integers(110, 200)))


def draw_voices(word: str, n: int) -> list[TtsClip]:
    """A word in so many voices, always the same for a word. Raises DataError if espeak-ng is missing."""
    _check_program()
    return sorted({_draw(word, _random(word, number)) for number in range(n)})


def synthesise(
    folder: Path,
    wanted: list[TtsClip],
    progress: Callable[[Iterable[TtsClip], int], Iterable[TtsClip]] | None = None,
) -> None:
    """Make those of the wanted clips that are not in the folder yet. Raises DataError if espeak-ng is missing."""
    missing = [spoken for spoken in wanted if not (folder / spoken.path).exists()]
    if missing:
        _check_program()
    for spoken in progress(missing, len(wanted)) if progress and missing else missing:
        path = folder / spoken.path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        soundfile.write(part, speak(spoken), TTS_RATE_HZ, format="WAV")
        part.replace(path)


def can_speak() -> bool:
    """Whether espeak-ng is installed."""
    return shutil.which(_PROGRAM) is not None


def _check_program() -> None:
    if not can_speak():
        raise DataError(
            f"{_PROGRAM}: not found; install it (Debian: apt install espeak-ng), "
            "or set data.n_tts_per_keyword, data.unknown.tts.n_per_word and data.unknown.confusable.n_per_keyword to 0"
        )


def speak(spoken: TtsClip) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """The word as espeak-ng says it, int16 [T] at 16 kHz, without the silence around it."""
    options = ["-v", spoken.voice, "-p", str(spoken.pitch), "-s", str(spoken.words_per_minute), "--stdout"]
    wav = subprocess.run([_PROGRAM, *options, "--", spoken.word], capture_output=True, check=True).stdout
    samples, rate_hz = soundfile.read(io.BytesIO(wav), dtype="float32")
    samples = soxr.resample(samples, rate_hz, TTS_RATE_HZ)
    loud = np.flatnonzero(np.abs(samples) > _QUIET)
    samples = samples[loud[0] : loud[-1] + 1] if len(loud) else samples
    return to_int16(samples * (_PEAK / max(float(np.abs(samples).max(initial=0)), 1e-9)))
