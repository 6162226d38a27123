"""The effect of each part of a training recipe: python -m pipelines.studies.ablation CONFIG RUNS [--epochs 10].

Trains the configuration whole and with one part changed at a time, all with the same seed and number of contexts, and
scores each on validation. RUNS is a folder; an interrupted run is gone on with, a finished one is read.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import msgspec

from speechrnn.cli.console import pack_audio, run_program
from speechrnn.config import Experiment, load_experiment
from speechrnn.data.clips import Pack
from speechrnn.evaluation.tables import Table, number
from speechrnn.training.loop import Progress, fit, keep_freed_memory

ROWS: dict[str, tuple[str, ...]] = {
    "the whole recipe": (),
    "without shift and placing": ("augment.shift_ms=0", "augment.placement_rate=0"),
    "without words cut off at the edges": ("augment.truncation_rate=0",),
    "without resampling": ("augment.resample=0",),
    "without rooms": ("augment.room_rate=0",),
    "without noise": ("augment.noise_rate=0",),
    "without gain": ("augment.gain_db=[0.0, 0.0]",),
    "without SpecAugment": ("augment.n_time_masks=0", "augment.n_feature_masks=0"),
    "without filters": ("augment.filter_db=0",),
    "with mixup of 30 %": ("augment.mixup_rate=0.3",),
    "without synthesised words": ("data.unknown.tts.weight=0",),
    "without running speech": ("data.unknown.speech.weight=0",),
    "without hard negatives": ("data.unknown.hard_negative.weight=0",),
    "without aligned words": ("data.unknown.aligned.weight=0",),
    "without confusables": ("data.unknown.confusable.weight=0",),
    "without channel transfer": ("data.channel_transfer_rate=0",),
    "without splices": ("data.unknown.splice.weight=0",),
    "without reversed words": ("data.unknown.reversed.weight=0",),
    "without parts of keywords": ("data.unknown.part.weight=0",),
    "recorded unknown words alone": (
        "data.unknown={fraction = 0.3, speech = {weight = 0}}",
        "augment.truncation_rate=0",
    ),
}


def train(experiment: Experiment, pack: Pack, run_dir: Path, name: str) -> dict[str, float]:
    """The scores of the last epoch of a run, which is made, gone on with, or only read."""

    def show(progress: Progress) -> None:
        if progress.step % 200 == 0:
            print(f"{name}: step {progress.step}/{progress.n_steps}, {progress.left_s:.0f} s left", flush=True)

    fit(experiment, pack, run_dir, resume=(run_dir / "last.pt").exists(), accelerator="cpu", on_progress=show)
    lines = (run_dir / "log.jsonl").read_text().splitlines()
    scores = [msgspec.json.decode(line, type=dict[str, float]) for line in lines if "balanced" in line]
    return scores[-1]


def row(name: str, scores: dict[str, float], keywords: tuple[str, ...]) -> tuple[str, ...]:
    """One line of the table, in per cent."""
    recall = sum(scores[f"validation {word}"] for word in keywords) / len(keywords)
    values = [scores["validation_balanced_accuracy"], recall]
    values += [scores.get(f"validation {kind}", math.nan) for kind in ("unknown", "new words", "silence")]
    return (name, *(number(100 * value, ".1f") for value in values))


def main() -> None:
    """Run what is not done yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--data", help="folder that the paths in [data] start from")
    arguments = parser.parse_args()
    keep_freed_memory()
    rows = []
    for name, overrides in ROWS.items():
        changes = [*overrides, f"train.epochs={arguments.epochs}"]
        experiment = load_experiment(arguments.config, changes, data_dir=arguments.data)
        scores = train(experiment, pack_audio(experiment), arguments.runs / name.replace(" ", "-"), name)
        rows.append(row(name, scores, experiment.model.labels.keywords))
        print(*rows[-1], flush=True)
    table = Table(("recipe", "balanced", "keywords", "unknown", "new words", "silence"), "<>>>>>", rows)
    print("\n".join(table.to_markdown()))


if __name__ == "__main__":
    run_program(main)
