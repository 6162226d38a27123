"""Words spoken by espeak-ng, as a further source of training clips: unknown words that no archive has, and keywords.

Every clip follows from its word and its number alone, so a folder that was made in part is completed, never changed.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from speechrnn.audio import to_int16
from speechrnn.config import Data
from speechrnn.errors import DataError

SPOKEN_RATE_HZ = 16000
_PROGRAM = "espeak-ng"
_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
_VARIANTS = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen "
    "RicishayMax RicishayMax2 RicishayMax3 Storm adam anika antonio aunty belinda benjamin boris caleb david ed edward "
    "edward2 f1 f2 f3 f4 f5 grandma grandpa gustave iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3 klatt4 "
    "linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby "
    "steph steph2 steph3 travis victor whisper zac"
).split()  # of espeak-ng 1.51, without those that sound like no people
_PEAK = 0.5
_QUIET = 1e-3  # of full scale; what espeak-ng puts around a word is below it

SOUND_LIKE = {
    "no": {"know", "noh"},
    "right": {"write", "rite", "wright"},
    "one": {"won"},
    "two": {"to", "too"},
    "four": {"for", "fore"},
    "eight": {"ate"},
}
"""Words that nobody can tell from a keyword by ear."""


def words() -> list[str]:
    """Common English words, and those of Speech Commands that are nobody's commands. They are spoken as unknown words.

    "on", "off", "back" and "forward", what sounds like them, and words that begin with them are left out on purpose:
    they stand for words that nobody foresaw.
    """
    return Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()


class Spoken(NamedTuple):
    """One clip to make: the word, and how espeak-ng says it."""

    word: str
    voice: str
    pitch: int
    words_per_minute: int

    @property
    def path(self) -> str:
        """Where it lies in the folder of synthesised clips."""
        return f"{self.word}/{self.voice.replace('+', '_')}_{self.pitch}_{self.words_per_minute}.wav"


def plan(data: Data, keywords: tuple[str, ...]) -> list[Spoken]:
    """The clips that a configuration asks for: other words, and the keywords themselves.

    Without synthesised keywords a network would learn that a synthesiser never says one.
    """
    alike = {word for keyword in keywords for word in SOUND_LIKE.get(keyword, ())}
    others = [word for word in words() if word not in {*keywords, *data.held_out, *alike}]
    wanted = [(word, data.n_spoken_per_word) for word in others]
    wanted += [(word, data.n_spoken_per_keyword) for word in keywords]
    return sorted({_draw(word, number) for word, n in wanted for number in range(n)})


def _draw(word: str, number: int) -> Spoken:
    seed = int.from_bytes(hashlib.blake2b(f"{word} {number}".encode(), digest_size=8).digest(), "little")
    random = np.random.default_rng(seed)
    voice = f"{_ACCENTS[random.integers(len(_ACCENTS))]}+{_VARIANTS[random.integers(len(_VARIANTS))]}"
    return Spoken(word, voice, int(random.integers(25, 75)), int(random.integers(110, 200)))


def synthesise(
    folder: Path,
    wanted: list[Spoken],
    progress: Callable[[Iterable[Spoken], int], Iterable[Spoken]] | None = None,
) -> None:
    """Make those of the wanted clips that are not in the folder yet. Raises DataError if espeak-ng is missing."""
    missing = [spoken for spoken in wanted if not (folder / spoken.path).exists()]
    if missing and shutil.which(_PROGRAM) is None:
        raise DataError(
            f"{_PROGRAM}: not found; install it (Debian: apt install espeak-ng), "
            "or set data.n_spoken_per_word and data.n_spoken_per_keyword to 0"
        )
    for spoken in progress(missing, len(wanted)) if progress and missing else missing:
        path = folder / spoken.path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        soundfile.write(part, speak(spoken), SPOKEN_RATE_HZ, format="WAV")
        part.replace(path)


def speak(spoken: Spoken) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """The word as espeak-ng says it, int16 [T] at 16 kHz, without the silence around it."""
    options = ["-v", spoken.voice, "-p", str(spoken.pitch), "-s", str(spoken.words_per_minute), "--stdout"]
    wav = subprocess.run([_PROGRAM, *options, spoken.word], capture_output=True, check=True).stdout
    samples, rate_hz = soundfile.read(io.BytesIO(wav), dtype="float32")
    samples = soxr.resample(samples, rate_hz, SPOKEN_RATE_HZ)
    loud = np.flatnonzero(np.abs(samples) > _QUIET)
    samples = samples[loud[0] : loud[-1] + 1] if len(loud) else samples
    return to_int16(samples * (_PEAK / max(float(np.abs(samples).max()), 1e-9)))
