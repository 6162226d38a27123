"""Training: it learns, it repeats, and a run that was stopped anywhere ends as one that was not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import tomli_w
import torch
from filelock import FileLock
from lightning_fabric import Fabric

from speechrnn.config import Augment, Experiment, Train, load_experiment, to_tree
from speechrnn.data.clips import Pack
from speechrnn.data.cutting import Batch, PlannedContext
from speechrnn.data.examples import Examples, validation_set
from speechrnn.errors import ConfigError, DataError, OutputError
from speechrnn.evaluation.metrics import expected_calibration_error, reliability
from speechrnn.labels import Labels
from speechrnn.model.network import RecognizerNet, load_checkpoint, load_plain, save_checkpoint, write_atomically
from speechrnn.spec import Classifier, Conv, Conv2d, LogMel, ModelInfo, Spec
from speechrnn.training import loop, validation
from speechrnn.training.batches import TrainingBatch, prefetch_batches
from speechrnn.training.calibration import class_weights
from speechrnn.training.curves import draw_curves
from speechrnn.training.loop import Progress, fit
from speechrnn.training.trainer import Trainer, learning_rate
from speechrnn.training.validation import predict, validate
from tests import made_data
from tests.conftest import KilledError
from tests.helpers import assert_one_line

ROOT = Path(__file__).parents[2]
EPOCHS, STEPS_PER_EPOCH = 2, 30
"""Of `tiny`: 60 contexts an epoch, two a step. Progress is told, and the log written, at 20, 30, 40 and 60."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums are repeatable to the bit for one number of threads only."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def change(experiment: Experiment, **changes: Any) -> Experiment:
    """An experiment with other settings of the optimisation."""
    return msgspec.structs.replace(experiment, train=msgspec.structs.replace(experiment.train, **changes))


@pytest.fixture(scope="module")
def tiny(made_dir: Path) -> Experiment:
    return Experiment(
        model=Spec(
            labels=Labels(("yes", "no")),
            features=LogMel(n_mels=24, frame_ms=32.0, hop_ms=32.0),
            classifier=Classifier(hidden_size=8, n_layers=2, conv=Conv(n_channels=16, kernel_frames=3), dropout=0.1),
        ),
        data=made_data.data(made_dir),
        augment=Augment(
            shift_ms=20,
            resample=0.05,
            placement_rate=0.3,
            truncation_rate=0.05,
            noise_rate=0.2,
            noise_snr_db=(20.0, 40.0),
            n_time_masks=1,
            time_mask_frames=3,
        ),
        train=Train(epochs=EPOCHS, batch_size=2, learning_rate=1e-2, warmup_epochs=0.2, ema_decay=0.9),
    )


def trainer_of(experiment: Experiment, pack: Pack) -> Trainer:
    return Trainer(experiment, pack, Fabric(accelerator="cpu", devices=1, precision=experiment.train.precision))


def augmented(trainer: Trainer, plan: list[PlannedContext]) -> TrainingBatch:
    """What the first step would train on."""
    return trainer.augmented(trainer.batches.cut(plan, 0))


class Run(NamedTuple):
    """A finished run: its folder, the accuracy that `fit` returned, and what it told on the way."""

    folder: Path
    accuracy: float
    progress: list[Progress]


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in records(folder) if "loss" in record]


def run(experiment: Experiment, pack: Pack, folder: Path) -> Run:
    progress: list[Progress] = []
    accuracy = fit(experiment, pack, folder, accelerator="cpu", on_progress=progress.append)
    return Run(folder, accuracy, progress)


@pytest.fixture(scope="module")
def whole(tiny: Experiment, made_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing stopped."""
    return run(tiny, made_pack, tmp_path_factory.mktemp("whole"))


def assert_equal(one: Any, other: Any, place: str = "") -> None:
    """Equality of trees of plain data and tensors, to the bit."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for index, (item, item_of_other) in enumerate(zip(one, other, strict=True)):
            assert_equal(item, item_of_other, f"{place}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other, place


# The schedule and the average


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),  # warm-up: 2 epochs of 5 steps
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),  # then a cosine over the 40 steps that are left
        (20, 0.8535534),
        (30, 0.5),
        (40, 0.1464466),
        (49, 0.0015413),
    ],
)
@pytest.mark.parametrize("highest", [1.0, 3e-3])
def test_the_learning_rate_warms_up_and_falls_as_a_cosine(step: int, expected: float, highest: float) -> None:
    config = Train(epochs=10, warmup_epochs=2, learning_rate=highest)
    assert learning_rate(config, step, steps_per_epoch=5) == pytest.approx(highest * expected, rel=1e-4)


