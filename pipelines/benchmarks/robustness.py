"""Measure misses against the level of speech and against noise, and draw them.

    python -m pipelines.benchmarks.robustness configs/commands10.toml commands10 --data data --picture docs/levels.png

Streams of validation words, a word every 3 s, are pushed through the spotter that ships: with all words brought to one
level, in decibels of full scale over the frames that hold speech, and without noise; then at the level at which they
were recorded, with noise that training did not have at a ratio to each word. Above -15 dB the peaks of speech are
clipped, as a recording would be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

from pipelines.inputs import open_inputs, parse_inputs
from speechrnn.cli.console import run_program
from speechrnn.evaluation.plots import check_picture
from speechrnn.evaluation.streams import Score, score, spot_with_truth
from speechrnn.evaluation.synthetic_streams import Material, Recipe, make_stream, of_pack
from speechrnn.evaluation.tables import Table, number, percent
from speechrnn.recognizer import Recognizer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LEVELS_DB = (-45.0, -40.0, -35.0, -30.0, -25.0, -20.0, -15.0, -10.0, -5.0)
SNRS_DB = (30.0, 20.0, 15.0, 10.0, 5.0, 0.0, -5.0)
_CHOICE = "as set"


class Condition(NamedTuple):
    """What is found at one level, or in noise at one ratio."""

    what: str
    db: float
    result: Score


def measure(recognizer: Recognizer, material: Material, recipe: Recipe, seeds: Sequence[int]) -> Score:
    """What the spotter finds in streams of a recipe."""
    scored = []
    for seed in seeds:
        stream, words = make_stream(material, recipe, seed)
        choices = {_CHOICE: recognizer.info.options}
        scored.append(spot_with_truth(recognizer, [stream], words, choices, str(seed)).scored(_CHOICE))
    return score(scored, recognizer.info.spec.labels.keywords)


def measure_all(recognizer: Recognizer, material: Material, minutes: float, seeds: Sequence[int]) -> list[Condition]:
    """Every level, then every ratio to noise that there is material for."""
    plain = Recipe(duration_s=60 * minutes)
    recipes = [("level", db, plain._replace(level_db=db)) for db in LEVELS_DB]
    if material.noise:
        recipes += [("speech over noise", db, plain._replace(snr_db=(db, db))) for db in SNRS_DB]
    return [Condition(what, db, measure(recognizer, material, recipe, seeds)) for what, db, recipe in recipes]


def to_table(conditions: Sequence[Condition]) -> Table:
    """A row for each condition."""
    rows = [
        (
            what,
            f"{db:g}",
            percent(result.miss_rate),
            percent(result.wrong_rate),
            number(result.false_alarms_per_hour, ".0f"),
            number(result.delay_p95_ms, ".0f"),
        )
        for what, db, result in conditions
    ]
    return Table(("", "dB", "missed", "wrong", "false alarms/h", "delay p95 ms"), "<>>>>>", rows)


def draw(conditions: Sequence[Condition], target: Path) -> None:
    """Draw misses and wrong words over level, and over noise where it was measured."""
    names = {"level": "level of speech (dB of full scale)", "speech over noise": "speech over noise (dB)"}
    panels = {title: [c for c in conditions if c.what == what] for what, title in names.items()}
    panels = {title: some for title, some in panels.items() if some}
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 4.2 * len(panels), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, some) in zip(axes[0], panels.items(), strict=True):
        for label, values in {
            "missed": [100 * c.result.miss_rate for c in some],
            "wrong": [100 * c.result.wrong_rate for c in some],
        }.items():
            axis.plot([c.db for c in some], values, "o-", label=label)
        axis.set(xlabel=title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set(ylabel="% of keywords", ylim=(0, None))  # once all is drawn, for the axes share it
    axes[0][0].legend(frameon=False)
    figure.savefig(target, dpi=100)
    plt.close(figure)


def main() -> None:
    """Print the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="file to draw the same into")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of each stream")
    parser.add_argument("--seeds", type=int, default=1, help="streams for each condition")
    arguments = parse_inputs(parser)
    if arguments.picture:
        check_picture(arguments.picture)
    recognizer, pack = open_inputs(arguments)
    material = of_pack(pack, recognizer.info.spec.labels.keywords)
    conditions = measure_all(recognizer, material, arguments.minutes, range(1, arguments.seeds + 1))
    print("\n".join(to_table(conditions).to_markdown()))
    if arguments.picture:
        draw(conditions, arguments.picture)


if __name__ == "__main__":
    run_program(main)
