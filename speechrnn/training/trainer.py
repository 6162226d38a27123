"""The training loop: an experiment and a pack of audio to a run folder of checkpoints, log and picture.

Every random number of an epoch or a step comes from a generator seeded with the run's seed and its number, so a run
that was killed and resumed gives the same weights, bit for bit on a CPU, as one that was not.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import tomli_w
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

import speechrnn
from speechrnn.audio import INT16_SCALE
from speechrnn.config import Experiment, Train, to_tree
from speechrnn.data.clips import Int16, Pack
from speechrnn.data.cutting import Batch, PlannedContext
from speechrnn.data.examples import Examples, validation_set
from speechrnn.errors import ConfigError, DataError, first_line
from speechrnn.evaluation import metrics
from speechrnn.labels import SILENCE, UNKNOWN
from speechrnn.model.network import RecognizerNet, load_checkpoint, load_plain, save_checkpoint, write_atomically
from speechrnn.spec import Classifier, ModelInfo, Provenance, Spec
from speechrnn.training import augment

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_SAVE_EVERY_S = 60.0
_LOG_EVERY_STEPS = 20
_N_NORM_CONTEXTS = 2048
_MAX_LOADER_WORKERS = 4  # processes; each cuts some 8,000 contexts a second of configs/commands8.toml
_ROWS_AT_ONCE = 16  # of a batch on a CPU, so that a spectrogram stays in its cache: 38 ms down to 28 for 128 contexts


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
    n_epochs: int
    step: int
    n_steps: int
    loss: float
    accuracy: float
    utterances_per_s: float
    left_s: float


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
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")


def learning_rate(config: Train, step: int, steps_per_epoch: int) -> float:
    """The rate of a step: linear warm-up, then a cosine down to zero at the end (Loshchilov and Hutter, 2017)."""
    n_warmup, n_steps = round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch
    if step < n_warmup:
        return config.learning_rate * (step + 1) / n_warmup
    return config.learning_rate * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup))) / 2


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that forgets faster at first, so that it never remembers the initial weights."""

    def update(averages: list[Tensor], weights: list[Tensor], n_averaged: Tensor) -> None:
        n = int(n_averaged)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def _seed_of(*numbers: int) -> int:
    """One seed from several numbers, far from the seeds of neighbouring steps."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=6).digest(), "little")


def _to_float(samples: Int16, device: torch.device) -> Tensor:
    """`audio.from_int16` on the device, to which the shorter integers travel."""
    return torch.from_numpy(samples).to(device).float() / INT16_SCALE


def _frames(front_end: nn.Module, samples: Tensor) -> Tensor:
    """Frames [B, N, F] of samples [B, T], on a CPU a few rows at a time."""
    n_rows = _ROWS_AT_ONCE if samples.device.type == "cpu" else len(samples)
    return torch.cat([front_end(rows) for rows in torch.split(samples, n_rows)])


def _load_teacher(path: Path, spec: Spec) -> RecognizerNet:
    """A trained network that hears what one of `spec` hears, and answers alike. Raises ConfigError for others."""
    net, info = load_checkpoint(path)
    theirs, ours = (msgspec.structs.replace(s, classifier=Classifier()) for s in (info.spec, spec))
    if theirs != ours:
        raise ConfigError(f"{path}: expected a teacher with the features, context and labels of the model, got others")
    return net.eval()


def _decay_groups(classifier: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that decay, which are the weights of products, and biases and normalisations, which do not."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in classifier.modules():
        is_norm = isinstance(module, nn.LayerNorm)
        for parameter in module.parameters(recurse=False):
            (others if is_norm or parameter.ndim == 1 else decayed).append(parameter)
    return decayed, others


def _digest(nets: list[RecognizerNet]) -> str:
    """A fingerprint of the weights of networks; empty without any."""
    tensors = [tensor.cpu().numpy().tobytes() for net in nets for tensor in net.state_dict().values()]
    return hashlib.sha1(b"".join(tensors)).hexdigest() if nets else ""


@torch.no_grad()
def predict(net: RecognizerNet, batch: Batch, device: torch.device, rows_at_once: int = 256) -> Tensor:
    """Logits [B, C] of raw contexts, on the CPU."""
    was_training = net.training
    net.eval()
    parts = [
        net(_to_float(rows, device)).cpu()
        for rows in np.array_split(batch.samples, -(-len(batch.samples) // rows_at_once))
    ]
    net.train(was_training)
    return torch.cat(parts)


class TrainingBatch(NamedTuple):
    """Augmented samples [B, T], their classes [B] and those mixed in with all but `weight` [B].

    `filter_db` and `masks` are as in `augment.Draws`, for their frames.
    """

    samples: Tensor
    labels: Tensor
    other_labels: Tensor
    weight: Tensor
    filter_db: Tensor
    masks: Tensor

    def targets(self, n_classes: int, label_smoothing: float) -> Tensor:
        """The share of each class in the label of each context [B, C]."""
        one, other = (nn.functional.one_hot(labels, n_classes).float() for labels in (self.labels, self.other_labels))
        mixed = torch.lerp(other, one, self.weight.unsqueeze(1))
        return mixed * (1 - label_smoothing) + label_smoothing / n_classes


class Trainer:
    """One run: the network, its average, the optimiser and the place in the schedule. `fit` drives it."""

    def __init__(self, experiment: Experiment, pack: Pack, fabric: Fabric) -> None:
        self.experiment = experiment
        self.fabric = fabric
        spec, config = experiment.model, experiment.train
        self.training = Examples(pack, spec, experiment.data, "training")
        self.validation = Examples(pack, spec, experiment.data, "validation")
        self.validation_batch, self.is_held_out = validation_set(self.validation, experiment.data.held_out)
        self.n_per_epoch = len(self.plan(0))
        self.steps_per_epoch = self.n_per_epoch // config.batch_size
        if config.batch_size % fabric.world_size:
            raise ConfigError(
                f"expected a train.batch_size that {fabric.world_size} processes can share, got {config.batch_size}"
            )
        if self.steps_per_epoch == 0:
            raise DataError(f"expected at least one batch of {config.batch_size}, got {self.n_per_epoch} contexts")
        self.silence = spec.labels.names.index(SILENCE) if spec.labels.silence else -1
        self.unknown = spec.labels.names.index(UNKNOWN) if spec.labels.unknown else -1
        torch.manual_seed(config.seed)
        self.net = RecognizerNet(spec)
        self._fit_norm()
        self.net.to(fabric.device)
        self.teachers = [_load_teacher(Path(path), spec).to(fabric.device) for path in config.teachers]
        self.digests = {"clips": self.training.clips.digest(), "teachers": _digest(self.teachers)}
        self.noise = _to_float(self.training.noise_samples(), fabric.device)
        self.rooms = _to_float(self.training.room_samples(), fabric.device)
        decayed, others = _decay_groups(self.net.classifier)
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            foreach=True,
        )
        self.classifier, self.optimizer = fabric.setup(self.net.classifier, optimizer)
        self.average = AveragedModel(self.net.classifier, multi_avg_fn=_moving_average(config.ema_decay))
        self.step = 0
        self.is_between_steps = True  # else its state is of no step, and not worth keeping
        self.n_clipped = 0
        self.best_accuracy = 0.0

    def plan(self, epoch: int) -> list[PlannedContext]:
        """The contexts of an epoch, in the order in which they are trained on."""
        return self.training.epoch(np.random.default_rng(_seed_of(self.experiment.train.seed, epoch)))

    def _fit_norm(self) -> None:
        """Feature statistics over the first contexts of the first epoch, without augmentation."""
        batch = self.training.batch(self.plan(0)[:_N_NORM_CONTEXTS], seed=0)
        parts_of_rows = np.array_split(batch.samples, min(16, len(batch.samples)))
        with torch.no_grad():
            parts = [self.net.front_end(_to_float(rows, torch.device("cpu"))) for rows in parts_of_rows]
        self.net.norm.fit(torch.cat(parts))

    def _rows(self, n_rows: int) -> slice:
        """Those of this process, if each has so many."""
        return slice(self.fabric.global_rank * n_rows, (self.fabric.global_rank + 1) * n_rows)

    def _batch_seed(self, step: int) -> int:
        return _seed_of(self.experiment.train.seed, step, 1)

    def cut(self, plan: list[PlannedContext], step: int) -> Batch:
        """The part of this process in the raw batch of a step, the same as in a process that takes all of it."""
        rows = self._rows(len(plan) // self.fabric.world_size)
        return self.training.batch(plan[rows], self._batch_seed(step), first=rows.start)

    def batch(self, raw: Batch, step: int) -> TrainingBatch:
        """What `cut` gave for a step, augmented on the device."""
        config, n_rows = self.experiment.augment, len(raw.labels)
        generator = torch.Generator().manual_seed(self._batch_seed(step))
        uniform = torch.rand(n_rows * self.fabric.world_size, augment.n_uniform(config), generator=generator)
        labels = torch.from_numpy(raw.labels)
        draws = augment.draw(
            config,
            uniform[self._rows(n_rows)],
            word_start=torch.from_numpy(raw.word_start),
            word_end=torch.from_numpy(raw.word_end),
            is_silence=labels == self.silence,
            context_samples=raw.samples.shape[1],
            n_noise_samples=len(self.noise),
            n_rooms=len(self.rooms),
            sample_rate_hz=self.experiment.model.sample_rate_hz,
        )
        labels = torch.where(draws.cut, self.unknown, labels)
        device = self.fabric.device
        draws = augment.Draws(*(values.to(device) for values in draws))
        samples = augment.apply(_to_float(raw.samples, device), draws, self.noise, self.rooms)
        labels = labels.to(device)
        return TrainingBatch(samples, labels, labels[draws.partner], draws.weight, draws.filter_db, draws.masks)

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """What the network sees of a batch, masked frames [B, N, F], and what it should call them [B, C].

        Where there are teachers, the mean of their posteriors is a part of the latter (Hinton et al., 2015,
        arXiv 1503.02531). They see the frames unmasked.
        """
        config = self.experiment.train
        front_end = self.net.front_end
        frames = _frames(front_end, batch.samples)
        if self.experiment.augment.filter_db:
            gains = augment.filter_gains(batch.filter_db, self.experiment.model.features.n_mels)
            frames += front_end.from_log_mel(gains).unsqueeze(1)
        targets = batch.targets(len(self.training.clips.names), config.label_smoothing)
        if self.teachers:
            with self.fabric.autocast():
                taught = [teacher.classifier(teacher.norm(frames)).float().softmax(1) for teacher in self.teachers]
            targets = targets.lerp(torch.stack(taught).mean(0), config.teacher_weight)
        return augment.mask_frames(self.net.norm(frames), self.experiment.augment, batch.masks), targets

    def train_step(self, raw: Batch) -> float:
        """One optimisation step with what `cut` gave for it; returns its loss."""
        config = self.experiment.train
        batch = self.batch(raw, self.step)
        frames, targets = self.inputs(batch)
        torch.manual_seed(_seed_of(config.seed, self.step, 2, self.fabric.global_rank))  # for dropout
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step, self.steps_per_epoch)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.classifier(frames).float(), targets)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(self.classifier, self.optimizer, max_norm=config.clip_norm)
        self.is_between_steps = False
        self.n_clipped += int(norm is not None and float(norm) > config.clip_norm)
        self.optimizer.step()
        self.average.update_parameters(self.net.classifier)
        self.step += 1
        self.is_between_steps = True
        return float(loss.detach())

    def averaged_net(self) -> RecognizerNet:
        """A copy of the network with the averaged weights, in evaluation mode."""
        net = RecognizerNet(self.net.spec).to(self.fabric.device)
        net.load_state_dict(self.net.state_dict())
        net.classifier.load_state_dict(self.average.module.state_dict())
        return net.eval()

    def state(self) -> dict[str, Any]:
        """Everything that a later `restore` needs."""
        return {
            "experiment": msgspec.json.encode(self.experiment).decode(),
            **self.digests,
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "n_clipped": self.n_clipped,
            "best_accuracy": self.best_accuracy,
        }

    def save(self, path: Path) -> None:
        """Write the state, from the first process."""
        if self.fabric.is_global_zero:
            write_atomically(self.state(), path)

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state. Raises ConfigError if it belongs to another experiment."""
        try:
            saved = msgspec.json.decode(state["experiment"], type=Experiment)
        except (KeyError, msgspec.DecodeError) as error:
            raise ConfigError(f"--resume: last.pt is of another version of speechrnn ({error}); start anew") from None
        if saved != self.experiment:
            raise ConfigError("--resume: the run was started with another configuration; use its config.toml")
        if state.get("clips") != self.digests["clips"]:
            raise ConfigError("--resume: the run was started with other clips; put them back, or start anew")
        if state.get("teachers", "") != self.digests["teachers"]:
            raise ConfigError("--resume: the run was started with other weights in train.teachers; start anew")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.n_clipped, self.best_accuracy = state["step"], state["n_clipped"], state["best_accuracy"]

    def info(self, scores: dict[str, float]) -> ModelInfo:
        """What the model file of this moment says about itself."""
        provenance = Provenance(
            created=datetime.now(UTC).strftime("%Y-%m-%d"),
            speechrnn_version=speechrnn.__version__,
            config=to_tree(self.experiment),
            data={f"training {name}": n for name, n in self.training.clips.counts().items()},
            scores={name.replace("_", " "): round(value, 5) for name, value in scores.items()}
            | {
                "validation contexts": len(self.validation_batch.labels),
                "training contexts seen": self.step * self.experiment.train.batch_size,
            },
        )
        return ModelInfo(
            spec=self.experiment.model,
            options=self.experiment.options,
            provenance=provenance,
        )


