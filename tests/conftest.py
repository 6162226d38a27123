"""Fixtures that several rooms share."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from speechrnn.data.clips import Pack
from speechrnn.data.pack import prepare
from speechrnn.labels import Labels
from speechrnn.spec import Classifier, Conv, Mfcc, ModelInfo, OperatingPoint, Options, Provenance, Spec
from tests import made_data
from tests.helpers import SmallModel, noise

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell; programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile(
    "speechrnn", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("speechrnn")
CONFIGS = Path(__file__).parents[1] / "configs"


class KilledError(Exception):
    """Stands for whatever ends a process, in tests of what it leaves behind."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who needs a network that was trained or exported, a server in real time, or a microphone is slow."""
    for item in items:
        if {"smoke_run", "small_model", "serving", "real_serving", "played_sound"} & {
            *getattr(item, "fixturenames", ())
        }:
            item.add_marker(pytest.mark.slow)


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Gives the folder of a name, which the first process that asks fills, and all processes of a run share."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        path, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
                fill(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def made_dir(once: Once) -> Path:
    """Root of a whole made data set, laid out as Speech Commands; read it, but change nothing in it."""
    return once("made", made_data.write)


@pytest.fixture(scope="session")
def made_pack(made_dir: Path) -> Pack:
    """The made data set, packed."""
    return prepare(made_data.data(made_dir))


class SmokeRun(NamedTuple):
    """The files of one run of the whole road, and what each command printed."""

    data: Path
    run_dir: Path
    checkpoint: Path
    model: Path
    printed: dict[str, str]


def _run_smoke(folder: Path, data: Path) -> None:
    from click.testing import CliRunner

    from speechrnn.cli.main import cli

    config, data_option, printed = str(CONFIGS / "smoke.toml"), ["--data", str(data)], {}
    for arguments in (
        ["prepare", config, *data_option],
        ["train", config, *data_option, "--run-dir", str(folder / "run")],
        ["export", str(folder / "run" / "best.pt"), str(folder / "smoke.onnx")],
    ):
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        printed[arguments[0]] = result.stdout
    (folder / "printed.json").write_text(json.dumps(printed))


@pytest.fixture(scope="session")
def smoke_run(made_dir: Path, once: Once) -> SmokeRun:
    """`configs/smoke.toml` prepared, trained and exported by the command line on made data."""
    folder = once("smoke", lambda path: _run_smoke(path, made_dir))
    printed = json.loads((folder / "printed.json").read_text())
    return SmokeRun(made_dir, folder / "run", folder / "run" / "best.pt", folder / "smoke.onnx", printed)


@pytest.fixture(scope="session")
def small_model(once: Once) -> SmallModel:
    """An untrained network at 8 kHz as a checkpoint and as ONNX; read its files, but change nothing in them."""
    import torch

    from speechrnn.model.network import RecognizerNet, save_checkpoint
    from speechrnn.training.export import export

    spec = Spec(
        labels=Labels(("yes", "nö, never")),
        features=Mfcc(n_mels=16, n_coefficients=8, f_max_hz=3800.0),
        classifier=Classifier(hidden_size=8, n_layers=1, conv=Conv(n_channels=8)),
        sample_rate_hz=8000,
    )
    options = Options(threshold=0.6, thresholds={"yes": 0.8}, lag_ms=120)
    provenance = Provenance(created="2026-01-02", config={"train": {"epochs": 3}}, scores={"accuracy": 0.9})
    points = {"strict": OperatingPoint(threshold=0.9, release=0.5, false_alarms_per_hour=0.25, misses=0.125)}
    info = ModelInfo(spec=spec, options=options, operating_points=points, provenance=provenance)
    torch.manual_seed(0)
    net, contexts = RecognizerNet(spec).eval(), noise(5, spec.context_samples)

    def write(folder: Path) -> None:
        save_checkpoint(folder / "small.pt", net, info)
        export(net, info, contexts, folder / "small.onnx")

    folder = once("small", write)
    return SmallModel(net, info, folder / "small.pt", folder / "small.onnx", contexts)
