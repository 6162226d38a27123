"""Measure speed, each figure as a ratio within this run: python -m pipelines.benchmarks.speed.

Needs the train extra and no data: the audio is made, for the cost does not depend on what it says. Run it on an idle
machine; the figures that were measured are in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from lightning_fabric import Fabric

from pipelines.benchmarks.ratios import CLI, Row, to_table
from speechrnn.cli.console import run_program
from speechrnn.config import Experiment, load_experiment
from speechrnn.data.clips import Clip, ClipKind, Pack, Source, Split
from speechrnn.model.network import RecognizerNet, save_checkpoint
from speechrnn.recognizer import load
from speechrnn.spec import DEFAULT_MODEL, ModelInfo
from speechrnn.training.export import export
from speechrnn.training.loop import keep_freed_memory
from speechrnn.training.trainer import Trainer

_N_STEPS = 15
_N_RUNS = 200
_PEAK = "import sys; print(next(x for x in open('/proc/self/status') if 'VmHWM' in x), file=sys.stderr)"


def _mean_s(function: Callable[[], object], n: int) -> float:
    """Mean time of `n` calls, after two that are not counted."""
    function(), function()
    start = time.perf_counter()
    for _ in range(n):
        function()
    return (time.perf_counter() - start) / n


def made_pack(experiment: Experiment) -> Pack:
    """A pack of noise in memory: 40 clips of a second of each keyword and other words, a minute of noise, 3 rooms."""
    random = np.random.default_rng(0)
    words = [*experiment.model.labels.keywords, "other"]
    recordings: list[tuple[ClipKind, Split, str, int]] = []
    for word in words:
        recordings += [("command", "training" if take < 36 else "validation", word, 16000) for take in range(40)]
    recordings.append(("noise", "training", "noise", 960000))
    recordings += [("room", "training", "room", 16000) for _ in range(3)]
    n_samples = sum(size for *_, size in recordings)
    samples = (random.standard_normal(n_samples) * 3000).astype(np.int16)
    clips, offset = [], 0
    for number, (kind, split, word, size) in enumerate(recordings):
        extent = (4000, 12000) if kind == "command" else (0, 0)
        clips.append(Clip(Source(f"{number}.wav", 2 * size, 0, kind, split, word), offset, size, *extent))
        offset += size
    return Pack(clips, samples, [])


def training_rows(experiment: Experiment) -> list[Row]:
    """The part of data, augmentation and features in the time of a training step, on all cores."""
    keep_freed_memory()
    fabric = Fabric(accelerator="cpu", devices=1, precision=experiment.train.precision)
    trainer = Trainer(experiment, made_pack(experiment), fabric)
    size = experiment.train.batch_size
    plan = trainer.batches.plan(0)
    plan = (plan * (1 + size // len(plan)))[:size]

    def prepare() -> tuple[torch.Tensor, torch.Tensor]:
        return trainer.inputs(trainer.augmented(trainer.batches.cut(plan, trainer.step)))

    frames, targets = prepare()

    def forward_and_backward() -> None:
        trainer.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(trainer.classifier(frames).float(), targets)
        trainer.fabric.backward(loss)

    bare_s = _mean_s(forward_and_backward, _N_STEPS)
    step_s = _mean_s(lambda: trainer.train_step(trainer.batches.cut(plan, trainer.step)), _N_STEPS)
    prepare_s = _mean_s(prepare, _N_STEPS)
    return [
        Row(
            "data, augmentation and features",
            f"{1000 * prepare_s:.0f} ms",
            f"training step of {size}: {1000 * step_s:.0f} ms",
            f"{100 * prepare_s / step_s:.0f} %",
            "at most 30 %",
        ),
        Row(
            "training with all augmentation",
            f"{size / step_s:.0f} utterances/s",
            f"forward and backward alone: {size / bare_s:.0f} utterances/s",
            f"{100 * bare_s / step_s:.0f} %",
            "at least 75 %",
        ),
    ]


def inference_row(onnx: Path, checkpoint: Path, context: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Row:
    """Time of one context, one thread, ONNX Runtime against torch."""
    n_threads = torch.get_num_threads()
    by_onnx, by_torch = load(onnx), load(checkpoint)
    torch.set_num_threads(1)
    onnx_s = _mean_s(lambda: by_onnx.logits(context), _N_RUNS)
    torch_s = _mean_s(lambda: by_torch.logits(context), _N_RUNS)
    torch.set_num_threads(n_threads)
    return Row(
        "one context of 1 s, ONNX Runtime, one thread",
        f"{1000 * onnx_s:.2f} ms",
        f"torch: {1000 * torch_s:.2f} ms",
        f"{torch_s / onnx_s:.1f} times faster",
        "faster",
    )


def classify_row(onnx: Path, checkpoint: Path, clip: Path) -> Row:
    """`speechrnn classify` on one clip, a new process each time, through ONNX Runtime and through torch."""

    def run(model: Path) -> None:
        command = [sys.executable, "-c", CLI, "classify", str(clip), "--model", str(model)]
        subprocess.run(command, check=True, capture_output=True)

    onnx_s, torch_s = _mean_s(lambda: run(onnx), 5), _mean_s(lambda: run(checkpoint), 3)
    return Row(
        "`classify` on one clip, whole process",
        f"{onnx_s:.2f} s",
        f"through torch: {torch_s:.2f} s",
        f"{torch_s / onnx_s:.1f} times faster",
        "under 0.7 s, at least 4 times faster",
    )


def transcribe_row(model: str, folder: Path, minutes: float) -> Row:
    """`speechrnn transcribe` on a long file at the model's ten decisions a second, on one core."""
    random = np.random.default_rng(0)
    path = folder / "long.wav"
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
        for _ in range(round(minutes * 60)):
            file.write(random.standard_normal(16000) * 0.05)
    arguments = ["transcribe", str(path), "--model", model, "--format", "json"]
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}}); {CLI}; {_PEAK}", *arguments]
    start = time.perf_counter()
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    elapsed_s = time.perf_counter() - start
    peak_mb = int(result.stderr.split()[-2]) / 1000
    return Row(
        f"`transcribe` of {minutes:g} minutes, one core",
        f"{elapsed_s:.1f} s, {peak_mb:.0f} MB",
        f"audio: {60 * minutes:.0f} s",
        f"real-time factor {elapsed_s / (60 * minutes):.4f}",
        "at most 0.02, under 200 MB",
    )


