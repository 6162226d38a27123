"""One step of training: the network, its average, the optimiser, and the state that a run is resumed from.

A run that was killed and resumed gives the same weights, bit for bit on a CPU, as one that was not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from speechrnn.config import Experiment, Train
from speechrnn.data.clips import Pack
from speechrnn.data.cutting import Batch
from speechrnn.data.examples import Examples
from speechrnn.errors import ConfigError, first_line
from speechrnn.model.classifier import RecurrentClassifier
from speechrnn.model.network import RecognizerNet, load_checkpoint, write_atomically
from speechrnn.spec import Classifier, Spec
from speechrnn.training import augment
from speechrnn.training.batches import Background, Batches, TrainingBatch, seed_of, to_float

_N_NORM_CONTEXTS = 2048
_ROWS_AT_ONCE = 16  # of a batch on a CPU, so that a spectrogram stays in its cache: 38 ms down to 28 for 128 contexts


def learning_rate(config: Train, step: int, steps_per_epoch: int) -> float:
    """The rate of a step: linear warm-up, then a cosine down to zero at the end (Loshchilov and Hutter, 2017)."""
    n_warmup, n_steps = round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch
    if step < n_warmup:
        return config.learning_rate * (step + 1) / n_warmup
    return config.learning_rate * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup))) / 2


def diverged(step: int, what: str) -> ConfigError:
    """The error that ends a run from which nothing can be learned any more."""
    advice = "start anew with a lower train.learning_rate, a train.clip_norm of about 1 or a longer train.warmup_epochs"
    return ConfigError(f"training has diverged at step {step}: {what}; {advice}")


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that forgets faster at first, so that it never remembers the initial weights."""

    def update(averages: list[Tensor], weights: list[Tensor], n_averaged: Tensor) -> None:
        n = int(n_averaged)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def _frames(front_end: nn.Module, samples: Tensor) -> Tensor:
    """Frames [B, N, F] of samples [B, T], on a CPU a few rows at a time."""
    n_rows = _ROWS_AT_ONCE if samples.device.type == "cpu" else len(samples)
    return torch.cat([front_end(rows) for rows in torch.split(samples, n_rows)])


def _load_teacher(path: Path, spec: Spec) -> RecognizerNet:
    """A trained network with the features, context and labels of `spec`. Raises ConfigError for others."""
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