@pytest.mark.parametrize(("warmup_epochs", "expected"), [(0.0, 1.0), (0.1, 1.0), (0.4, 0.5), (1.0, 0.2)])
def test_the_first_step_of_any_warm_up(warmup_epochs: float, expected: float) -> None:
    config = Train(epochs=2, warmup_epochs=warmup_epochs, learning_rate=1.0)
    assert learning_rate(config, 0, steps_per_epoch=5) == pytest.approx(expected)


@pytest.mark.parametrize(
    "spec",
    [
        Classifier(hidden_size=8, conv=Conv(n_channels=4)),
        Classifier(hidden_size=8, cell="lstm", conv2d=Conv2d(n_channels=(3, 2))),
    ],
)
def test_weights_decay_and_biases_and_normalisations_do_not(
    tiny: Experiment, made_pack: Pack, spec: Classifier
) -> None:
    model = msgspec.structs.replace(tiny.model, classifier=spec)
    trainer = trainer_of(msgspec.structs.replace(tiny, model=model), made_pack)
    names = {id(parameter): name for name, parameter in trainer.net.classifier.named_parameters()}
    decayed, others = (
        [names[id(parameter)] for parameter in group["params"]] for group in trainer.optimizer.param_groups
    )
    assert sorted(decayed + others) == sorted(names.values())
    assert all("norm" in name or "bias" in name for name in others)
    assert not any("norm" in name or "bias" in name for name in decayed)


def test_the_average_never_keeps_the_initial_weights(tiny: Experiment, made_pack: Pack) -> None:
    """The first update copies; those after it keep (1 + n) / (10 + n) of the average, at most `ema_decay`."""
    trainer = trainer_of(change(tiny, ema_decay=0.3), made_pack)
    plan = trainer.examples.epoch(np.random.default_rng(0))[:2]
    for parameter in trainer.average.module.parameters():
        parameter.data.fill_(1e6)
    expected = [p.detach().clone() for p in trainer.net.classifier.parameters()]
    for kept in (0, 2 / 11, 3 / 12, 0.3, 0.3):
        trainer.train_step(trainer.batches.cut(plan, trainer.step))
        weights = [p.detach().clone() for p in trainer.net.classifier.parameters()]
        expected = [kept * old + (1 - kept) * new for old, new in zip(expected, weights, strict=True)]
        averages = [p.detach() for p in trainer.average.module.parameters()]
        for average, by_hand in zip(averages, expected, strict=True):
            torch.testing.assert_close(average, by_hand, rtol=1e-5, atol=1e-6)


def test_the_averaged_network_has_the_averaged_weights_and_the_feature_statistics(
    tiny: Experiment, made_pack: Pack
) -> None:
    trainer = trainer_of(tiny, made_pack)
    plan = trainer.examples.epoch(np.random.default_rng(0))
    for _ in range(3):
        trainer.train_step(trainer.batches.cut(plan[:2], trainer.step))
    net = trainer.averaged_net()
    assert_equal(dict(net.classifier.state_dict()), dict(trainer.average.module.state_dict()))
    assert_equal(dict(net.norm.state_dict()), dict(trainer.net.norm.state_dict()))
    assert not torch.equal(net.classifier.output.weight, trainer.net.classifier.output.weight)
    assert not net.training


@pytest.mark.parametrize(("clip_norm", "n_clipped"), [(1e-3, 1), (1e9, 0)])
def test_gradients_are_clipped_to_the_norm_that_is_configured(
    tiny: Experiment, made_pack: Pack, clip_norm: float, n_clipped: int
) -> None:
    trainer = trainer_of(change(tiny, clip_norm=clip_norm), made_pack)
    trainer.train_step(trainer.batches.cut(trainer.batches.plan(0)[:8], 0))
    gradients = [p.grad.norm() for p in trainer.net.classifier.parameters() if p.grad is not None]
    norm = float(torch.stack(gradients).norm())
    assert norm == pytest.approx(1e-3, rel=1e-3) if n_clipped else norm > 0.1
    assert trainer.n_clipped == n_clipped


# Learning


