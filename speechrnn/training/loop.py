"""The training loop: an experiment and a pack of audio to a run folder of checkpoints, log and training curves."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import tomli_w
import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

import speechrnn
from speechrnn.config import Experiment, to_tree
from speechrnn.data.clips import Pack
from speechrnn.data.examples import Examples, Validation, validation_set
from speechrnn.errors import ConfigError, first_line
from speechrnn.files import write_whole, writing
from speechrnn.model.network import RecognizerNet, load_plain, save_checkpoint
from speechrnn.spec import ModelInfo, Provenance
from speechrnn.training.batches import prefetch_batches
from speechrnn.training.calibration import build_in
from speechrnn.training.curves import plot_run
from speechrnn.training.trainer import Trainer, diverged, restore, save
from speechrnn.training.validation import ValidationScores, validate

LAST, BEST = "last.pt", "best.pt"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_SAVE_EVERY_S = 60.0
_LOG_EVERY_STEPS = 20
_MAX_LOADER_WORKERS = 4  # processes; each cuts some 8,000 contexts a second of configs/commands10.toml


def keep_freed_memory() -> None:
    """Let glibc keep for the next step what tensors give back; elsewhere nothing is done.

    Getting the LSTM's 48 MB of workspace from the system anew took an eighth of every step on a CPU. This is a setting
    of the whole process, so a program makes it, and importing does not.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class Progress(NamedTuple):
    """Where a run stands, for whoever shows it."""

    epoch: int
    """Number of the epoch, from 1."""
    n_epochs: int
    """Epochs of the run."""
    step: int
    """Optimiser steps done."""
    n_steps: int
    """Steps of the run."""
    loss: float
    """Mean training loss."""
    accuracy: float
    """Validation accuracy in [0, 1] of the last epoch; 0 before the first."""
    utterances_per_s: float
    """Contexts a second."""
    left_s: float
    """Time to the end of the run in s."""


class _Log:
    """JSON lines, one per record. After a resume, records of what will be done again are dropped."""

    def __init__(self, path: Path, n_steps_done: int, *, writes: bool) -> None:
        self._writes = writes
        if not writes:
            return
        lines = path.read_text().splitlines(keepends=True) if path.exists() and n_steps_done else []
        path.write_text("".join(line for line in lines if line.endswith("\n") and self._is_done(line, n_steps_done)))
        self._path = path

    @staticmethod
    def _is_done(line: str, n_steps_done: int) -> bool:
        """Whether a line is of a step that was done, and is not the score after the last one."""
        record = msgspec.json.decode(line)
        return bool(record["step"] < n_steps_done or (record["step"] == n_steps_done and "loss" in record))

    def write(self, **record: float) -> None:
        if not self._writes:
            return
        with writing(self._path), self._path.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")


def fit(
    experiment: Experiment,
    pack: Pack,
    run_dir: Path,
    *,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | str = 1,
    n_nodes: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> float:
    """Train into `run_dir` and return the best balanced accuracy on the validation set.

    Writes config.toml, log.jsonl, curves.png, `last.pt` (to resume from) and `best.pt` (the model with the best
    validation accuracy, averaged weights). KeyboardInterrupt saves `last.pt` before it is raised again, unless it came
    while the weights were changed; then the one of at most a minute ago stays. `accelerator`, `devices` and `n_nodes`
    are those of Lightning Fabric; several processes share each batch, and the first of them writes.
    Raises ConfigError if the folder holds a run and `resume` is not set, if another process trains in it, or if the
    training diverges; OutputError if the folder cannot be written to.
    """
    _check_folder(run_dir, resume=resume)  # at once, where nothing was launched yet
    fabric = _launch(accelerator, devices, n_nodes, experiment.train.precision)
    with _alone_in(run_dir) if fabric.is_global_zero else nullcontext():
        _check_folder(run_dir, resume=resume)
        return _fit(experiment, pack, run_dir, fabric, on_progress, resume=resume)


def _check_folder(run_dir: Path, *, resume: bool) -> None:
    """Raise ConfigError if a run in this folder, or its absence, contradicts `resume`."""
    has_run = (run_dir / LAST).exists()
    if has_run and not resume:
        raise ConfigError(f"{run_dir}: holds a run already; give --resume to go on with it, or another --run-dir")
    if resume and not has_run:
        raise ConfigError(f"{run_dir}: nothing to resume; expected last.pt there")


@contextmanager
def _alone_in(run_dir: Path) -> Iterator[None]:
    """Hold a run folder for this process, making it if it is not there. Raises ConfigError if another holds it."""
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"{run_dir}: another process trains in this folder; wait for its end, or give another --run-dir"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _fit(
    experiment: Experiment,
    pack: Pack,
    run_dir: Path,
    fabric: Fabric,
    on_progress: Callable[[Progress], None],
    *,
    resume: bool,
) -> float:
    """`fit` in a folder that is this run's own."""
    last = run_dir / LAST
    validation = validation_set(
        Examples(pack, experiment.model, experiment.data, "validation"), experiment.data.held_out
    )
    trainer = Trainer(experiment, pack, fabric)
    if resume:
        restore(trainer, load_plain(last))
    fabric.barrier()  # before the first process writes what the others read
    if fabric.is_global_zero:
        write_whole(run_dir / "config.toml", tomli_w.dumps(to_tree(experiment)))
    run = _Run(trainer, validation, run_dir, _Log(run_dir / "log.jsonl", trainer.step, writes=fabric.is_global_zero))
    if not resume:
        save(trainer, last)
    try:
        run.all_epochs(on_progress if fabric.is_global_zero else lambda progress: None)
    except KeyboardInterrupt:
        if trainer.is_between_steps:
            save(trainer, last)
        raise
    save(trainer, last)
    if fabric.is_global_zero:
        with writing(run_dir):
            plot_run(run_dir)
    return trainer.best_accuracy


def _launch(accelerator: str, devices: int | str, n_nodes: int, precision: Any) -> Fabric:
    """Fabric with its processes started. Raises ConfigError for devices that are not there."""
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=n_nodes, precision=precision)
    except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot use {devices} device(s) of kind {accelerator}: {first_line(error)}") from None
    fabric.launch()
    return fabric


