"""Make a long test recording of labelled clips, with what is spoken in it, for `speechrnn score`.

    python -m pipelines.make_stream stream.wav --preset tensorflow --config configs/commands10.toml --data data
    python -m pipelines.make_stream stream.wav --preset mlperf --keywords yes,no --clips words --noise noise --seed 2

Words are the validation split of a configuration, whose running speech and unseen noise serve, too, or folders. Writes
the recording and, beside it, its truth as Audacity labels (stream.labels.txt).
The recipes are in speechrnn/evaluation/synthetic_streams.py.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import soundfile

from speechrnn.audio import Samples, to_int16
from speechrnn.cli.console import pack_audio, run_program
from speechrnn.config import TRAINING_RATE_HZ, load_experiment
from speechrnn.errors import ConfigError, DataError
from speechrnn.evaluation.ground_truth import Word
from speechrnn.evaluation.synthetic_streams import PRESETS, Material, Recipe, make_stream, of_folders, of_pack, words_of
from speechrnn.files import check_place, write_whole, writing
from speechrnn.folders import find_audio


def write(target: Path, stream: Samples, words: list[Word]) -> Path:
    """Write a stream [T] as 16-bit audio and its words as labels beside it; the path of these."""
    labels = target.with_suffix(".labels.txt")
    with writing(target):
        soundfile.write(target, to_int16(stream), TRAINING_RATE_HZ)
    write_whole(labels, "".join(f"{word.start_s:.3f}\t{word.end_s:.3f}\t{word.label}\n" for word in words))
    return labels


def check_target(target: Path) -> None:
    """Raise ConfigError or OutputError now, rather than after the work, if no audio can be written there."""
    if not soundfile.check_format(target.suffix[1:].upper()):
        raise ConfigError(f"{target}: expected the name of an audio file, such as stream.wav")
    check_place(target)


def read_recipe(preset: str, minutes: float | None) -> Recipe:
    """A preset, of another length where one is given. Raises ConfigError if no word has a place in it."""
    recipe = PRESETS[preset]
    if minutes is None:
        return recipe
    recipe = recipe._replace(duration_s=60 * minutes)
    if not 0 < minutes < math.inf or not any(words_of(recipe).values()):
        raise ConfigError(
            f"--minutes {minutes:g}: expected enough for a word; {preset} has slots of {recipe.slot_s:g} s"
        )
    return recipe


def open_material(arguments: argparse.Namespace) -> Material:
    """What the command line names. Raises ConfigError unless it names either a configuration, or clips and keywords."""
    if (arguments.config is None) == (arguments.clips is None):
        raise ConfigError("expected words from either --config CONFIG or --clips FOLDER")
    if arguments.config is None:
        return open_folders(arguments)
    if arguments.noise or arguments.speech or arguments.keywords:
        raise ConfigError("--noise, --speech and --keywords belong to --clips; a configuration has its own")
    experiment = load_experiment(arguments.config, data_dir=arguments.data)
    return of_pack(pack_audio(experiment), experiment.model.labels.keywords)


def open_folders(arguments: argparse.Namespace) -> Material:
    """What folders hold. Raises ConfigError without keywords, DataError if a folder or the clips of one are missing."""
    keywords = list(filter(None, map(str.strip, (arguments.keywords or "").split(","))))
    if not keywords:
        raise ConfigError("--clips: expected --keywords WORD,WORD to tell keywords from other words")
    for option in "clips", "noise", "speech":
        folder = getattr(arguments, option)
        if folder is not None and not folder.is_dir():
            raise DataError(f"{folder}: expected a folder of audio; correct --{option}")
    words = {file.parent.name for file in find_audio(arguments.clips)}
    lacking = [keyword for keyword in keywords if keyword not in words]
    if lacking:
        raise DataError(f"{arguments.clips}: has no clips of {', '.join(lacking)}; correct --keywords")
    return of_folders(keywords, arguments.clips, arguments.noise, arguments.speech)


def main() -> None:
    """Make and write the stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="the recording to write, such as stream.wav")
    parser.add_argument("--preset", choices=PRESETS, default="mixed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="another length than that of the preset")
    parser.add_argument("--config", type=Path, help="take words, speech and noise from its data")
    parser.add_argument("--data", help="folder that the paths in [data] start from")
    parser.add_argument("--clips", type=Path, help="words laid out as LABEL/*.wav")
    parser.add_argument("--keywords", help="labels that are keywords, such as yes,no")
    parser.add_argument("--noise", type=Path, help="folder of noise recordings")
    parser.add_argument("--speech", type=Path, help="folder of running speech; transcripts.txt tells what is said")
    arguments = parser.parse_args()
    check_target(arguments.target)
    recipe = read_recipe(arguments.preset, arguments.minutes)
    if arguments.seed < 0:
        raise ConfigError(f"--seed {arguments.seed}: expected a number of at least 0")
    stream, words = make_stream(open_material(arguments), recipe, arguments.seed)
    labels = write(arguments.target, stream, words)
    print(f"{arguments.target}: {len(words)} words in {len(stream) / TRAINING_RATE_HZ / 60:.1f} minutes; see {labels}")


if __name__ == "__main__":
    run_program(main)