def eight_clips(pack: Pack) -> Pack:
    """Four training clips of each keyword, and the clips of validation."""
    chosen = [clip for clip in pack.clips if clip.kind == "command" and clip.word in ("yes", "no")]
    training_clips = [clip for clip in chosen if clip.split == "training"]
    four_each = [clip for word in ("yes", "no") for clip in [c for c in training_clips if c.word == word][:4]]
    return Pack([*four_each, *(clip for clip in chosen if clip.split == "validation")], pack.samples, [])


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_eight_clips_are_overfitted(made_dir: Path, made_pack: Pack, cell: Any) -> None:
    experiment = Experiment(
        model=Spec(
            labels=Labels(("yes", "no"), unknown=False, silence=False),
            features=LogMel(n_mels=16, frame_ms=32.0, hop_ms=20.0),
            classifier=Classifier(cell=cell, hidden_size=16, n_layers=1, dropout=0.0),
        ),
        data=made_data.data(made_dir),
        train=Train(epochs=60, batch_size=8, learning_rate=1e-2, label_smoothing=0.0, weight_decay=0.0),
    )
    trainer = trainer_of(experiment, eight_clips(made_pack))
    plan = trainer.examples.epoch(np.random.default_rng(0))
    assert len(plan) == 8
    steps = [trainer.train_step(trainer.batches.cut(plan, trainer.step)) for _ in range(60)]
    assert steps[0] > 0.5
    assert steps[-1] < 0.01


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path) -> None:
    again = run(tiny, made_pack, tmp_path)
    timeless = [
        [{key: value for key, value in record.items() if key != "utterances_per_s"} for record in records(folder)]
        for folder in (whole.folder, again.folder)
    ]
    assert timeless[0] == timeless[1]
    assert_equal(load_plain(again.folder / "last.pt"), load_plain(whole.folder / "last.pt"))


@pytest.mark.slow
def test_another_seed_gives_another_run(whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path) -> None:
    other = run(change(tiny, seed=2), made_pack, tmp_path)
    assert all(a != b for a, b in zip(losses(other.folder), losses(whole.folder), strict=True))


@pytest.mark.slow
def test_half_precision_trains_weights_of_full_precision(tiny: Experiment, made_pack: Pack, tmp_path: Path) -> None:
    experiment = change(tiny, epochs=1, batch_size=20, precision="bf16-mixed")
    run(experiment, made_pack, tmp_path)
    net, _ = load_checkpoint(tmp_path / "best.pt")
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert all(np.isfinite(loss) for loss in losses(tmp_path))


def test_words_that_are_cut_off_count_as_unknown(tiny: Experiment, made_pack: Pack) -> None:
    trainer = trainer_of(msgspec.structs.replace(tiny, augment=Augment(truncation_rate=1.0)), made_pack)
    plan = [planned for planned in trainer.examples.epoch(np.random.default_rng(0)) if planned.label != 2]
    labels = augmented(trainer, plan).labels
    assert labels.tolist() == [3 if planned.label == 3 else 2 for planned in plan]


@pytest.mark.slow
def test_teachers_make_up_their_fraction_of_the_labels(
    whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path
) -> None:
    plain = change(tiny, label_smoothing=0.2)
    other = run(change(plain, seed=2, epochs=1), made_pack, tmp_path / "other").folder
    paths = [folder / "best.pt" for folder in (whole.folder, other)]
    trainer = trainer_of(change(plain, teachers=tuple(map(str, paths)), teacher_weight=0.75), made_pack)
    batch = augmented(trainer, trainer.batches.plan(0)[:6])
    frames, targets = trainer.inputs(batch)
    with torch.no_grad():
        taught = torch.stack([load_checkpoint(path)[0].eval()(batch.samples).softmax(1) for path in paths]).mean(0)
    torch.testing.assert_close(targets, 0.25 * batch.targets(4, 0.2) + 0.75 * taught)
    torch.testing.assert_close(frames, trainer_of(plain, made_pack).inputs(batch)[0])


@pytest.mark.slow
def test_a_network_comes_to_agree_with_its_teacher(whole: Run, tiny: Experiment, made_pack: Pack) -> None:
    path = whole.folder / "best.pt"
    trainer = trainer_of(change(tiny, teachers=(str(path),), teacher_weight=1.0, seed=3), made_pack)
    batch = validation_set(Examples(made_pack, tiny.model, tiny.data, "validation"), ()).batch
    teacher = load_checkpoint(path)[0]
    expected = predict(teacher, batch, torch.device("cpu")).softmax(1)

    def distance() -> float:
        return float((predict(trainer.net, batch, torch.device("cpu")).softmax(1) - expected).abs().mean())

    before = distance()
    for step in range(60):
        trainer.train_step(trainer.batches.cut(trainer.batches.plan(step)[:16], step))
    assert distance() < before / 2


def test_a_teacher_of_other_features_is_refused(whole: Run, tiny: Experiment, made_pack: Pack) -> None:
    model = msgspec.structs.replace(tiny.model, features=LogMel(n_mels=20, frame_ms=32.0, hop_ms=32.0))
    path = str(whole.folder / "best.pt")
    with pytest.raises(ConfigError, match=f"{path}: expected a teacher with the features, context and labels"):
        trainer_of(change(msgspec.structs.replace(tiny, model=model), teachers=(path,)), made_pack)