class _EpochBatches(Dataset[Batch]):
    """The raw batches of an epoch by step, as the processes of a loader want them."""

    def __init__(self, trainer: Trainer, epoch: int) -> None:
        self._trainer = trainer
        self._plan = trainer.plan(epoch)
        self._first_step = epoch * trainer.steps_per_epoch

    def __getitem__(self, step: int) -> Batch:
        size = self._trainer.experiment.train.batch_size
        return self._trainer.cut(self._plan[step * size : (step + 1) * size], self._first_step + step)


def prefetch_batches(trainer: Trainer, epoch: int, first: int, n_processes: int) -> Iterator[Batch]:
    """The raw batches of an epoch from step `first` on, cut by other processes if there are any, in order."""
    loader = DataLoader(
        _EpochBatches(trainer, epoch),
        batch_size=None,
        sampler=range(first, trainer.steps_per_epoch),
        num_workers=n_processes,
        multiprocessing_context="fork" if n_processes else None,  # a copy of the pack for each would fill the memory
    )
    for tensors in loader:
        yield Batch(*(values.numpy() for values in tensors))


def _n_loader_workers(device: torch.device) -> int:
    """How many processes cut for a device. A GPU would wait for one; a CPU has nothing to gain."""
    if device.type != "cuda" or sys.platform != "linux":
        return 0
    return min(_MAX_LOADER_WORKERS, len(os.sched_getaffinity(0)))


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
    Raises ConfigError if the folder holds a run and `resume` is not set.
    """
    last = run_dir / "last.pt"
    if last.exists() and not resume:
        raise ConfigError(f"{run_dir}: holds a run already; give --resume to go on with it, or another --run-dir")
    if resume and not last.exists():
        raise ConfigError(f"{run_dir}: nothing to resume; expected last.pt there")
    fabric = _launch(accelerator, devices, n_nodes, experiment.train.precision)
    trainer = Trainer(experiment, pack, fabric)
    if resume:
        trainer.restore(load_plain(last))
    fabric.barrier()  # before the first process writes what the others read
    if fabric.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.toml").write_text(tomli_w.dumps(to_tree(experiment)))
    log = _Log(run_dir / "log.jsonl", trainer.step, writes=fabric.is_global_zero)
    if not resume:
        trainer.save(last)
    try:
        _run_epochs(trainer, run_dir, log, on_progress)
    except KeyboardInterrupt:
        if trainer.is_between_steps:
            trainer.save(last)
        raise
    trainer.save(last)
    if fabric.is_global_zero:
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


def _run_epochs(trainer: Trainer, run_dir: Path, log: _Log, on_progress: Callable[[Progress], None]) -> None:
    config = trainer.experiment.train
    n_steps, batch_size = config.epochs * trainer.steps_per_epoch, config.batch_size
    accuracy, losses, saved_at = 0.0, [], time.monotonic()
    first_step, started = trainer.step, time.monotonic()
    report = on_progress if trainer.fabric.is_global_zero else lambda progress: None
    if trainer.step and trainer.step % trainer.steps_per_epoch == 0:  # stopped before the epoch's score was kept
        accuracy = _validate(trainer, run_dir, log)
    while trainer.step < n_steps:
        epoch, first = divmod(trainer.step, trainer.steps_per_epoch)
        for raw in prefetch_batches(trainer, epoch, first, _n_loader_workers(trainer.fabric.device)):
            losses.append(trainer.train_step(raw))
            elapsed_s = time.monotonic() - started
            steps_per_s = (trainer.step - first_step) / elapsed_s
            if trainer.step % _LOG_EVERY_STEPS == 0 or trainer.step % trainer.steps_per_epoch == 0:
                loss = sum(losses) / len(losses)
                losses = []
                rate = learning_rate(config, trainer.step - 1, trainer.steps_per_epoch)
                log.write(
                    step=trainer.step,
                    loss=loss,
                    learning_rate=rate,
                    clipped_rate=trainer.n_clipped / trainer.step,
                    utterances_per_s=round(steps_per_s * batch_size, 1),
                )
                left_s = (n_steps - trainer.step) / steps_per_s
                report(
                    Progress(
                        epoch + 1,
                        config.epochs,
                        trainer.step,
                        n_steps,
                        loss,
                        accuracy,
                        steps_per_s * batch_size,
                        left_s,
                    )
                )
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                trainer.save(run_dir / "last.pt")
                saved_at = time.monotonic()
        accuracy = _validate(trainer, run_dir, log)
        trainer.save(run_dir / "last.pt")


def _validate(trainer: Trainer, run_dir: Path, log: _Log) -> float:
    """Calibrate and score the averaged network after an epoch, log it, and keep it if it is the best so far.

    The score is the balanced accuracy, the mean of the classes' recalls: it does not depend on how many clips of each
    class there are.
    """
    net = trainer.averaged_net()
    batch = trainer.validation_batch
    labels = torch.from_numpy(batch.labels)
    logits = predict(net, batch, trainer.fabric.device).numpy()
    found = calibration(logits, batch.labels, trainer.training.clips.fractions())
    calibrated = torch.from_numpy(found.apply(logits))
    correct = calibrated.argmax(1) == labels
    recalls = {name: float(correct[labels == i].float().mean()) for i, name in enumerate(net.spec.labels.names)}
    if trainer.is_held_out.any():
        recalls["new words"] = float(correct[torch.from_numpy(trainer.is_held_out)].float().mean())
    balanced = sum(recalls[name] for name in net.spec.labels.names) / len(net.spec.labels.names)
    scores = {
        "validation_loss": float(nn.functional.cross_entropy(calibrated, labels)),
        "validation_accuracy": float(correct.float().mean()),
        "validation_balanced_accuracy": balanced,
    }
    log.write(step=trainer.step, **scores, **{f"validation {name}": round(r, 4) for name, r in recalls.items()})
    if balanced >= trainer.best_accuracy:
        trainer.best_accuracy = balanced
        if trainer.fabric.is_global_zero:
            reliability = metrics.reliability(calibrated.softmax(1).numpy(), batch.labels)
            scores["validation expected calibration error"] = metrics.expected_calibration_error(reliability)
            scores["temperature"] = found.temperature
            calibrate(net.cpu(), found)
            save_checkpoint(run_dir / "best.pt", net, trainer.info(scores))
    return balanced


class Calibration(NamedTuple):
    """What the logits of a network are divided by, and what is added before, [C]."""

    temperature: float
    bias: NDArray[np.float64]

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated logits [B, C]."""
        return ((logits + self.bias) / self.temperature).astype(np.float32)


