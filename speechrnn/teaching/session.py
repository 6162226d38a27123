"""A session of recording: one take after the other from a microphone, each judged before it is kept as a file."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from speechrnn.audio import Samples, to_int16
from speechrnn.data.lexicon import words
from speechrnn.errors import AudioError, DeviceError
from speechrnn.files import writing
from speechrnn.folders import find_audio
from speechrnn.sources import AudioSource
from speechrnn.teaching.judging import Refused, judge
from speechrnn.teaching.recordings import NOT, ROOM

COUNT_DOWN_S, TAKE_S = 1.5, 2.5
_MAX_REFUSED = 5

Show = Callable[[str, float, Samples], None]
"""Takes what is to be said (or `ready`), the seconds left of it, and the block that has just come."""


class Session:
    """Records into a folder of own words. What is there already is counted, so a session may be ended and resumed.

    `open_microphone` gives a source for each take; `say` is told lines, `show` each block as it comes; `keep` is asked
    whether a take that is good is kept.
    """

    def __init__(
        self,
        folder: Path,
        open_microphone: Callable[[], AudioSource],
        rate_hz: int,
        *,
        speaker: str = "me",
        say: Callable[[str], object] = lambda line: None,
        show: Show = lambda what, left_s, block: None,
        keep: Callable[[Samples], bool] = lambda samples: True,
    ) -> None:
        self._folder, self._open, self._rate_hz, self._speaker = folder, open_microphone, rate_hz, speaker
        self._say, self._show, self._keep = say, show, keep

    def record_word(self, word: str, count: int) -> None:
        """Record a word until there are so many recordings of it. Raises DeviceError where none is good enough."""
        folder = self._folder / word
        while (n := len(_audio(folder))) < count:
            self._record(word, f"{n + 1} of {count}", _free(folder, self._speaker))

    def record_others(self, word: str, count: int) -> None:
        """Record, once each, the listed words that are spelled most like a word: what it must not be taken for."""
        for number, other in enumerate(alike(word, count), 1):
            path = self._folder / NOT / f"{self._speaker}_nohash_{other}.wav"
            if not path.exists():
                self._record(other, f"{number} of {count} that are not '{word}'", path)

    def record_room(self, duration_s: float) -> None:
        """Record the room for a while, unless that was done."""
        if duration_s <= 0 or _audio(self._folder / ROOM):
            return
        self._say(f"{duration_s:g} s of the room as it usually sounds; do not speak")
        samples = self._listen([("the room", duration_s)])[0]
        self._write(self._folder / ROOM / "room.wav", samples)

    def _record(self, word: str, which: str, path: Path) -> None:
        """Record a word as a file, again and again until a take is good and kept."""
        n_refused = 0
        while not path.exists():
            self._say(f"say '{word}' after the count-down ({which})")
            taken = judge(self._take(word), self._rate_hz)
            if isinstance(taken, Refused):
                n_refused += 1
                self._say(f"not kept, {taken.reason}")
                if n_refused == _MAX_REFUSED:
                    raise DeviceError(
                        f"'{word}': {n_refused} takes were no good; the last was not kept, {taken.reason}"
                    )
            elif self._keep(taken):
                self._write(path, taken)

    def _take(self, word: str) -> Samples:
        return self._listen([("ready", COUNT_DOWN_S), (word, TAKE_S)])[-1]

    def _listen(self, parts: list[tuple[str, float]]) -> list[Samples]:
        """Samples [T] of each of some stretches of time, one after the other. Raises DeviceError if the sound ends."""
        done: list[Samples] = []
        with self._open() as microphone:
            blocks = microphone.blocks(self._rate_hz)
            rest = np.zeros(0, dtype=np.float32)
            for what, duration_s in parts:
                wanted, got = round(duration_s * self._rate_hz), [rest]
                while (n := sum(map(len, got))) < wanted:
                    block = next(blocks, None)
                    if block is None:
                        raise DeviceError(f"{microphone.name}: ended in the middle of a take")
                    self._show(what, (wanted - n) / self._rate_hz, block)
                    got.append(block)
                samples = np.concatenate(got)
                done.append(samples[:wanted])
                rest = samples[wanted:]
        return done

    def _write(self, path: Path, samples: Samples) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            soundfile.write(part, to_int16(samples), self._rate_hz, format="WAV")
            part.replace(path)


def alike(word: str, n: int) -> list[str]:
    """So many listed words that are spelled most like this one."""
    return [other for other in difflib.get_close_matches(word, words(), n + 1, 0.0) if other != word][:n]


def _audio(folder: Path) -> list[Path]:
    try:
        return find_audio(folder) if folder.is_dir() else []
    except AudioError:
        return []


def _free(folder: Path, speaker: str) -> Path:
    """The first name of a recording by this speaker that is not taken yet."""
    names = (folder / f"{speaker}_nohash_{number}.wav" for number in itertools.count())
    return next(path for path in names if not path.exists())