def test_a_filter_moves_every_frame_of_a_context_alike(tiny: Experiment, made_pack: Pack) -> None:
    plain = msgspec.structs.replace(tiny, augment=Augment())
    filtered = msgspec.structs.replace(tiny, augment=Augment(filter_db=6.0))
    one, other = (trainer_of(experiment, made_pack) for experiment in (plain, filtered))
    plan = one.batches.plan(0)[:4]
    frames = [trainer.inputs(augmented(trainer, plan))[0] for trainer in (one, other)]
    moved = (frames[1] - frames[0]) * one.net.norm.std
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), rtol=0, atol=1e-4)
    assert moved.std(0).min() > 0.1  # each context has its own


@pytest.mark.slow
def test_a_run_is_not_gone_on_with_under_another_teacher(
    whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path
) -> None:
    teacher = Path(shutil.copy(whole.folder / "best.pt", tmp_path / "teacher.pt"))
    taught = change(tiny, epochs=1, teachers=(str(teacher),))
    run(taught, made_pack, tmp_path / "run")
    net, info = load_checkpoint(teacher)
    save_checkpoint(teacher, RecognizerNet(net.spec), info)
    with pytest.raises(ConfigError, match=r"--resume: .*other weights in train.teachers"):
        fit(taught, made_pack, tmp_path / "run", resume=True, accelerator="cpu")


def test_the_embedding_learns_words_beside_the_classes_and_the_model_is_none_the_larger(
    tiny: Experiment, made_pack: Pack, tmp_path: Path
) -> None:
    experiment = change(tiny, word_weight=0.5, min_clips_per_word=2)
    trainer = trainer_of(experiment, made_pack)
    plan = [p for p in trainer.batches.plan(0) if p.clip is not None and p.clip.kind == "command" and p.how == "whole"][
        :8
    ]
    of_words = []
    for _ in range(60):
        raw = trainer.batches.cut(plan, 0)
        with torch.no_grad():
            frames, _ = trainer.inputs(trainer.augmented(raw))
            words = trainer.classifier(frames)[1]
            of_words.append(
                float(torch.nn.functional.cross_entropy(words, torch.from_numpy(raw.words), ignore_index=-1))
            )
        trainer.train_step(raw)
    assert of_words[-1] < of_words[0] / 2
    names = trainer.averaged_net().state_dict().keys()
    assert names == trainer_of(tiny, made_pack).averaged_net().state_dict().keys()


def test_a_run_starts_from_the_weights_it_is_told_to(tiny: Experiment, made_pack: Pack, tmp_path: Path) -> None:
    before = trainer_of(change(tiny, seed=5), made_pack)
    save_checkpoint(tmp_path / "before.pt", before.net, ModelInfo(spec=tiny.model))
    started = trainer_of(change(tiny, initial=str(tmp_path / "before.pt")), made_pack)
    assert_equal(dict(started.net.state_dict()), dict(before.net.state_dict()))


def test_a_run_does_not_start_from_a_network_of_another_shape(
    tiny: Experiment, made_pack: Pack, tmp_path: Path
) -> None:
    before = trainer_of(tiny, made_pack)
    save_checkpoint(tmp_path / "before.pt", before.net, ModelInfo(spec=tiny.model))
    spec = msgspec.structs.replace(tiny.model, labels=Labels(("yes",)))
    other = msgspec.structs.replace(change(tiny, initial=str(tmp_path / "before.pt")), model=spec)
    with pytest.raises(ConfigError) as caught:
        trainer_of(other, made_pack)
    assert_one_line(caught.value, "before.pt", "shape")


def test_labels_of_mixed_contexts_are_mixed() -> None:
    labels, others = torch.tensor([0, 2]), torch.tensor([1, 2])
    batch = TrainingBatch(
        torch.zeros(2, 4), labels, others, torch.tensor([0.75, 0.5]), torch.zeros(2, 5), torch.zeros(2, 0), labels
    )
    expected = torch.tensor([[0.75 * 0.7 + 0.1, 0.25 * 0.7 + 0.1, 0.1], [0.1, 0.1, 0.8]])
    torch.testing.assert_close(batch.targets(3, label_smoothing=0.3), expected)


def test_batches_without_augmentation_are_the_clips_themselves(tiny: Experiment, made_pack: Pack) -> None:
    trainer = trainer_of(msgspec.structs.replace(tiny, augment=Augment()), made_pack)
    (clip, *_) = [c for c in made_pack.clips if c.word == "yes" and c.split == "training" and c.n_samples == 16000]
    samples, labels, *_ = augmented(trainer, [PlannedContext(0, clip)])
    packed = made_pack.samples_of(clip)
    assert torch.equal(samples[0], torch.from_numpy(packed.astype(np.float32) / 32768))
    assert labels.tolist() == [0]


