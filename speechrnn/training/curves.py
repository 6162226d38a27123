"""The training curves of a run, from its log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = "curves.png"


def draw_curves(records: list[dict[str, float]]) -> Figure:
    """Loss, validation accuracy and learning rate over the steps of the records of a log.jsonl."""
    from matplotlib.figure import Figure

    steps = [record for record in records if "loss" in record]
    scores = [record for record in records if "validation_accuracy" in record]
    figure = Figure(figsize=(8, 8), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    at_steps, at_scores = [record["step"] for record in steps], [record["step"] for record in scores]
    top.plot(at_steps, [r["loss"] for r in steps], color="tab:blue", lw=1, label="training, augmented")
    top.plot(at_scores, [r["validation_loss"] for r in scores], color="tab:orange", label="validation")
    top.set(ylabel="cross-entropy (nats)")
    top.legend(frameon=False)
    middle.plot(at_scores, [100 * r["validation_balanced_accuracy"] for r in scores], color="tab:orange")
    middle.set(ylabel="balanced validation accuracy (%)")
    bottom.plot(at_steps, [r["learning_rate"] for r in steps], color="tab:green")
    bottom.set(ylabel="learning rate", xlabel="step", ylim=(0, None))
    for axis in (top, middle, bottom):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def plot_run(run_dir: Path) -> None:
    """Draw the training curves of a run folder into its curves.png."""
    records = [msgspec.json.decode(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    draw_curves(records).savefig(run_dir / CURVES, dpi=100)
