"""The comparison of cells: what is measured of a run, and that it is kept."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from pipelines.studies import compare_cells
from pipelines.studies.compare_cells import (
    CellResult,
    Variant,
    draw_gradients,
    draw_losses,
    input_gradients,
    run,
    spoken,
    table,
)
from speechrnn.audio import from_int16
from speechrnn.config import load_experiment
from speechrnn.data.clips import Pack
from speechrnn.data.cutting import Batch
from speechrnn.model.network import RecognizerNet, load_checkpoint
from speechrnn.spec import Classifier, ModelInfo, Spec
from tests.conftest import CONFIGS
from tests.helpers import FAKE_INFO, RATE_HZ


def batch(n_contexts: int) -> Batch:
    random = np.random.default_rng(0)
    samples = random.integers(-3000, 3000, (n_contexts, RATE_HZ)).astype(np.int16)
    ends = np.where(np.arange(n_contexts) % 3 == 0, 0, 8000)  # every third is silence
    return Batch(samples, random.integers(4, size=n_contexts), np.zeros_like(ends), ends, ends)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(("bidirectional", "frame"), [(False, -1), (False, -3), (True, 0), (True, -1)])
def test_the_gradient_of_a_frame_is_what_nudging_it_does_to_the_loss(
    cell: str, bidirectional: bool, frame: int
) -> None:
    torch.manual_seed(0)
    network = {"cell": cell, "bidirectional": bidirectional, "hidden_size": 8, "n_layers": 1, "pooling": "last"}
    spec = Spec(labels=FAKE_INFO.spec.labels, classifier=msgspec.convert(network, Classifier))
    net = RecognizerNet(spec).eval()
    one = batch(1)
    with torch.no_grad():
        frames = net.frames(torch.from_numpy(from_int16(one.samples)))
        nudges = torch.zeros(2 * spec.features.n_features, *frames.shape[1:])
        nudges[:, frame] = 0.01 * torch.cat([torch.eye(spec.features.n_features), -torch.eye(spec.features.n_features)])
        logits = net.classifier(frames + nudges)
        losses = torch.nn.functional.cross_entropy(logits, torch.full((len(logits),), one.labels[0]), reduction="none")
    up, down = losses.chunk(2)
    assert input_gradients(net, one)[frame] == pytest.approx(float(((up - down) / 0.02).norm()), rel=0.02)


def test_the_gradient_of_many_contexts_is_the_median_of_each() -> None:
    net = RecognizerNet(FAKE_INFO.spec).eval()
    many = batch(5)
    rows = [slice(i, i + 1) for i in range(5)]
    single = [Batch(many.samples[r], *(values[r] for values in many[1:])) for r in rows]
    alone = [input_gradients(net, one) for one in single]
    np.testing.assert_allclose(input_gradients(net, many), np.median(alone, axis=0), rtol=1e-3, atol=1e-9)


def test_only_contexts_with_a_word_are_looked_at() -> None:
    many = batch(30)
    found = spoken(many, 10)
    assert len(found.samples) == 10
    assert (found.word_end > 0).all()
    np.testing.assert_array_equal(found.samples, many.samples[many.word_end > 0][::2])


@pytest.mark.slow
def test_a_run_is_kept(made_pack: Pack, made_dir: Path, tmp_path: Path) -> None:
    base = load_experiment(CONFIGS / "smoke.toml", data_dir=str(made_dir))
    first, second = (run(base, made_pack, Variant("rnn"), 1, tmp_path) for _ in range(2))
    assert first.losses == second.losses
    np.testing.assert_array_equal(first.trained, second.trained)
    assert (first.trained != first.untrained).any()
    assert 0 < first.context_ms < 1000


@pytest.mark.slow
def test_what_export_refuses_of_a_trained_cell_is_timed_all_the_same(
    made_pack: Pack, made_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grown(path: Path) -> tuple[RecognizerNet, ModelInfo]:
        net, info = load_checkpoint(path)
        with torch.no_grad():
            for weights in net.parameters():
                weights.mul_(1000)
        return net, info

    monkeypatch.setattr(compare_cells, "load_checkpoint", grown)
    base = load_experiment(CONFIGS / "smoke.toml", data_dir=str(made_dir))
    assert run(base, made_pack, Variant("rnn", clipped=False), 1, tmp_path).context_ms > 0


def test_the_table_and_the_pictures_tell_of_every_run() -> None:
    gradients = np.logspace(-4, 0, 97)
    found = CellResult(0.5, 1234, 2_000_000, 0.75, 0.25, gradients, gradients**2, [(20, 2.0), (40, 1.5)])
    outcomes = {
        variant: found
        for cell in ("rnn", "lstm", "gru")
        for variant in (Variant(cell), Variant(cell, bidirectional=True), Variant(cell, clipped=False))
    }
    lines = table(outcomes).to_markdown()
    assert lines[2] == "| plain (tanh) | 1 | yes | 50.0 % | 1,234 | 2.00 | 0.75 | 25 % | 1.0e-04 | 1.0e-08 |"
    assert len(lines) == 11
    assert {line.count("|") for line in lines} == {11}
    axes = draw_gradients(outcomes, 0.01).axes
    assert [len(axis.lines) for axis in axes] == [3, 3, 3, 2, 2, 2]
    assert np.asarray(axes[0].lines[0].get_xdata())[-1] == pytest.approx(0.96)
    assert [len(axis.lines) for axis in draw_losses(outcomes).axes] == [2, 2, 2]
