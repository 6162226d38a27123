"""Mine hard negatives: the false alarms of a model in the running speech of the training data.

    pip install pocketsphinx
    python -m pipelines.mine_hard_negatives configs/commands10.toml runs/commands10/best.pt --data data

Adds its false alarms to the file that `data.unknown.hard_negative.list` names (hard_negatives.csv below the data
folder if it names none); those of earlier rounds stay. Training takes them as unknown words where `hard_negative` has a
weight in [data.unknown].

A detection is a false alarm only where the keyword was not spoken. A recording without a transcript is transcribed by
PocketSphinx, and the text is added to `transcripts.txt` beside the recording. An interrupted run is resumed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from pipelines.align_words import decode, open_decoder, write_list
from pipelines.inputs import open_inputs, parse_inputs
from speechrnn.audio import from_int16
from speechrnn.cli.console import run_program
from speechrnn.config import TRAINING_RATE_HZ, load_experiment
from speechrnn.data.annotations import FalseAlarm, read_hard_negatives
from speechrnn.data.clips import Pack
from speechrnn.data.lexicon import SOUND_LIKE
from speechrnn.errors import DataError
from speechrnn.evaluation.ground_truth import count_words, find_ground_truth, read_ground_truth
from speechrnn.evaluation.synthetic_streams import recordings_of
from speechrnn.recognizer import Recognizer
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

MINED = "hard_negatives.csv"
TRANSCRIPTS = "transcripts.txt"
_THRESHOLD = 0.5
_SMOOTHING_MS = 300
_NEAR_S = 0.5


def mine(recognizer: Recognizer, pack: Pack) -> list[FalseAlarm]:
    """Detections at a low threshold in the running speech of a pack that is trained on."""
    options = Options(threshold=_THRESHOLD, smoothing_ms=_SMOOTHING_MS, lag_ms=recognizer.info.options.lag_ms)
    found = []
    for clip in recordings_of(pack, "training"):
        spotter = KeywordSpotter(recognizer, options)
        detections = spotter.push(from_int16(pack.samples_of(clip))) + spotter.finish()
        found += [FalseAlarm(clip.path, round(one.end_s, 2), one.label, round(one.score, 3)) for one in detections]
    return found


def transcribe(decoder: Any, file: Path) -> str:
    """The words that PocketSphinx recognises in a recording."""
    decode(decoder, file)
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def write_pseudo_transcripts(files: list[Path]) -> None:
    """Add a line to `transcripts.txt` for each recording of which nothing is known.

    Raises DataError without PocketSphinx, and where a name has a space, which lines of transcripts cannot hold.
    """
    missing = [file for file in files if not _has_transcript(file)]
    if not missing:
        return
    spaced = [file for file in missing if len(file.stem.split()) != 1]
    if spaced:
        raise DataError(f"{spaced[0]}: expected a name without spaces, for a line of transcripts.txt; rename it")
    decoder = open_decoder(f"{missing[0]}: no transcript, and no pocketsphinx to write one")
    for number, file in enumerate(missing, 1):
        add_line(file.parent / TRANSCRIPTS, f"{file.stem} {transcribe(decoder, file)}")
        print(f"\rtranscripts: {number} of {len(missing)}", end="", flush=True)
    print()


def add_line(path: Path, line: str) -> None:
    """Append a line, on a line of its own even where the last one was cut short."""
    ends_whole = not path.exists() or path.read_text(encoding="utf-8")[-1:] in ("", "\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n" if ends_whole else f"\n{line}\n")


def _has_transcript(file: Path) -> bool:
    """Whether anything says what is spoken in a recording, be it unreadable."""
    try:
        truth = find_ground_truth(file, None)
    except DataError:
        return False
    if truth.name != TRANSCRIPTS:
        return True
    return any(line.split()[:1] == [file.stem] for line in truth.read_text(encoding="utf-8").splitlines())


def is_false(alarm: FalseAlarm, base: Path) -> bool:
    """Whether neither the keyword nor a word that sounds the same is spoken anywhere in the recording.

    Raises DataError if nothing says what is.
    """
    file = base / alarm.audio
    spoken = count_words(read_ground_truth(find_ground_truth(file, None), file.stem))
    return not any(word in spoken for word in {alarm.label.casefold()} | SOUND_LIKE.get(alarm.label, set()))


def merged(old: list[FalseAlarm], new: list[FalseAlarm]) -> list[FalseAlarm]:
    """The old ones, and the new that lie more than half a second from each of them."""
    ends: dict[str, list[float]] = {}
    for alarm in old:
        ends.setdefault(alarm.audio, []).append(alarm.end_s)
    return old + [one for one in new if all(abs(one.end_s - at) > _NEAR_S for at in ends.get(one.audio, []))]


def main() -> None:
    """Mine, add to the file, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse_inputs(parser)
    recognizer, pack = open_inputs(arguments)
    data = load_experiment(arguments.config, data_dir=arguments.data).data
    base = Path(data.dir)
    path = base / (data.unknown.hard_negative.list or MINED)
    hours = sum(clip.n_samples for clip in recordings_of(pack, "training")) / TRAINING_RATE_HZ / 3600
    old, detections = read_hard_negatives(path) if path.exists() else [], mine(recognizer, pack)
    write_pseudo_transcripts(sorted({base / alarm.audio for alarm in detections}))
    new = [alarm for alarm in detections if is_false(alarm, base)]
    alarms = merged(old, new)
    write_list(path, FalseAlarm, alarms)
    by_label = ", ".join(f"{n} {label}" for label, n in Counter(alarm.label for alarm in new).most_common())
    print(
        f"{hours:.2f} hours of running speech: {len(detections)} detections at {_THRESHOLD}, "
        f"{len(new)} false ({by_label})"
    )
    print(f"{path}: {len(alarms)} false alarms, of which {len(alarms) - len(old)} are new")


if __name__ == "__main__":
    run_program(main)