def test_features_are_normalised_over_the_training_data(tiny: Experiment, made_pack: Pack) -> None:
    trainer = trainer_of(msgspec.structs.replace(tiny, augment=Augment()), made_pack)
    samples = augmented(trainer, trainer.examples.epoch(np.random.default_rng(5))).samples
    flat = trainer.net.frames(samples).reshape(-1, 24)
    torch.testing.assert_close(flat.mean(0), torch.zeros(24), rtol=0, atol=0.25)
    torch.testing.assert_close(flat.std(0), torch.ones(24), rtol=0, atol=0.25)


# Runs that cannot go on


@pytest.mark.parametrize(("rate", "clip_norm"), [(1e5, 1e30), (1e6, 1.0)])
def test_training_that_diverges_stops_at_once_and_says_what_to_try(
    tiny: Experiment, made_pack: Pack, tmp_path: Path, rate: float, clip_norm: float
) -> None:
    experiment = change(tiny, learning_rate=rate, clip_norm=clip_norm, warmup_epochs=0.0)
    with pytest.raises(ConfigError) as caught:
        run(experiment, made_pack, tmp_path)
    assert_one_line(caught.value, "training has diverged at step", "not finite", "lower train.learning_rate")
    assert not any(np.isnan(loss) for loss in losses(tmp_path))


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_another_process_trains_is_refused(
    tiny: Experiment, made_pack: Pack, tmp_path: Path, *, resume: bool
) -> None:
    if resume:
        (tmp_path / "last.pt").touch()
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError) as caught:
        fit(tiny, made_pack, tmp_path, resume=resume, accelerator="cpu")
    assert_one_line(caught.value, f"{tmp_path}: another process trains in this folder")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a bound on the size of files")
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays_whole(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "last.pt"
    write_atomically({"step": 1}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
    try:
        with pytest.raises(OutputError) as caught:
            write_atomically({"step": 2, "weights": torch.zeros(10**6)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_one_line(caught.value, str(path), "cannot write there")
    assert load_plain(path) == {"step": 1}
    assert [*tmp_path.iterdir()] == [path]


# Several processes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on a single core
def test_other_processes_cut_the_same_batches_in_order(tiny: Experiment, made_pack: Pack) -> None:
    trainer = trainer_of(tiny, made_pack)
    here, elsewhere = (list(prefetch_batches(trainer.batches, epoch=1, first=2, n_processes=n)) for n in (0, 2))
    plan, size = trainer.batches.plan(1), tiny.train.batch_size
    expected = [
        trainer.batches.cut(plan[step * size : (step + 1) * size], trainer.batches.per_epoch + step)
        for step in range(2, trainer.batches.per_epoch)
    ]
    assert len(expected) > 2
    for batches in (here, elsewhere):
        np.testing.assert_equal([tuple(batch) for batch in batches], [tuple(batch) for batch in expected])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on a single core
def test_a_run_whose_batches_other_processes_cut_is_the_same(
    whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_n_loader_workers", lambda device: 2)
    assert_equal(load_plain(run(tiny, made_pack, tmp_path).folder / "last.pt"), load_plain(whole.folder / "last.pt"))


@pytest.mark.slow
def test_two_processes_train_to_what_one_does(tiny: Experiment, made_pack: Pack, tmp_path: Path) -> None:
    """Without dropout, whose masks are each process's own, only the order of sums differs."""
    model = msgspec.structs.replace(tiny.model, classifier=msgspec.structs.replace(tiny.model.classifier, dropout=0.0))
    augmented = msgspec.structs.replace(tiny.augment, mixup_rate=0.5, n_feature_masks=1)
    experiment = change(msgspec.structs.replace(tiny, model=model, augment=augmented), epochs=1, batch_size=8)
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(to_tree(experiment)))
    run(experiment, made_pack, tmp_path / "one")
    command = [sys.executable, "-m", "speechrnn", "train", str(config), "--run-dir", str(tmp_path / "two")]
    options = ["--accelerator", "cpu", "--devices", "2"]
    result = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best.pt") == 1
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    one, two = (load_plain(tmp_path / name / "last.pt") for name in ("one", "two"))
    assert one["step"] == two["step"] == 7
    for name, weights in one["net"].items():
        torch.testing.assert_close(two["net"][name], weights, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_refused(tiny: Experiment, made_pack: Pack, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(to_tree(change(tiny, batch_size=7))))
    command = [sys.executable, "-m", "speechrnn", "train", str(config), "--run-dir", str(tmp_path / "run")]
    options = ["--accelerator", "cpu", "--devices", "2"]
    result = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode != 0
    assert "expected a train.batch_size that 2 processes can share, got 7" in result.stderr


@pytest.mark.parametrize(("accelerator", "devices"), [("cpu", 0), ("cpu", "many")])
def test_devices_that_are_not_there_are_refused(
    tiny: Experiment, made_pack: Pack, tmp_path: Path, accelerator: str, devices: int | str
) -> None:
    with pytest.raises(ConfigError, match=f"cannot use {devices} device"):
        fit(tiny, made_pack, tmp_path / "run", accelerator=accelerator, devices=devices)
    assert not (tmp_path / "run").exists()


# What a run leaves behind


def test_a_run_folder_holds_its_files_and_no_others(whole: Run) -> None:
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {".lock", "config.toml", "log.jsonl", "curves.png", "last.pt", "best.pt"}
    assert (whole.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_training_curves_are_those_of_the_log(whole: Run) -> None:
    log = records(whole.folder)
    steps, scores = ([r for r in log if ("loss" in r) == is_step] for is_step in (True, False))
    expected = [
        [(r["step"], r["loss"]) for r in steps],
        [(r["step"], r["validation_loss"]) for r in scores],
        [(r["step"], 100 * r["validation_balanced_accuracy"]) for r in scores],
        [(r["step"], r["learning_rate"]) for r in steps],
    ]
    drawn = [line.get_xydata() for axis in draw_curves(log).axes for line in axis.lines]
    assert len(drawn) == len(expected)
    for line, points in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(np.asarray(line, dtype=np.float64), np.array(points))


def test_the_configuration_of_a_run_loads_to_the_same_experiment(whole: Run, tiny: Experiment) -> None:
    assert load_experiment(whole.folder / "config.toml") == tiny


def test_the_log_tells_of_every_twentieth_step_and_of_every_epoch(whole: Run, tiny: Experiment) -> None:
    steps = [record for record in records(whole.folder) if "loss" in record]
    scores = [record for record in records(whole.folder) if "loss" not in record]
    assert [record["step"] for record in steps] == [20, 30, 40, 60]
    assert [record["step"] for record in scores] == [30, 60]
    for record in steps:
        assert set(record) == {"step", "loss", "learning_rate", "clipped_rate", "utterances_per_s"}
        step = int(record["step"])
        assert record["learning_rate"] == learning_rate(tiny.train, step - 1, STEPS_PER_EPOCH)
        assert 0 <= record["clipped_rate"] <= 1
        assert record["utterances_per_s"] > 0
    words = {f"validation {name}" for name in tiny.model.labels.names}
    for record in scores:
        scores_of = {"validation_loss", "validation_accuracy", "validation_balanced_accuracy"}
        assert set(record) == {"step", *scores_of, *words}
        recalls = [record[word] for word in words]
        assert record["validation_balanced_accuracy"] == pytest.approx(sum(recalls) / len(recalls), abs=1e-4)
    assert losses(whole.folder)[-1] < losses(whole.folder)[0]


def test_progress_says_what_the_log_does(whole: Run) -> None:
    assert [p.step for p in whole.progress] == [20, 30, 40, 60]
    assert [p.loss for p in whole.progress] == losses(whole.folder)
    assert [p.epoch for p in whole.progress] == [1, 1, 2, 2]
    assert {(p.n_epochs, p.n_steps) for p in whole.progress} == {(EPOCHS, EPOCHS * STEPS_PER_EPOCH)}
    first_score = next(
        record["validation_balanced_accuracy"] for record in records(whole.folder) if "loss" not in record
    )
    assert [p.accuracy for p in whole.progress] == [0, 0, first_score, first_score]
    assert whole.progress[-1].left_s == 0


def test_the_best_model_reaches_the_accuracy_it_claims(whole: Run, tiny: Experiment, made_pack: Pack) -> None:
    net, info = load_checkpoint(whole.folder / "best.pt")
    batch = validation_set(Examples(made_pack, info.spec, tiny.data, "validation"), ()).batch
    predicted = predict(net, batch, torch.device("cpu"), rows_at_once=7).argmax(1)
    correct = (predicted == torch.from_numpy(batch.labels)).numpy()
    balanced = np.mean([correct[batch.labels == label].mean() for label in range(4)])
    assert whole.accuracy > 0.6
    assert whole.accuracy == max(record.get("validation_balanced_accuracy", 0) for record in records(whole.folder))
    assert balanced == pytest.approx(whole.accuracy, abs=1e-6)
    assert info.provenance.scores["validation balanced accuracy"] == pytest.approx(balanced, abs=1e-5)
    assert info.provenance.scores["validation accuracy"] == pytest.approx(correct.mean(), abs=1e-5)
    assert info.provenance.scores["validation contexts"] == len(batch.labels)
    assert info.spec == tiny.model
    assert msgspec.convert(info.provenance.config, Experiment) == tiny
    assert info.provenance.data["training yes"] == 24


def test_validation_leaves_the_network_as_it_is_and_balances_the_recalls(tiny: Experiment, made_pack: Pack) -> None:
    trainer = trainer_of(tiny, made_pack)
    net, held_out = trainer.averaged_net(), ("wow",)
    before = {name: values.clone() for name, values in net.state_dict().items()}
    found = validation_set(Examples(made_pack, tiny.model, tiny.data, "validation"), held_out)
    scores = validate(net, found, trainer.examples.clips.fractions(), torch.device("cpu"))
    assert_equal(before, dict(net.state_dict()))
    right = scores.calibration.apply(predict(net, found.batch, torch.device("cpu")).numpy()).argmax(1)
    correct, labels = right == found.batch.labels, found.batch.labels
    expected = {name: correct[labels == i].mean() for i, name in enumerate(tiny.model.labels.names)}
    assert scores.balanced_accuracy == pytest.approx(np.mean(list(expected.values())))
    assert scores.recalls == pytest.approx(expected | {"new words": correct[found.is_held_out].mean()})
    assert scores.accuracy == pytest.approx(correct.mean())


def test_the_best_model_is_calibrated_on_validation(whole: Run, tiny: Experiment, made_pack: Pack) -> None:
    net, info = load_checkpoint(whole.folder / "best.pt")
    batch = validation_set(Examples(made_pack, info.spec, tiny.data, "validation"), ()).batch
    posteriors = predict(net, batch, torch.device("cpu")).softmax(1).numpy()
    fractions = Examples(made_pack, info.spec, tiny.data, "training").clips.fractions()
    np.testing.assert_allclose(class_weights(batch.labels, fractions) @ posteriors, fractions, atol=1e-3)
    found = expected_calibration_error(reliability(posteriors, batch.labels))
    assert found == pytest.approx(info.provenance.scores["validation expected calibration error"], abs=1e-4)


def all_right_or_all_wrong(monkeypatch: pytest.MonkeyPatch, *right: bool) -> None:
    """Let the network label all validation contexts right, or all wrong, each time that it is scored."""
    times = iter(right)

    def predicted(net: object, batch: Batch, device: object) -> torch.Tensor:
        answers = torch.nn.functional.one_hot(torch.from_numpy(batch.labels), 4).float()
        return answers if next(times) else -answers

    monkeypatch.setattr(validation, "predict", predicted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "kept_epoch"), [((True, False), 1), ((False, True), 2), ((True, True), 2), ((False, False), 2)]
)
@pytest.mark.parametrize("stopped", [False, True])
def test_the_last_of_the_best_epochs_is_kept(
    tiny: Experiment,
    made_pack: Pack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    right: tuple[bool, bool],
    kept_epoch: int,
    stopped: bool,
) -> None:
    experiment = change(tiny, batch_size=20)  # 3 steps an epoch
    all_right_or_all_wrong(monkeypatch, *right)
    if stopped:
        stop(experiment, made_pack, tmp_path, 6, KeyboardInterrupt)
        accuracy = resume(experiment, made_pack, tmp_path)
    else:
        accuracy = run(experiment, made_pack, tmp_path).accuracy
    _, info = load_checkpoint(tmp_path / "best.pt")
    assert accuracy == info.provenance.scores["validation accuracy"] == float(any(right))
    assert info.provenance.scores["training contexts seen"] == 60 * kept_epoch


# Stopping and going on


def stopping(step: int, error: type[BaseException]) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.step == step:
            raise error

    return on_progress


def stop(experiment: Experiment, pack: Pack, folder: Path, step: int, error: type[BaseException]) -> None:
    """Begin a run, and stop it when it tells of this step."""
    with pytest.raises(error):
        fit(experiment, pack, folder, accelerator="cpu", on_progress=stopping(step, error))


def resume(experiment: Experiment, pack: Pack, folder: Path) -> float:
    return fit(experiment, pack, folder, resume=True, accelerator="cpu")


def assert_same_run(folder: Path, whole: Run) -> None:
    """Weights and states equal to the bit, the same scores, and each step in the log once."""
    assert_equal(load_plain(folder / "last.pt"), load_plain(whole.folder / "last.pt"))
    best, best_of_whole = (load_checkpoint(path / "best.pt") for path in (folder, whole.folder))
    assert_equal(dict(best[0].state_dict()), dict(best_of_whole[0].state_dict()))
    assert best[1] == best_of_whole[1]
    log, log_of_whole = records(folder), records(whole.folder)
    assert [r for r in log if "loss" not in r] == [r for r in log_of_whole if "loss" not in r]
    assert [r["step"] for r in log if "loss" in r] == [r["step"] for r in log_of_whole if "loss" in r]
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "error", "saved_step"),
    [
        (20, KeyboardInterrupt, 20),  # before anything else was saved
        (30, KeyboardInterrupt, 30),  # an epoch is done but has no score yet
        (60, KeyboardInterrupt, 60),
        (40, KilledError, 30),  # back to the end of the last epoch
        (60, KilledError, 30),
    ],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    whole: Run,
    tiny: Experiment,
    made_pack: Pack,
    tmp_path: Path,
    step: int,
    error: type[BaseException],
    saved_step: int,
) -> None:
    stop(tiny, made_pack, tmp_path, step, error)
    assert load_plain(tmp_path / "last.pt")["step"] == saved_step
    assert resume(tiny, made_pack, tmp_path) == whole.accuracy
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", [40, 60])
def test_a_run_goes_on_from_within_an_epoch(
    whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0.0)
    stop(tiny, made_pack, tmp_path, step, KilledError)
    monkeypatch.undo()
    assert load_plain(tmp_path / "last.pt")["step"] == step - 1
    resume(tiny, made_pack, tmp_path)
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("n_scored", "error"), [(0, KilledError), (1, KeyboardInterrupt)])
def test_a_run_that_was_stopped_while_it_was_scored_is_scored_again(
    whole: Run,
    tiny: Experiment,
    made_pack: Pack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_scored: int,
    error: type[BaseException],
) -> None:
    scored = iter([True] * n_scored)

    def interrupted(*arguments: Any) -> torch.Tensor:
        if next(scored, False):
            return predict(*arguments)
        raise error

    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(validation, "predict", interrupted)
    with pytest.raises(error):
        run(tiny, made_pack, tmp_path)
    monkeypatch.undo()
    resume(tiny, made_pack, tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_finished_run_stays_as_it_is_when_it_is_resumed(
    whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path
) -> None:
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    assert resume(tiny, made_pack, tmp_path) == whole.accuracy
    assert_same_run(tmp_path, whole)
    assert losses(tmp_path) == losses(whole.folder)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import torch
from speechrnn.config import load_experiment
from speechrnn.data.pack import prepare
from speechrnn.training.loop import fit

def kill(progress):
    if progress.step == 40:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
experiment = load_experiment(Path(sys.argv[1]))
fit(experiment, prepare(experiment.data), Path(sys.argv[2]), accelerator="cpu", on_progress=kill)
"""


@pytest.mark.slow
def test_a_process_that_was_killed_ends_as_one_that_was_not(
    whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path
) -> None:
    config, folder = tmp_path / "tiny.toml", tmp_path / "run"
    config.write_text(tomli_w.dumps(to_tree(tiny)))
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(config), str(folder)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert records(folder)[-1]["step"] == 40
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step":41,"loss":0.')  # as if it had died while it wrote
    resume(tiny, made_pack, folder)
    assert_same_run(folder, whole)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(content: object, file: Any) -> None:
        file.write(b"half")
        raise KilledError

    write_atomically({"step": 1}, tmp_path / "last.pt")
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KilledError):
        write_atomically({"step": 2}, tmp_path / "last.pt")
    assert load_plain(tmp_path / "last.pt") == {"step": 1}


@pytest.mark.parametrize("changes", [{"seed": 9}, {"epochs": 4}, {"learning_rate": 2e-2}])
def test_another_configuration_is_not_resumed(
    whole: Run, tiny: Experiment, made_pack: Pack, tmp_path: Path, changes: dict[str, Any]
) -> None:
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match="--resume: the run was started with another configuration"):
        resume(change(tiny, **changes), made_pack, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_with_a_run_in_it_is_refused(whole: Run, tiny: Experiment, made_pack: Pack) -> None:
    before = {path.name: path.read_bytes() for path in whole.folder.iterdir()}
    with pytest.raises(ConfigError, match=f"{whole.folder}: holds a run already; give --resume"):
        fit(tiny, made_pack, whole.folder, accelerator="cpu")
    assert {path.name: path.read_bytes() for path in whole.folder.iterdir()} == before


def test_a_folder_without_a_run_is_not_resumed(tiny: Experiment, made_pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path / 'none'}: nothing to resume; expected last.pt there"):
        fit(tiny, made_pack, tmp_path / "none", resume=True, accelerator="cpu")
    assert not (tmp_path / "none").exists()


# What cannot be trained


def test_fewer_contexts_than_a_batch_are_refused(tiny: Experiment, made_pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one batch of 61, got 60 contexts"):
        run(change(tiny, batch_size=61), made_pack, tmp_path)