def calibration(logits: NDArray[np.float32], labels: NDArray[np.int64], shares: NDArray[np.float64]) -> Calibration:
    """Temperature and biases that suit validation logits [B, C], for classes with these shares of all contexts [C].

    Scaling as in Guo et al. (2017, arXiv 1706.04599). The temperature lies between 1/4 and 4, for contexts that are all
    right say little.
    """
    found, weights = Calibration(1.0, np.zeros(logits.shape[1])), metrics.class_weights(labels, shares)
    for _ in range(20):
        temperature = float(np.clip(metrics.fit_temperature(logits + found.bias, labels, weights), 0.25, 4.0))
        found = Calibration(temperature, temperature * metrics.fit_bias(logits / temperature, labels, shares))
    return found


@torch.no_grad()
def calibrate(net: RecognizerNet, found: Calibration) -> None:
    """Build a calibration into the last layer of a network."""
    output = net.classifier.output
    output.bias.add_(torch.from_numpy(found.bias))
    for parameter in output.parameters():
        parameter.div_(found.temperature)


def plot_run(run_dir: Path) -> None:
    """Draw loss, validation accuracy and learning rate over the steps of a run into curves.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = [msgspec.json.decode(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    steps = [r for r in records if "loss" in r]
    scores = [r for r in records if "validation_accuracy" in r]
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    top.plot(
        [r["step"] for r in steps], [r["loss"] for r in steps], color="tab:blue", lw=1, label="training, augmented"
    )
    top.plot(
        [r["step"] for r in scores], [r["validation_loss"] for r in scores], color="tab:orange", label="validation"
    )
    top.set(ylabel="cross-entropy (nats)")
    top.legend(frameon=False)
    balanced = [100 * r["validation_balanced_accuracy"] for r in scores]
    middle.plot([r["step"] for r in scores], balanced, color="tab:orange")
    middle.set(ylabel="balanced validation accuracy (%)")
    bottom.plot([r["step"] for r in steps], [r["learning_rate"] for r in steps], color="tab:green")
    bottom.set(ylabel="learning rate", xlabel="step", ylim=(0, None))
    for axis in (top, middle, bottom):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(run_dir / "curves.png", dpi=100)
    plt.close(figure)