def listen_rows(model: str, folder: Path, seconds: int = 60) -> list[Row]:
    """`speechrnn listen` in real time: fraction of a core, memory, and the time until it listens."""
    path = folder / "live.wav"
    soundfile.write(path, np.random.default_rng(0).standard_normal(16000 * (seconds + 1)) * 0.05, 16000)
    arguments = ["listen", "--source", str(path), "--realtime", "--duration", str(seconds), "--model", model]
    command = [sys.executable, "-c", f"{CLI}; {_PEAK}", *arguments]
    before = os.times()
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        ready_s = time.perf_counter() - start
        peak_mb = int(process.stderr.read().split()[-2]) / 1000
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return [
        Row(
            "`listen`, ten decisions a second",
            f"{cpu_s:.2f} s of one core, {peak_mb:.0f} MB",
            f"audio: {seconds} s",
            f"{100 * cpu_s / seconds:.1f} % of one core, start-up included",
            "at most 3 %, 150 MB",
        ),
        Row("start of `listen` until it listens", f"{ready_s:.2f} s", "", "", "under 1 s"),
    ]


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/commands10.toml"))
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the model that transcribes")
    parser.add_argument("--minutes", type=float, default=10, help="length of the audio to transcribe")
    arguments = parser.parse_args()
    experiment = load_experiment(arguments.config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net, info = RecognizerNet(experiment.model).eval(), ModelInfo(spec=experiment.model)
        random = np.random.default_rng(0)
        contexts = (random.standard_normal((4, info.spec.context_samples)) * 0.05).astype(np.float32)
        onnx, checkpoint, clip = folder / "model.onnx", folder / "model.pt", folder / "clip.wav"
        save_checkpoint(checkpoint, net, info)
        export(net, info, contexts, onnx)
        soundfile.write(clip, contexts[0], info.spec.sample_rate_hz)
        rows = [
            *training_rows(experiment),
            inference_row(onnx, checkpoint, contexts[:1]),
            classify_row(onnx, checkpoint, clip),
            transcribe_row(arguments.model, folder, arguments.minutes),
            *listen_rows(arguments.model, folder),
        ]
    print("\n".join(to_table(rows).to_markdown()))


if __name__ == "__main__":
    run_program(main)