class WordTask(nn.Module):
    """A classifier with a second output beside it, which tells many words apart by the same embedding."""

    def __init__(self, classifier: RecurrentClassifier, words: nn.Linear) -> None:
        super().__init__()
        self.classifier, self.words = classifier, words

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [B, N, F] to logits of the classes [B, C] and of the words [B, W]."""
        embedding = self.classifier.dropout(self.classifier.embed(frames))
        return self.classifier.output(embedding), self.words(embedding)


def _load_initial(net: RecognizerNet, path: Path) -> None:
    """Give a network the weights of another. Raises ConfigError for one of another shape."""
    other, _ = load_checkpoint(path)
    try:
        net.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"{path}: expected a network of the shape of the model ({first_line(error)})") from None


class Trainer:
    """The network, its average, the optimiser and the position in the schedule. `loop.fit` drives it."""

    def __init__(self, experiment: Experiment, pack: Pack, fabric: Fabric) -> None:
        self.experiment = experiment
        self.fabric = fabric
        spec, config = experiment.model, experiment.train
        self.examples = Examples(pack, spec, experiment.data, "training")
        self.batches = Batches(self.examples, experiment, fabric.global_rank, fabric.world_size)
        self.background = Background.of(self.examples, fabric.device)
        torch.manual_seed(config.seed)
        self.net = RecognizerNet(spec)
        self._fit_norm()
        self.net.to(fabric.device)
        self.teachers = [_load_teacher(Path(path), spec).to(fabric.device) for path in config.teachers]
        self.digests = {"clips": self.examples.clips.digest(), "teachers": _digest(self.teachers)}
        if config.initial:
            _load_initial(self.net, Path(config.initial))
        self.words = self._word_output()
        learned = WordTask(self.net.classifier, self.words) if self.words else self.net.classifier
        decayed, others = _decay_groups(learned)
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            foreach=True,
        )
        self.classifier, self.optimizer = fabric.setup(learned.to(fabric.device), optimizer)
        self.average = AveragedModel(self.net.classifier, multi_avg_fn=_moving_average(config.ema_decay))
        self.step = 0
        self.is_between_steps = True  # else its state is of no step, and must not be kept
        self.n_clipped = 0
        self.best_accuracy = 0.0

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _fit_norm(self) -> None:
        """Feature statistics over the first contexts of the first epoch, without augmentation."""
        batch = self.examples.batch(self.batches.plan(0)[:_N_NORM_CONTEXTS], seed=0)
        parts_of_rows = np.array_split(batch.samples, min(16, len(batch.samples)))
        with torch.no_grad():
            parts = [self.net.front_end(to_float(rows, torch.device("cpu"))) for rows in parts_of_rows]
        self.net.norm.fit(torch.cat(parts))

    def _word_output(self) -> nn.Linear | None:
        """The output of the second task, if there is one."""
        config = self.experiment.train
        if not config.word_weight:
            return None
        n_words = self.examples.set_vocabulary(config.min_clips_per_word)
        return nn.Linear(self.net.classifier.output.in_features, n_words)

    def augmented(self, raw: Batch) -> TrainingBatch:
        """What `batches.cut` gave for the step to come, augmented on the device."""
        return self.batches.augmented(raw, self.step, self.background)

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The inputs of the network, masked frames [B, N, F], and its targets [B, C].

        Where there are teachers, the mean of their posteriors is a part of the latter (Hinton et al., 2015,
        arXiv 1503.02531). They see the frames unmasked.
        """
        config = self.experiment.train
        front_end = self.net.front_end
        frames = _frames(front_end, batch.samples)
        if self.experiment.augment.filter_db:
            gains = augment.filter_gains(batch.filter_db, self.experiment.model.features.n_mels)
            frames += front_end.from_log_mel(gains).unsqueeze(1)
        targets = batch.targets(len(self.net.spec.labels.names), config.label_smoothing)
        if self.teachers:
            with self.fabric.autocast():
                taught = [teacher.classifier(teacher.norm(frames)).float().softmax(1) for teacher in self.teachers]
            targets = targets.lerp(torch.stack(taught).mean(0), config.teacher_weight)
        return augment.mask_frames(self.net.norm(frames), self.experiment.augment, batch.masks), targets

    def train_step(self, raw: Batch) -> float:
        """One optimisation step with what `batches.cut` gave for it; returns its loss."""
        config = self.experiment.train
        batch = self.augmented(raw)
        frames, targets = self.inputs(batch)
        torch.manual_seed(seed_of(config.seed, self.step, 2, self.fabric.global_rank))  # for dropout
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step, self.batches.per_epoch)
        self.optimizer.zero_grad()
        loss = self._loss(self.classifier(frames), targets, batch.words)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.classifier, self.optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
        )
        if norm is not None and not math.isfinite(norm):
            raise diverged(self.step, f"the gradient of a loss of {float(loss.detach()):g} is not finite")
        self.is_between_steps = False
        self.n_clipped += int(norm is not None and float(norm) > config.clip_norm)
        self.optimizer.step()
        self.average.update_parameters(self.net.classifier)
        self.step += 1
        self.is_between_steps = True
        return float(loss.detach())

    def _loss(self, outputs: Any, targets: Tensor, words: Tensor) -> Tensor:
        """The loss of the classes, and that of the words of those contexts that have one."""
        if self.words is None:
            return nn.functional.cross_entropy(outputs.float(), targets)
        logits, word_logits = outputs
        loss = nn.functional.cross_entropy(logits.float(), targets)
        if bool((words >= 0).any()):
            of_words = nn.functional.cross_entropy(word_logits.float(), words, ignore_index=-1)
            loss = loss + self.experiment.train.word_weight * of_words
        return loss

    def averaged_net(self) -> RecognizerNet:
        """A copy of the network with the averaged weights, in evaluation mode."""
        net = RecognizerNet(self.net.spec).to(self.fabric.device)
        net.load_state_dict(self.net.state_dict())
        net.classifier.load_state_dict(self.average.module.state_dict())
        return net.eval()


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything that a later `restore` needs."""
    return {
        "experiment": msgspec.json.encode(trainer.experiment).decode(),
        **trainer.digests,
        "net": trainer.net.state_dict(),
        "words": trainer.words.state_dict() if trainer.words else {},
        "average": trainer.average.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "step": trainer.step,
        "n_clipped": trainer.n_clipped,
        "best_accuracy": trainer.best_accuracy,
    }


def save(trainer: Trainer, path: Path) -> None:
    """Write the state of a trainer, from the first process."""
    if trainer.fabric.is_global_zero:
        write_atomically(state_of(trainer), path)


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put a trainer back into a saved state. Raises ConfigError if it belongs to another experiment."""
    try:
        saved = msgspec.json.decode(state["experiment"], type=Experiment)
    except (KeyError, msgspec.DecodeError) as error:
        raise ConfigError(f"--resume: last.pt is of another version of speechrnn ({error}); start anew") from None
    if saved != trainer.experiment:
        raise ConfigError("--resume: the run was started with another configuration; use its config.toml")
    if state.get("clips") != trainer.digests["clips"]:
        raise ConfigError("--resume: the run was started with other clips; put them back, or start anew")
    if state.get("teachers", "") != trainer.digests["teachers"]:
        raise ConfigError("--resume: the run was started with other weights in train.teachers; start anew")
    trainer.net.load_state_dict(state["net"])
    if trainer.words:
        trainer.words.load_state_dict(state["words"])
    trainer.average.load_state_dict(state["average"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.step, trainer.n_clipped, trainer.best_accuracy = state["step"], state["n_clipped"], state["best_accuracy"]
