"""The verbs that make a model: prepare, train, export."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechrnn.cli.console import PATH, ProgressLine, data_option, note, overrides_option, pack_audio
from speechrnn.errors import ConfigError
from speechrnn.files import check_place, writing

if TYPE_CHECKING:
    from speechrnn.config import Data
    from speechrnn.spec import ModelInfo


@click.command(short_help="Pack audio for training into one file.")
@click.argument("config", type=PATH)
@overrides_option
@data_option
@click.option(
    "--download",
    type=click.Choice(("v0.01", "v0.02")),
    show_default="nothing",
    help="Fetch this version of Speech Commands and its test clips first.",
)
def prepare(config: Path, overrides: tuple[str, ...], data: str | None, download: str | None) -> None:
    """Pack the audio of CONFIG into one memory-mapped file, and report clips that cannot be used."""
    from speechrnn.config import TRAINING_RATE_HZ, load_experiment

    experiment = load_experiment(config, overrides, data_dir=data)
    if download:
        _download(experiment.data, download, config)
    pack = pack_audio(experiment)
    hours = len(pack.samples) / TRAINING_RATE_HZ / 3600
    click.echo(f"{Path(experiment.data.dir) / experiment.data.packed}: {len(pack.clips)} clips, {hours:.2f} hours")


def _download(data: Data, version: str, config: Path) -> None:
    from speechrnn.data import speech_commands

    target = Path("SpeechCommands") / f"speech_commands_{version}"
    if Path(data.commands) != target:
        expected = Path(data.dir) / data.commands
        raise ConfigError(f"--download {version}: {config} reads {expected}; add --set data.commands={target}")
    speech_commands.download(Path(data.dir), version)
    speech_commands.download_test_set(Path(data.dir), version)


@click.command(short_help="Train a model.")
@click.argument("config", type=PATH)
@overrides_option
@data_option
@click.option(
    "--run-dir",
    type=PATH,
    metavar="FOLDER",
    show_default="runs/NAME-OF-CONFIG",
    help="Folder in which the run is kept.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option(
    "--accelerator",
    type=click.Choice(("auto", "cpu", "gpu", "mps")),
    default="auto",
    show_default=True,
    help="Kind of device that trains.",
)
@click.option(
    "--devices",
    default="1",
    show_default=True,
    metavar="N",
    help="Number of processes on this machine, each with a device of its own.",
)
@click.option(
    "--nodes",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of machines that train together.",
)
def train(
    config: Path,
    overrides: tuple[str, ...],
    data: str | None,
    run_dir: Path | None,
    resume: bool,
    accelerator: str,
    devices: str,
    nodes: int,
) -> None:
    """Train the model of CONFIG; safe to interrupt and to --resume."""
    from speechrnn.config import load_experiment

    experiment = load_experiment(config, overrides, data_dir=data)
    from speechrnn.training.loop import fit, keep_freed_memory

    keep_freed_memory()
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces the precision
    run_dir = run_dir or Path("runs") / config.stem
    pack = pack_audio(experiment)
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    where: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "n_nodes": nodes}
    with _told_how_to_resume(run_dir), ProgressLine() as show:
        accuracy = fit(experiment, pack, run_dir, resume=resume, on_progress=show, **where)
    if _is_first_process():
        click.echo(f"{run_dir / 'best.pt'}: {100 * accuracy:.2f} % of validation contexts, mean of the classes")


@contextmanager
def _told_how_to_resume(run_dir: Path) -> Iterator[None]:
    """On Ctrl-C, say how to go on, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        if (run_dir / "last.pt").exists():
            note(f"interrupted; go on with: speechrnn train {run_dir / 'config.toml'} --run-dir {run_dir} --resume")
        raise SystemExit(130) from None


def _is_first_process() -> bool:
    import torch

    return not (torch.distributed.is_initialized() and torch.distributed.get_rank())


@click.command(short_help="Turn a checkpoint into an ONNX model.")
@click.argument("checkpoint", type=PATH)
@click.argument("output", type=PATH)
@click.option(
    "--audio",
    type=PATH,
    metavar="FILE|FOLDER",
    show_default="what the model was trained on",
    help="Real audio on which the export is checked.",
)
def export(checkpoint: Path, output: Path, audio: Path | None) -> None:
    """Turn a training CHECKPOINT into an ONNX model file OUTPUT, checked against torch on real audio."""
    if checkpoint.suffix == ".onnx":
        raise ConfigError(f"{checkpoint}: is exported already; give a checkpoint such as runs/NAME/best.pt")
    if output.suffix != ".onnx":
        raise ConfigError(f"{output}: expected a name that ends in .onnx; a checkpoint such as best.pt is a model, too")
    check_place(output)
    from speechrnn.model.network import load_checkpoint
    from speechrnn.training import export as exporting

    net, info = load_checkpoint(checkpoint)
    folder = audio or _commands_of(info)
    if not folder.exists():
        raise ConfigError(f"{folder}: no such audio to check the export on; give --audio FILE-OR-FOLDER")
    contexts = exporting.contexts_of(folder, info.spec)
    with writing(output):
        difference = exporting.export(net, info, contexts, output)
    size_kb, n = output.stat().st_size / 1000, len(contexts)
    click.echo(f"{output}: {size_kb:.0f} kB, at most {difference:.1e} from torch on {n} contexts of {folder}")


def _commands_of(info: ModelInfo) -> Path:
    """The Speech Commands folder that a model was trained on."""
    data = info.provenance.config.get("data", {})
    return Path(data.get("dir", "data"), data.get("commands", ""))