def _n_loader_workers(device: torch.device) -> int:
    """How many processes cut for a device. A GPU would wait for one; a CPU has nothing to gain."""
    if device.type != "cuda" or sys.platform != "linux":
        return 0
    return min(_MAX_LOADER_WORKERS, len(os.sched_getaffinity(0)))


class _Meter:
    """The mean loss since it was last read, and the speed since it was made."""

    def __init__(self, first_step: int) -> None:
        self._first_step, self._started = first_step, time.monotonic()
        self._losses: list[float] = []

    def add(self, loss: float) -> None:
        self._losses.append(loss)

    def read(self, step: int) -> tuple[float, float]:
        """The mean loss, and steps per second."""
        loss = sum(self._losses) / len(self._losses)
        self._losses = []
        return loss, (step - self._first_step) / (time.monotonic() - self._started)


class _Run:
    """A trainer, the set that it is validated on, and the folder and log that it writes to."""

    def __init__(self, trainer: Trainer, validation: Validation, run_dir: Path, log: _Log) -> None:
        self._trainer, self._validation = trainer, validation
        self._run_dir, self._log = run_dir, log
        self._meter = _Meter(trainer.step)
        self._saved_at = time.monotonic()
        self._accuracy = 0.0

    def all_epochs(self, report: Callable[[Progress], None]) -> None:
        """Train from where the trainer stands to the end of the last epoch."""
        trainer, per_epoch = self._trainer, self._trainer.batches.per_epoch
        if trainer.step and trainer.step % per_epoch == 0:  # stopped before the epoch's score was kept
            self._accuracy = self._score()
        while trainer.step < trainer.experiment.train.epochs * per_epoch:
            epoch, first = divmod(trainer.step, per_epoch)
            for raw in prefetch_batches(trainer.batches, epoch, first, _n_loader_workers(trainer.fabric.device)):
                self._meter.add(trainer.train_step(raw))
                if trainer.step % _LOG_EVERY_STEPS == 0 or trainer.step % per_epoch == 0:
                    report(self._log_steps(epoch))
                if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
                    save(trainer, self._run_dir / LAST)
                    self._saved_at = time.monotonic()
            self._accuracy = self._score()
            save(trainer, self._run_dir / LAST)

    def _log_steps(self, epoch: int) -> Progress:
        """Log the steps since the last record, and say where the run stands."""
        trainer, config = self._trainer, self._trainer.experiment.train
        loss, steps_per_s = self._meter.read(trainer.step)
        n_steps, utterances_per_s = config.epochs * trainer.batches.per_epoch, steps_per_s * config.batch_size
        self._log.write(
            step=trainer.step,
            loss=loss,
            learning_rate=trainer.learning_rate,
            clipped_rate=trainer.n_clipped / trainer.step,
            utterances_per_s=round(utterances_per_s, 1),
        )
        left_s = (n_steps - trainer.step) / steps_per_s
        position = epoch + 1, config.epochs, trainer.step, n_steps
        return Progress(*position, loss, self._accuracy, utterances_per_s, left_s)

    def _score(self) -> float:
        """Validate the averaged network after an epoch, log it, and keep it if it is the best so far."""
        trainer = self._trainer
        net = trainer.averaged_net()
        try:
            scores = validate(net, self._validation, trainer.examples.clips.fractions(), trainer.fabric.device)
        except FloatingPointError as error:
            raise diverged(trainer.step, str(error)) from None
        recalls = {f"validation {name}": round(recall, 4) for name, recall in scores.recalls.items()}
        self._log.write(step=trainer.step, **scores.summary(), **recalls)
        self._keep_if_best(net, scores)
        return scores.balanced_accuracy

    def _keep_if_best(self, net: RecognizerNet, scores: ValidationScores) -> None:
        trainer = self._trainer
        if scores.balanced_accuracy < trainer.best_accuracy:
            return
        trainer.best_accuracy = scores.balanced_accuracy
        if trainer.fabric.is_global_zero:
            build_in(net.cpu(), scores.calibration)
            info = _model_info(trainer, scores, len(self._validation.batch.labels))
            save_checkpoint(self._run_dir / BEST, net, info)


def _model_info(trainer: Trainer, scores: ValidationScores, n_validation: int) -> ModelInfo:
    """What the model file of this moment says about itself."""
    experiment = trainer.experiment
    numbers = {
        **scores.summary(),
        "validation expected calibration error": scores.calibration_error,
        "temperature": scores.calibration.temperature,
    }
    provenance = Provenance(
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        speechrnn_version=speechrnn.__version__,
        config=to_tree(experiment),
        data={f"training {name}": n for name, n in trainer.examples.clips.counts().items()},
        scores={name.replace("_", " "): round(value, 5) for name, value in numbers.items()}
        | {
            "validation contexts": n_validation,
            "training contexts seen": trainer.step * experiment.train.batch_size,
        },
    )
    return ModelInfo(spec=experiment.model, options=experiment.options, provenance=provenance)
