"""The batches of a run: which contexts each step takes, how they are cut, and how they are augmented on the device.

Every random number of an epoch or a step comes from a generator seeded with the run's seed and its number, and each row
of a batch depends on its own numbers alone, so several processes take together what one would take.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from speechrnn.audio import INT16_SCALE
from speechrnn.config import Experiment
from speechrnn.data.clips import Int16
from speechrnn.data.cutting import Batch, PlannedContext
from speechrnn.data.examples import Examples
from speechrnn.errors import ConfigError, DataError
from speechrnn.labels import SILENCE, UNKNOWN
from speechrnn.training import augment


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, far from the seeds of neighbouring steps."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=6).digest(), "little")


def to_float(samples: Int16, device: torch.device) -> Tensor:
    """`audio.from_int16` on the device, to which the shorter integers travel."""
    return torch.from_numpy(samples).to(device).float() / INT16_SCALE


class TrainingBatch(NamedTuple):
    """Augmented contexts, and what the losses compare the outputs with."""

    samples: Tensor
    """Augmented contexts [B, T]."""
    labels: Tensor
    """Their classes [B]."""
    other_labels: Tensor
    """Classes of what is mixed in [B]."""
    weight: Tensor
    """Part of the context itself in that mixture [B]."""
    filter_db: Tensor
    """As in `augment.Draws`, for the frames."""
    masks: Tensor
    """As in `augment.Draws`, for the frames."""
    words: Tensor
    """Number of each word in the vocabulary [B]; -1 for none."""

    def targets(self, n_classes: int, label_smoothing: float) -> Tensor:
        """The fraction of each class in the label of each context [B, C]."""
        one, other = (nn.functional.one_hot(labels, n_classes).float() for labels in (self.labels, self.other_labels))
        mixed = torch.lerp(other, one, self.weight.unsqueeze(1))
        return mixed * (1 - label_smoothing) + label_smoothing / n_classes


class Background(NamedTuple):
    """What augmentation adds to contexts, on the training device."""

    noise: Tensor
    """Noise [T]."""
    rooms: Tensor
    """Room responses [R, T]."""

    @classmethod
    def of(cls, examples: Examples, device: torch.device) -> Background:
        """Those of a split."""
        return cls(to_float(examples.noise_samples(), device), to_float(examples.room_samples(), device))


class Batches:
    """The batches of a run, of which this process takes its part. It holds no tensor, so that a fork may have it.

    Raises ConfigError for a batch that the processes cannot share, DataError for fewer contexts than a batch.
    """

    def __init__(self, examples: Examples, experiment: Experiment, rank: int = 0, n_ranks: int = 1) -> None:
        self._examples = examples
        self._spec, self._augment, self._seed = experiment.model, experiment.augment, experiment.train.seed
        self.size = experiment.train.batch_size
        self._rank, self._n_ranks = rank, n_ranks
        labels = experiment.model.labels
        self._silence = labels.names.index(SILENCE) if labels.silence else -1
        self._unknown = labels.names.index(UNKNOWN) if labels.unknown else -1
        if self.size % n_ranks:
            raise ConfigError(f"expected a train.batch_size that {n_ranks} processes can share, got {self.size}")
        n_contexts = len(self.plan(0))
        self.per_epoch = n_contexts // self.size
        if self.per_epoch == 0:
            raise DataError(f"expected at least one batch of {self.size}, got {n_contexts} contexts")

    def plan(self, epoch: int) -> list[PlannedContext]:
        """The contexts of an epoch, in the order in which they are trained on."""
        return self._examples.epoch(np.random.default_rng(seed_of(self._seed, epoch)))

    def cut(self, plan: list[PlannedContext], step: int) -> Batch:
        """The part of this process in the raw batch of a step, the same as in a process that takes all of it."""
        rows = self._rows(len(plan) // self._n_ranks)
        return self._examples.batch(plan[rows], self._step_seed(step), first=rows.start)

    def augmented(self, raw: Batch, step: int, background: Background) -> TrainingBatch:
        """What `cut` gave for a step, augmented on the device of the background."""
        n_rows, device = len(raw.labels), background.noise.device
        labels = torch.from_numpy(raw.labels)
        draws = augment.draw(
            self._augment,
            self._uniform(n_rows, step),
            word_start=torch.from_numpy(raw.word_start),
            word_end=torch.from_numpy(raw.word_end),
            is_silence=labels == self._silence,
            context_samples=raw.samples.shape[1],
            n_noise_samples=len(background.noise),
            n_rooms=len(background.rooms),
            sample_rate_hz=self._spec.sample_rate_hz,
        )
        labels = torch.where(draws.cut, self._unknown, labels).to(device)
        draws = augment.Draws(*(values.to(device) for values in draws))
        samples = to_float(raw.samples, device)
        samples = augment.apply(samples, draws, background.noise, background.rooms, self._spec.sample_rate_hz)
        words = torch.where(draws.cut | (draws.weight < 1), -1, torch.from_numpy(raw.words).to(device))
        return TrainingBatch(samples, labels, labels[draws.partner], draws.weight, draws.filter_db, draws.masks, words)

    def _uniform(self, n_rows: int, step: int) -> Tensor:
        """The random numbers of this process's rows in a step."""
        generator = torch.Generator().manual_seed(self._step_seed(step))
        uniform = torch.rand(n_rows * self._n_ranks, augment.n_uniform(self._augment), generator=generator)
        return uniform[self._rows(n_rows)]

    def _rows(self, n_rows: int) -> slice:
        """Those of this process, if each has so many."""
        return slice(self._rank * n_rows, (self._rank + 1) * n_rows)

    def _step_seed(self, step: int) -> int:
        return seed_of(self._seed, step, 1)


class _EpochBatches(Dataset[Batch]):
    """The raw batches of an epoch by step, as the processes of a loader want them."""

    def __init__(self, batches: Batches, epoch: int) -> None:
        self._batches = batches
        self._plan = batches.plan(epoch)
        self._first_step = epoch * batches.per_epoch

    def __getitem__(self, step: int) -> Batch:
        size = self._batches.size
        return self._batches.cut(self._plan[step * size : (step + 1) * size], self._first_step + step)


def prefetch_batches(batches: Batches, epoch: int, first: int, n_processes: int) -> Iterator[Batch]:
    """The raw batches of an epoch from step `first` on, cut by other processes if there are any, in order."""
    loader = DataLoader(
        _EpochBatches(batches, epoch),
        batch_size=None,
        sampler=range(first, batches.per_epoch),
        num_workers=n_processes,
        multiprocessing_context="fork" if n_processes else None,  # a copy of the pack for each would fill the memory
    )
    for tensors in loader:
        yield Batch(*(values.numpy() for values in tensors))
