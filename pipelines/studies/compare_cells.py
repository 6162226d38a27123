"""Train plain recurrent, LSTM and GRU cells alike and small, and draw how the gradient fades on its way back in time.

    python -m pipelines.studies.compare_cells configs/commands10.toml --data data

One layer that decides by its last state, without convolution and augmentation, so that what differs is the recurrence
alone. Runs are kept in runs/cells and gone on with, so the command can be stopped and given again. Prints a table of
accuracy and cost and draws docs/cells-gradients.png and docs/cells-losses.png; docs/cells.md discusses them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from matplotlib.figure import Figure
from numpy.typing import NDArray

from speechrnn.audio import Samples, from_int16
from speechrnn.cli.console import pack_audio, run_program
from speechrnn.config import Augment, Experiment, load_experiment
from speechrnn.data.clips import Pack
from speechrnn.data.cutting import Batch
from speechrnn.data.examples import Examples, validation_set
from speechrnn.evaluation.plots import check_picture
from speechrnn.evaluation.tables import Table, percent
from speechrnn.model.classifier import summarise
from speechrnn.model.network import RecognizerNet, load_checkpoint
from speechrnn.recognizer import load
from speechrnn.spec import Classifier
from speechrnn.training.export import export
from speechrnn.training.loop import fit
from speechrnn.training.trainer import Trainer

_CELLS = ("rnn", "lstm", "gru")
_TITLES = {"rnn": "plain (tanh)", "lstm": "LSTM", "gru": "GRU"}
_NETWORK = {"hidden_size": 64, "n_layers": 1, "pooling": "last", "conv": None}
_NEVER_CLIPPED = 1e9
_N_CONTEXTS = 512
_N_TIMED = 200
_DIMMEST_DRAWN = 1e-8

Floats = NDArray[np.float64]


class Variant(NamedTuple):
    """What differs between the runs."""

    cell: str
    bidirectional: bool = False
    clipped: bool = True

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.cell}-{2 if self.bidirectional else 1}{'' if self.clipped else '-unclipped'}"


_VARIANTS = [
    *(Variant(cell, bidirectional) for bidirectional in (False, True) for cell in _CELLS),
    *(Variant(cell, clipped=False) for cell in _CELLS),
]


class CellResult(NamedTuple):
    """What a run gave: accuracy is balanced, as `fit` gives it, gradients are by frame [N], losses by step."""

    accuracy: float
    n_parameters: int
    n_macs: int
    context_ms: float
    clipped_rate: float
    untrained: Floats
    trained: Floats
    losses: list[tuple[int, float]]


def experiment_of(base: Experiment, variant: Variant, epochs: int) -> Experiment:
    """The base's data and features with the variant's network and a short schedule."""
    classifier = msgspec.convert({"cell": variant.cell, "bidirectional": variant.bidirectional, **_NETWORK}, Classifier)
    train = msgspec.structs.replace(
        base.train,
        epochs=epochs,
        warmup_epochs=0.5,
        precision="32-true",
        clip_norm=base.train.clip_norm if variant.clipped else _NEVER_CLIPPED,
    )
    model = msgspec.structs.replace(base.model, classifier=classifier)
    return msgspec.structs.replace(base, model=model, train=train, augment=Augment())


def input_gradients(net: RecognizerNet, batch: Batch) -> Floats:
    """Norm of the gradient of the loss with respect to each frame [N], the median over contexts."""
    frames = net.frames(torch.from_numpy(from_int16(batch.samples))).requires_grad_()
    logits = net.classifier(frames)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, frames)
    return np.asarray(gradient.norm(dim=2).median(dim=0).values.numpy(), dtype=np.float64)


def spoken(batch: Batch, n_contexts: int) -> Batch:
    """Contexts that hold a word, evenly over the batch."""
    rows = np.flatnonzero(batch.word_end > batch.word_start)
    rows = rows[:: max(1, len(rows) // n_contexts)][:n_contexts]
    samples, *others = batch
    labels, starts, ends, words = (values[rows] for values in others)
    return Batch(samples[rows], labels, starts, ends, words)


def milliseconds_per_context(net: RecognizerNet, checkpoint: Path, contexts: Samples) -> float:
    """Features and network on one thread of ONNX Runtime, one context at a time; the median.

    The weights do not matter to it, and those of a plain cell may have grown until export finds the rounding too large.
    """
    target = checkpoint.with_suffix(".onnx")
    export(net, load_checkpoint(checkpoint)[1], contexts, target)
    recognizer = load(target)
    times = []
    for i in range(_N_TIMED):
        start = time.perf_counter()
        recognizer.logits(contexts[i % len(contexts)][None])
        times.append(time.perf_counter() - start)
    return float(1000 * np.median(times))


def run(base: Experiment, pack: Pack, variant: Variant, epochs: int, folder: Path) -> CellResult:
    """Train, or go on, or take what is there, and measure."""
    experiment, run_dir = experiment_of(base, variant, epochs), folder / variant.name
    untrained = Trainer(experiment, pack, Fabric(accelerator="cpu", devices=1)).averaged_net()
    accuracy = fit(experiment, pack, run_dir, resume=(run_dir / "last.pt").exists(), accelerator="cpu")
    net, _ = load_checkpoint(run_dir / "best.pt")
    batch = validation_set(Examples(pack, experiment.model, experiment.data, "validation"), ()).batch
    words = spoken(batch, _N_CONTEXTS)
    n_frames = base.model.features.n_frames(base.model.context_samples, base.model.sample_rate_hz)
    layers = summarise(net.classifier, n_frames)
    records = [msgspec.json.decode(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    return CellResult(
        accuracy,
        sum(layer.n_parameters for layer in layers),
        sum(layer.n_macs for layer in layers),
        milliseconds_per_context(untrained, run_dir / "best.pt", from_int16(words.samples[:64])),
        steps[-1]["clipped_rate"],
        input_gradients(untrained, words),
        input_gradients(net, words),
        [(record["step"], record["loss"]) for record in steps],
    )


def table(outcomes: dict[Variant, CellResult]) -> Table:
    """Accuracy and cost of each run."""
    head = ("cell", "directions", "clipping", "balanced", "parameters", "million MACs", "ms a context", "steps clipped")
    rows = [
        (
            _TITLES[variant.cell],
            "2" if variant.bidirectional else "1",
            "yes" if variant.clipped else "no",
            percent(found.accuracy),
            f"{found.n_parameters:,}",
            f"{found.n_macs / 1e6:.2f}",
            f"{found.context_ms:.2f}",
            f"{100 * found.clipped_rate:.0f} %",
            f"{_relative(found.untrained).min():.1e}",
            f"{_relative(found.trained).min():.1e}",
        )
        for variant, found in outcomes.items()
    ]
    return Table((*head, "faintest gradient, untrained", "trained"), "<><>>>>>>>", rows)


def _relative(gradients: Floats) -> Floats:
    return np.asarray(gradients / gradients.max())


def draw_gradients(outcomes: dict[Variant, CellResult], hop_s: float) -> Figure:
    """One column for each cell, one row for each number of directions."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, len(_CELLS), sharex=True, sharey=True)
    for row, bidirectional in enumerate((False, True)):
        for axis, cell in zip(axes[row], _CELLS, strict=True):
            clipped = outcomes[Variant(cell, bidirectional)]
            lines = [("untrained", clipped.untrained, "0.5"), ("trained", clipped.trained, "tab:blue")]
            if not bidirectional:
                unclipped = outcomes[Variant(cell, clipped=False)]
                lines.append(("trained, never clipped", unclipped.trained, "tab:orange"))
            for name, gradients, color in lines:
                time_s = np.arange(len(gradients)) * hop_s
                axis.plot(time_s, _relative(gradients), color=color, label=name)
            axis.set(yscale="log", ylim=(_DIMMEST_DRAWN, 2))
            axis.set_title(f"{_TITLES[cell]}, {'two directions' if bidirectional else 'one direction'}")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("gradient, relative to its largest")
    for axis in axes[1]:
        axis.set_xlabel("time of the frame (s)")
    axes[0, 0].legend(frameon=False)
    return figure


