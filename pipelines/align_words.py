"""List the words in the running speech of the training data, so that training can cut single ones from it.

    pip install pocketsphinx
    python -m pipelines.align_words configs/commands10.toml --data data

Where `transcripts.txt` beside a recording says what is spoken, PocketSphinx aligns that text by force; elsewhere it
recognises what is said and when. The list is the file that `data.unknown.aligned.list` names
(aligned_words.csv below the data folder if it names none); it is there once all recordings are done, and an interrupted
run is resumed.
`prepare` leaves out what must not be trained on: keywords, words held out, what sounds like either.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechrnn.audio import to_int16
from speechrnn.cli.console import run_program, track
from speechrnn.config import TRAINING_RATE_HZ, load_experiment
from speechrnn.data.annotations import AlignedWord, FalseAlarm, read_aligned_words
from speechrnn.data.clips import alone_in
from speechrnn.data.pack import find_sources
from speechrnn.decoding import read
from speechrnn.errors import AudioError, DataError
from speechrnn.files import write_whole

ALIGNED = "aligned_words.csv"
TRANSCRIPTS = "transcripts.txt"
_FRAMES_PER_S = 100
_TELL_EVERY = 50
_NEEDED = "pocketsphinx: not found, and nothing else tells where words begin"


def open_decoder(why: str, **settings: Any) -> Any:
    """PocketSphinx with its own English. Raises DataError, saying why it is needed, if it is not installed."""
    try:
        from pocketsphinx import Decoder
    except ModuleNotFoundError:
        raise DataError(f"{why}; install it") from None
    return Decoder(samprate=TRAINING_RATE_HZ, loglevel="FATAL", **settings)


def decode(decoder: Any, file: Path) -> None:
    """Decode a whole recording; the decoder then has the words and their times. Raises AudioError."""
    samples = to_int16(read(file, TRAINING_RATE_HZ))
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()


def to_csv(rows: Sequence[Sequence[object]]) -> str:
    """Rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_list(
    path: Path, kind: type[AlignedWord] | type[FalseAlarm], rows: Sequence[AlignedWord | FalseAlarm]
) -> None:
    """Write a list with its header anew, whole or not at all. Raises OutputError."""
    write_whole(path, to_csv([kind._fields, *rows]))


class Aligner:
    """PocketSphinx in its two uses; the one that recognises is opened when a recording without transcript needs it."""

    def __init__(self) -> None:
        self._known = open_decoder(_NEEDED, lm=None)
        self._free: Any = None
        self._transcripts: dict[Path, dict[str, str]] = {}

    def text_of(self, file: Path) -> str:
        """What is spoken in a recording, in words that PocketSphinx can pronounce; empty where nothing says so."""
        if file.parent not in self._transcripts:
            path = file.parent / TRANSCRIPTS
            self._transcripts[file.parent] = read_transcripts(path) if path.exists() else {}
        text = normalised(self._transcripts[file.parent].get(file.stem, ""))
        return text if all(self._known.lookup_word(word) for word in text.split()) else ""

    def segments(self, file: Path) -> list[tuple[str, int, int]]:
        """Words of a recording with their first and last frame. Raises AudioError if it cannot be read."""
        text = self.text_of(file)
        if text:
            self._known.set_align_text(text)
            return _decoded(self._known, file)
        self._free = self._free or open_decoder(
            _NEEDED, fwdflat=False, bestpath=False, beam=1e-40, pbeam=1e-40, wbeam=1e-20
        )
        return _decoded(self._free, file)


def _decoded(decoder: Any, file: Path) -> list[tuple[str, int, int]]:
    decode(decoder, file)
    return [(one.word, one.start_frame, one.end_frame) for one in decoder.seg() or []]


def read_transcripts(path: Path) -> dict[str, str]:
    """What a `transcripts.txt` has for each recording, by name without suffix."""
    lines = (line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: text for name, _, text in lines}


def normalised(text: str) -> str:
    """A text as the pronouncing dictionary spells it: small letters and apostrophes within words."""
    return " ".join(re.findall("[a-z]+(?:'[a-z]+)?", text.casefold()))


def find_words(aligner: Aligner, file: Path, name: str) -> list[AlignedWord]:
    """The words of a recording, which the list calls `name`; none if it cannot be read."""
    try:
        return words_of(name, aligner.segments(file))
    except AudioError as error:
        print(f"left out: {error}", flush=True)
        return []


def words_of(name: str, segments: list[tuple[str, int, int]]) -> list[AlignedWord]:
    """The words that PocketSphinx recognises: no pauses, no noises, no numbers of pronunciations, as in "the(2)"."""
    return [
        AlignedWord(name, start / _FRAMES_PER_S, (end + 1) / _FRAMES_PER_S, word.partition("(")[0])
        for word, start, end in segments
        if re.match("[a-z]", word)
    ]


def read_done(path: Path, part: Path, recordings: list[str]) -> list[AlignedWord]:
    """What is known of these recordings, by a list or by one that is being made.

    Of the latter the last recording is left out, which may be incomplete; a line that was cut short is taken off it.
    """
    words = read_aligned_words(path) if path.exists() else []
    if part.exists():
        with part.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        begun, known = read_aligned_words(part), {word.audio for word in words}
        words += [word for word in begun if word.audio not in {begun[-1].audio, *known}]
    wanted = set(recordings)
    return [word for word in words if word.audio in wanted]


def make_list(path: Path, aligner: Aligner, base: Path, recordings: list[str]) -> None:
    """Align those recordings that are not in the list yet, and write the list when it is complete."""
    part = path.with_name(path.name + ".part")
    done = read_done(path, part, recordings)
    write_list(part, AlignedWord, done)
    known = {word.audio for word in done}
    missing = [name for name in recordings if name not in known]
    with part.open("a", encoding="utf-8") as file:
        for number, name in enumerate(track(missing, len(missing), "aligning"), 1):
            file.write(to_csv(find_words(aligner, base / name, name)))
            file.flush()
            if number % _TELL_EVERY == 0:
                print(f"{number} of {len(missing)} recordings", flush=True)
    part.replace(path)


def main() -> None:
    """Align all running speech, and list its words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="the experiment whose running speech is aligned")
    parser.add_argument("--data", help="where its data lies, in place of data.dir")
    arguments = parser.parse_args()
    data = load_experiment(arguments.config, data_dir=arguments.data).data
    path = Path(data.dir) / (data.unknown.aligned.list or ALIGNED)
    recordings = [clip.path for clip in find_sources(data) if clip.kind == "speech"]
    if not recordings:
        raise DataError(f"{arguments.config}: names no running speech; set data.speech")
    with alone_in(path.parent):
        make_list(path, Aligner(), Path(data.dir), recordings)
    words = read_aligned_words(path)
    n_different = len({word.label for word in words})
    print(f"{path}: {len(words)} words, {n_different} different, in {len(recordings)} recordings")


if __name__ == "__main__":
    run_program(main)
