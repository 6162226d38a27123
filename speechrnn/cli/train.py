"""The verbs that make a model: prepare, train, export."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from speechrnn.cli.console import PATH, ProgressLine, data_option, note, overrides_option, pack_audio
from speechrnn.errors import ConfigError
from speechrnn.files import check_place, writing


@click.command()
@click.argument("config", type=PATH)
@overrides_option
@data_option
@click.option("--download", type=click.Choice(("v0.01", "v0.02")), help="Fetch Speech Commands and test clips first.")
def prepare(config: Path, overrides: tuple[str, ...], data: str | None, download: str | None) -> None:
    """Pack the audio of CONFIG into one memory-mapped file, and report clips that cannot be used."""
    from speechrnn.config import TRAINING_RATE_HZ, load_experiment
    from speechrnn.data import speech_commands

    experiment = load_experiment(config, overrides, data_dir=data)
    if download:
        expected = Path(experiment.data.dir) / experiment.data.commands
        target = Path("SpeechCommands") / f"speech_commands_{download}"
        if Path(experiment.data.commands) != target:
            raise ConfigError(f"--download {download}: {config} reads {expected}; add --set data.commands={target}")
        speech_commands.download(Path(experiment.data.dir), download)
        speech_commands.download_test_set(Path(experiment.data.dir), download)
    pack = pack_audio(experiment)
    hours = len(pack.samples) / TRAINING_RATE_HZ / 3600
    click.echo(f"{Path(experiment.data.dir) / experiment.data.packed}: {len(pack.clips)} clips, {hours:.2f} hours")


@click.command()
@click.argument("config", type=PATH)
@overrides_option
@data_option
@click.option("--run-dir", type=PATH, help="Where the run is kept; runs/NAME-OF-CONFIG if not given.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--accelerator", type=click.Choice(("auto", "cpu", "gpu", "mps")), default="auto", show_default=True)
@click.option("--devices", default="1", metavar="N", help="Processes on this machine, each with a device of its own.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, help="Machines that train together.")
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
    import torch

    from speechrnn.training.trainer import fit, keep_freed_memory

    keep_freed_memory()
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces the precision
    run_dir = run_dir or Path("runs") / config.stem
    pack = pack_audio(experiment)
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    show = ProgressLine()
    try:
        accuracy = fit(
            experiment,
            pack,
            run_dir,
            resume=resume,
            accelerator=accelerator,
            devices=devices,
            n_nodes=nodes,
            on_progress=show,
        )
    except KeyboardInterrupt:
        show.end()
        if (run_dir / "last.pt").exists():
            note(f"interrupted; go on with: speechrnn train {run_dir / 'config.toml'} --run-dir {run_dir} --resume")
        raise SystemExit(130) from None
    show.end()
    if not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
        click.echo(f"{run_dir / 'best.pt'}: {100 * accuracy:.2f} % of validation contexts, mean of the classes")


@click.command()
@click.argument("checkpoint", type=PATH)
@click.argument("output", type=PATH)
@click.option("--audio", type=PATH, help="Real audio for the check; the data the model was trained on if not given.")
def export(checkpoint: Path, output: Path, audio: Path | None) -> None:
    """Turn a training CHECKPOINT into an ONNX model file, checked against torch on real audio."""
    if checkpoint.suffix == ".onnx":
        raise ConfigError(f"{checkpoint}: is exported already; give a checkpoint such as runs/NAME/best.pt")
    if output.suffix != ".onnx":
        raise ConfigError(f"{output}: expected a name that ends in .onnx; a checkpoint such as best.pt is a model, too")
    check_place(output)
    import numpy as np

    from speechrnn.audio import find_audio, read
    from speechrnn.model.network import load_checkpoint
    from speechrnn.training.export import export as write_onnx

    net, info = load_checkpoint(checkpoint)
    data = info.provenance.config.get("data", {})
    folder = audio or Path(data.get("dir", "data")) / data.get("commands", "")
    if not folder.exists():
        raise ConfigError(f"{folder}: no such audio to check the export on; give --audio FILE-OR-FOLDER")
    files = find_audio(folder)
    length = info.spec.context_samples
    clips = [read(file, info.spec.sample_rate_hz)[:length] for file in files[:: max(1, len(files) // 64)]]
    contexts = np.stack([np.pad(clip, (0, length - len(clip))) for clip in clips])
    with writing(output):
        difference = write_onnx(net, info, contexts, output)
    size_kb = output.stat().st_size / 1000
    click.echo(
        f"{output}: {size_kb:.0f} kB, at most {difference:.1e} from torch on {len(contexts)} contexts of {folder}"
    )
