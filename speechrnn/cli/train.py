"""The verbs that make a model: prepare, train, export, quantize."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from speechrnn.cli.console import PATH, ProgressLine, data_option, note, overrides_option, pack_audio, track
from speechrnn.errors import ConfigError
from speechrnn.files import check_not_read, check_place, writing

if TYPE_CHECKING:
    from speechrnn.config import Data
    from speechrnn.spec import ModelInfo

_INT8 = ".int8.onnx"
_N_CHECKED = 200


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


_audio_option = click.option(
    "--audio",
    type=PATH,
    metavar="FILE|FOLDER",
    show_default="what the model was trained on",
    help="Real audio on which what is written is checked.",
)


@click.command(short_help="Turn a checkpoint into an ONNX model.")
@click.argument("checkpoint", type=PATH)
@click.argument("output", type=PATH)
@_audio_option
@click.option("--int8", is_flag=True, help="Write OUTPUT.int8.onnx, too, as quantize does.")
def export(checkpoint: Path, output: Path, audio: Path | None, int8: bool) -> None:
    """Turn a training CHECKPOINT into an ONNX model file OUTPUT, checked against torch on real audio."""
    if checkpoint.suffix == ".onnx":
        raise ConfigError(f"{checkpoint}: is exported already; give a checkpoint such as runs/NAME/best.pt")
    if output.suffix != ".onnx":
        raise ConfigError(f"{output}: expected a name that ends in .onnx; a checkpoint such as best.pt is a model, too")
    check_place(output)
    from speechrnn.model.network import load_checkpoint
    from speechrnn.training import export as exporting

    net, info = load_checkpoint(checkpoint)
    folder = _audio_for(info, audio)
    contexts = exporting.contexts_of(folder, info.spec)
    with writing(output):
        difference = exporting.export(net, info, contexts, output)
    size_kb, n = output.stat().st_size / 1000, len(contexts)
    click.echo(f"{output}: {size_kb:.0f} kB, at most {difference:.1e} from torch on {n} contexts of {folder}")
    if int8:
        _quantize(output, output.with_suffix(_INT8), folder, info)


def _audio_for(info: ModelInfo, audio: Path | None) -> Path:
    """What to check a model on: what was given, or the Speech Commands folder that it was trained on."""
    data = info.provenance.config.get("data", {})
    folder = audio or Path(data.get("dir", "data"), data.get("commands", ""))
    if not folder.exists():
        raise ConfigError(f"{folder}: no such audio to check the export on; give --audio FILE-OR-FOLDER")
    return folder


@click.command(short_help="Make a model file smaller and faster.")
@click.argument("model", metavar="NAME|FILE")
@click.argument("output", type=PATH, required=False)
@_audio_option
@click.option(
    "--clips",
    type=PATH,
    metavar="FOLDER",
    show_default="none",
    help="Score both models on these clips, laid out as LABEL/*.wav, and keep that in OUTPUT.",
)
def quantize(model: str, output: Path | None, audio: Path | None, clips: Path | None) -> None:
    """Write the ONNX MODEL as OUTPUT with the weights of its LSTM layers in 8 bits.

    It is a third as large, some 1.6 times as fast, and checked to decide as MODEL does. OUTPUT is MODEL.int8.onnx if
    not given.
    """
    from speechrnn.recognizer import find_model, load

    path, target = find_model(model), output or Path(model.removesuffix(".onnx") + _INT8)
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: expected an ONNX model; of a checkpoint make one with: speechrnn export --int8")
    if target.suffix != ".onnx":
        raise ConfigError(f"{target}: expected a name that ends in .onnx")
    check_not_read([target], [path])
    check_place(target)
    info = load(path).info
    _quantize(path, target, _audio_for(info, audio), info)
    if clips is not None:
        _score_both(path, target, clips)


def _quantize(path: Path, target: Path, audio: Path, info: ModelInfo) -> None:
    from speechrnn.training import quantization

    recordings = quantization.recordings_of(audio, info.spec.sample_rate_hz, _N_CHECKED)
    with writing(target):
        parity = quantization.quantize(path, target, recordings)
    size_kb, before_kb = (file.stat().st_size / 1000 for file in (target, path))
    click.echo(f"{target}: {size_kb:.0f} kB of {before_kb:.0f}; on {len(recordings)} recordings of {audio} {parity}")


def _score_both(path: Path, target: Path, folder: Path) -> None:
    """Score two models on clips, and add what comes out to the scores that the second one carries."""
    from speechrnn.evaluation import clips
    from speechrnn.recognizer import load, save_info

    scores: dict[str, float] = {}
    for kind, file in (("float32", path), ("int8", target)):
        result = clips.evaluate(load(file), folder, lambda files, n: track(files, n, "evaluating"))
        scores |= {f"{kind}: clips right": result.accuracy, f"{kind}: keyword clips right": result.keyword_accuracy}
        keywords = f"{100 * result.keyword_accuracy:.2f} % of the keywords"
        click.echo(f"{kind}: {100 * result.accuracy:.2f} % of {result.n} clips right, {keywords}")
    info = load(target).info
    provenance = msgspec.structs.replace(info.provenance, scores={**info.provenance.scores, **scores})
    save_info(target, target, msgspec.structs.replace(info, provenance=provenance))