def draw_losses(outcomes: dict[Variant, CellResult]) -> Figure:
    """Training loss of each cell with one direction, with and without clipping."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, len(_CELLS), sharey=True)
    for axis, cell in zip(axes, _CELLS, strict=True):
        for clipped, color in ((True, "tab:blue"), (False, "tab:orange")):
            steps, losses = zip(*outcomes[Variant(cell, clipped=clipped)].losses, strict=True)
            axis.plot(steps, losses, color=color, label="clipped at 1" if clipped else "never clipped")
        axis.set(xlabel="step", title=_TITLES[cell])
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("training loss (nats)")
    axes[0].legend(frameon=False)
    return figure


def main() -> None:
    """Run all variants, print the table and draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", help="folder that the paths in [data] start from")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", type=Path, default=Path("runs/cells"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the pictures")
    arguments = parser.parse_args()
    gradients, losses = arguments.docs / "cells-gradients.png", arguments.docs / "cells-losses.png"
    for picture in (gradients, losses):
        check_picture(picture)
    base = load_experiment(arguments.config, data_dir=arguments.data)
    pack = pack_audio(base)
    outcomes = {}
    for variant in _VARIANTS:
        outcomes[variant] = run(base, pack, variant, arguments.epochs, arguments.runs)
        print(f"{variant.name}: {100 * outcomes[variant].accuracy:.1f} %")
    print("\n".join(table(outcomes).to_markdown()))
    hop_s = base.model.features.hop_ms / 1000
    draw_gradients(outcomes, hop_s).savefig(gradients, dpi=90)
    draw_losses(outcomes).savefig(losses, dpi=90)


if __name__ == "__main__":
    run_program(main)
