"""List every word in the running speech of the training data, so that training can cut single words from it.

    pip install pocketsphinx
    python -m pipelines.cut_words configs/commands8.toml --data data

PocketSphinx guesses what is said and when. The list is the file that `data.cut` names (cut.csv below the data folder if
it names none). Interrupted, it goes on there. Which of the words are trained on, `prepare` decides: no keyword and no
word that is held out.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path
from typing import Any, TextIO

from speechrnn.audio import read, to_int16
from speechrnn.cli import run_program, track
from speechrnn.config import TRAINING_RATE_HZ, load_experiment
from speechrnn.dataset import CutWord, find_sources, read_cut_words
from speechrnn.errors import DataError

CUT = "cut.csv"
_FRAMES_PER_S = 100


def find_words(decoder: Any, file: Path, name: str) -> list[CutWord]:
    """The words that PocketSphinx hears in a recording, which the list calls `name`."""
    decoder.start_utt()
    decoder.process_raw(to_int16(read(file, TRAINING_RATE_HZ)).tobytes(), full_utt=True)
    decoder.end_utt()
    segments = decoder.seg() or []
    return words_of(name, [(one.word, one.start_frame, one.end_frame) for one in segments])


def words_of(name: str, segments: list[tuple[str, int, int]]) -> list[CutWord]:
    """Of what PocketSphinx hears, the words: no pauses, no noises, and no numbers of pronunciations, as in "the(2)"."""
    return [
        CutWord(name, start / _FRAMES_PER_S, (end + 1) / _FRAMES_PER_S, word.partition("(")[0])
        for word, start, end in segments
        if re.match("[a-z]", word)
    ]


def begin(path: Path) -> set[str]:
    """Make the list anew, or without its last recording, which may be incomplete. Returns those that are in it."""
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")
        path.write_bytes(b"".join(whole[:2]))
    words = read_cut_words(path) if path.exists() and path.stat().st_size else []
    complete = [word for word in words if word.audio != words[-1].audio]
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(CutWord._fields)
        add(file, complete)
    part.replace(path)
    return {word.audio for word in complete}


def add(file: TextIO, words: list[CutWord]) -> None:
    """Append words to an open list, at once."""
    csv.writer(file).writerows(words)
    file.flush()


def main() -> None:
    """Listen to all running speech, and list its words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="the experiment whose running speech is listened to")
    parser.add_argument("--data", help="where its data lies, in place of data.dir")
    arguments = parser.parse_args()
    data = load_experiment(arguments.config, data_dir=arguments.data).data
    path = Path(data.dir) / (data.cut or CUT)
    recordings = [clip.path for clip in find_sources(data) if clip.kind == "speech"]
    if not recordings:
        raise DataError(f"{arguments.config}: names no running speech; set data.speech")
    try:
        from pocketsphinx import Decoder
    except ModuleNotFoundError:
        raise DataError("pocketsphinx: not found, and nothing else tells where words begin; install it") from None
    decoder = Decoder(samprate=TRAINING_RATE_HZ, loglevel="FATAL")
    done = begin(path)
    with path.open("a", encoding="utf-8", newline="") as file:
        for name in track(recordings, len(recordings), "cutting"):
            if name not in done:
                add(file, find_words(decoder, Path(data.dir) / name, name))
    words = read_cut_words(path)
    n_different = len({word.label for word in words})
    print(f"{path}: {len(words)} words, {n_different} different, in {len(recordings)} recordings")


if __name__ == "__main__":
    run_program(main)
