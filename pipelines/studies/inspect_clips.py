"""Look at the clips that a model is trained on, class by class: how long, how loud, and what a model takes them for.

    python -m pipelines.studies.inspect_clips configs/commands10.toml commands10 --data data --output clips

So that broken clips are found before they are trained on: words cut in two, another word, next to nothing. Writes into
the folder a picture of lengths and levels (clips.png), a list of all clips (clips.csv), in each class those first that
the model gives the least posterior, and for each class a recording of the first of them (CLASS.wav), half a second
apart, to be listened to. Classes with many clips are sampled at random. The opinion of a model that was trained on the
same clips is too kind: compare classes and look at the ends, not at the level of the rates.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import soundfile
from matplotlib.figure import Figure

from pipelines.align_words import to_csv
from pipelines.inputs import parse_inputs
from speechrnn.audio import Samples, from_int16, rms_db
from speechrnn.cli.console import pack_audio, run_program, track
from speechrnn.config import TRAINING_RATE_HZ, load_experiment
from speechrnn.data.annotations import with_lists
from speechrnn.data.clips import Clip, Pack
from speechrnn.data.examples import ClipsByClass
from speechrnn.evaluation.plots import check_picture
from speechrnn.evaluation.tables import Table, percent
from speechrnn.files import write_whole, writing
from speechrnn.labels import UNKNOWN
from speechrnn.recognizer import Recognizer, load

_MAX_PER_CLASS = 1000
_N_LISTENED = 20
_PAUSE_S = 0.5
_BLUE = "#3d85c8"


class Inspected(NamedTuple):
    """A clip, and what is noticed of it."""

    path: str
    """Its file."""
    start_s: float
    """Where in the file the word starts, in s."""
    word_s: float
    """Length of the word in it in s, by its energy."""
    level_db: float
    """Level of the word in dB of full scale."""
    peak: float
    """Largest sample of the clip, in [0, 1]."""
    label: str
    """What the model takes it for."""
    score: float
    """Posterior of the class that it is trained as."""


def classes_of(clips: ClipsByClass) -> dict[str, list[Clip]]:
    """The clips by class, those of natural voices and each source of unknown apart."""
    found = dict(clips.keywords)
    found |= {f"{name}, natural": some for name, some in clips.natural.items()}
    found |= {f"{UNKNOWN}, {source}": some for source, some in clips.unknown.items()}
    return {name: some for name, some in found.items() if some}


def label_of(name: str) -> str:
    """The label that the clips of a class of `classes_of` are trained as."""
    return name.partition(",")[0]


def context_of(clip: Clip, samples: Samples, n_context: int) -> Samples:
    """A context [T] with the middle of the word in its middle; silence where the clip does not reach."""
    first = (clip.word_start + clip.word_end - n_context) // 2
    context = np.zeros(n_context, np.float32)
    start, end = max(0, first), min(len(samples), first + n_context)
    context[start - first : end - first] = samples[start:end]
    return context


def inspect(
    clips: list[Clip], label: str, pack: Pack, offsets: dict[str, int], recognizer: Recognizer
) -> list[tuple[Inspected, Clip]]:
    """What is noticed of clips that are trained as one class, the most doubtful first.

    `offsets` are the first samples of the files in the pack.
    """
    index, n_context = recognizer.labels.index(label), recognizer.info.spec.context_samples
    audio = [from_int16(pack.samples_of(clip)) for clip in clips]
    contexts = [context_of(clip, samples, n_context) for clip, samples in zip(clips, audio, strict=True)]
    rows = []
    for clip, samples, row in zip(clips, audio, recognizer.classify_all(contexts), strict=True):
        word = samples[clip.word_start : clip.word_end]
        start_s = (clip.offset + clip.word_start - offsets[clip.path]) / TRAINING_RATE_HZ
        level_db, peak = rms_db(word), float(np.abs(samples).max(initial=0))
        opinion = recognizer.labels[int(row.argmax())], float(row[index])
        one = Inspected(clip.path, start_s, len(word) / TRAINING_RATE_HZ, level_db, peak, *opinion)
        rows.append((one, clip))
    return sorted(rows, key=lambda row: row[0].score)


def to_listen(clips: list[Clip], pack: Pack) -> Samples:
    """The words of clips [T], each with a pause after it."""
    pause = np.zeros(round(_PAUSE_S * TRAINING_RATE_HZ), np.float32)
    words = [from_int16(pack.samples_of(clip))[clip.word_start : clip.word_end] for clip in clips]
    return np.concatenate([part for word in words for part in (word, pause)])


def draw(found: dict[str, list[Inspected]]) -> Figure:
    """Lengths and levels of the words of each class: median, middle half, and the middle nine tenths."""
    names = list(found)[::-1]
    figure = Figure(figsize=(9, 1 + 0.26 * len(names)), layout="constrained")
    lengths, levels = figure.subplots(1, 2, sharey=True)
    for axis, values, title in (
        (lengths, [[one.word_s for one in found[name]] for name in names], "length of the word (s)"),
        (levels, [[one.level_db for one in found[name]] for name in names], "level of the word (dB of full scale)"),
    ):
        axis.boxplot(
            values,
            orientation="horizontal",
            manage_ticks=False,  # both share them
            whis=(5, 95),
            showfliers=False,
            medianprops={"color": _BLUE, "linewidth": 2},
        )
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
    lengths.set_yticks(range(1, len(names) + 1), names)
    lengths.set_ylim(0.5, len(names) + 0.5)
    lengths.set_xscale("log")  # running speech is ten times as long as a word
    lengths.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10])
    lengths.xaxis.set_major_formatter("{x:g}")
    lengths.minorticks_off()
    return figure


def to_table(found: dict[str, list[Inspected]]) -> Table:
    """Medians of each class, and how much of it the model takes for what it is trained as."""
    rows = [
        (
            name,
            f"{len(some):,}",
            f"{np.median([one.word_s for one in some]):.2f}",
            f"{np.median([one.level_db for one in some]):.0f}",
            percent(float(np.mean([one.peak >= 1 - 2**-14 for one in some]))),
            percent(float(np.mean([one.label == label_of(name) for one in some]))),
        )
        for name, some in found.items()
    ]
    return Table(("class", "clips", "length s", "level dB", "at full scale", "taken for it"), "<>>>>>", rows)


def to_list(found: dict[str, list[Inspected]]) -> str:
    """All clips as lines of CSV, by class and doubt."""
    rows = [
        (name, one.path, f"{one.start_s:.2f}", f"{one.word_s:.2f}", f"{one.level_db:.1f}", f"{one.peak:.3f}", *one[-2:])
        for name, some in found.items()
        for one in some
    ]
    return to_csv([("class", *Inspected._fields), *rows])


def main() -> None:
    """Inspect, write the folder, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("clips"), help="folder of what is found")
    parser.add_argument("--max-per-class", type=int, default=_MAX_PER_CLASS, metavar="N", help="clips looked at")
    arguments = parse_inputs(parser)
    picture = arguments.output / "clips.png"
    check_picture(picture)
    recognizer = load(arguments.model)
    spec, experiment = recognizer.info.spec, load_experiment(arguments.config, data_dir=arguments.data)
    data = experiment.data
    whole = pack_audio(msgspec.structs.replace(experiment, data=data.without_lists()))
    offsets = {clip.path: clip.offset for clip in whole.clips}
    pack = with_lists(whole, data, experiment.model.labels.keywords)
    random, found = np.random.default_rng(0), dict[str, list[Inspected]]()
    classes = classes_of(ClipsByClass(pack, spec, data, "training"))
    for name, clips in track(classes.items(), len(classes), "inspecting"):
        n = min(len(clips), arguments.max_per_class)
        chosen = [clips[i] for i in random.choice(len(clips), n, replace=False)]
        inspected = inspect(chosen, label_of(name), pack, offsets, recognizer)
        found[name] = [one for one, _ in inspected]
        doubtful = to_listen([clip for _, clip in inspected[:_N_LISTENED]], pack)
        file = arguments.output / f"{name.replace(', ', '-')}.wav"
        with writing(file):
            soundfile.write(file, doubtful, TRAINING_RATE_HZ, subtype="PCM_16")
    with writing(picture):
        draw(found).savefig(picture, dpi=150)
    write_whole(arguments.output / "clips.csv", to_list(found))
    print("\n".join(to_table(found).to_lines()))


if __name__ == "__main__":
    run_program(main)
