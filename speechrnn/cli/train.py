"""The verbs that make a model and its files: prepare, train, export, quantize, push."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechrnn.cli.console import PATH, ProgressLine, data_option, note, overrides_option, pack_audio, track
from speechrnn.errors import ConfigError, ModelFileError
from speechrnn.files import check_not_read, check_place, write_whole, writing

if TYPE_CHECKING:
    from speechrnn.config import Data
    from speechrnn.spec import ModelInfo
    from speechrnn.training.model_folder import Card

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


_clips_option = click.option(
    "--clips",
    type=PATH,
    metavar="FOLDER",
    show_default="none",
    help="Score what is written on these clips, laid out as LABEL/*.wav, and keep that in it.",
)


@click.command(short_help="Turn a checkpoint into an ONNX model, or a folder.")
@click.argument("model", metavar="CHECKPOINT|MODEL")
@click.argument("output", type=PATH, metavar="FILE.onnx|FOLDER")
@_audio_option
@click.option("--int8", is_flag=True, help="Write FILE.int8.onnx, too, as quantize does; a FOLDER has it anyway.")
@_clips_option
@click.option(
    "--license",
    "licence",
    metavar="NAME",
    show_default="mit for a shipped model",
    help="Licence of the weights, for the card of a FOLDER: mit, apache-2.0, cc-by-nc-4.0 and the like.",
)
def export(model: str, output: Path, audio: Path | None, int8: bool, clips: Path | None, licence: str | None) -> None:
    """Turn a training CHECKPOINT into an ONNX model FILE.onnx, checked against torch on real audio.

    Or write it, or any MODEL, as a FOLDER to share: model.onnx, model.int8.onnx, config.json, the weights as
    safetensors, and README.md as the Hub wants it.
    """
    from speechrnn.recognizer import find_model

    if output.suffix != ".onnx" and output.suffix != ".pt":
        _export_folder(find_model(model), output, audio, clips, licence)
        return
    if output.suffix == ".pt":
        raise ConfigError(f"{output}: expected a name that ends in .onnx, or a folder; best.pt is a model, too")
    if model.endswith(".onnx"):
        raise ConfigError(f"{model}: is exported already; give a checkpoint such as runs/NAME/best.pt")
    check_place(output)
    info = _export(Path(model), output, audio)
    files = {"float32": output}
    if int8:
        files["int8"] = _quantize(output, output.with_suffix(_INT8), _audio_for(info, audio), info)
    if clips is not None:
        _score(files, clips, [*files.values()])


def _export(checkpoint: Path, output: Path, audio: Path | None) -> ModelInfo:
    from speechrnn.model.network import load_checkpoint
    from speechrnn.training import export as exporting

    net, info = load_checkpoint(checkpoint)
    folder = _audio_for(info, audio)
    contexts = exporting.contexts_of(folder, info.spec)
    with writing(output):
        difference = exporting.export(net, info, contexts, output)
    size_kb, n = output.stat().st_size / 1000, len(contexts)
    click.echo(f"{output}: {size_kb:.0f} kB, at most {difference:.1e} from torch on {n} contexts of {folder}")
    return info


def _export_folder(path: Path, folder: Path, audio: Path | None, clips: Path | None, licence: str | None) -> None:
    """Write a model as a folder; without 8 bits where these do not fit it."""
    from speechrnn.hub import INT8_FILE, MODEL_FILE
    from speechrnn.recognizer import load

    card = _card(path, folder, licence)
    target, small = folder / MODEL_FILE, folder / INT8_FILE
    check_not_read([target, small], [path])
    check_place(target)
    if path.suffix == ".pt":
        _export(path, target, audio)
    else:
        write_whole(target, path.read_bytes())
    from speechrnn.training import model_folder

    info = load(target).info
    small.unlink(missing_ok=True)
    try:
        files = {"float32": target, "int8": _quantize(target, small, _audio_for(info, audio), info)}
    except ModelFileError as error:
        note(f"without {small.name}: {error}")
        files = {"float32": target}
    if clips is not None:
        _score(files, clips, [*files.values()])
    with writing(folder):
        model_folder.write(folder, model_folder.weights_of(path), card)
    click.echo(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")


def _card(path: Path, folder: Path, licence: str | None) -> Card:
    """The name, the licence and, of a model that ships, the text of the card of a folder."""
    from speechrnn.recognizer import is_shipped
    from speechrnn.training.model_folder import Card

    name = folder.resolve().name
    if is_shipped(path):
        text = path.with_name(path.name.split(".")[0] + ".md").read_text(encoding="utf-8")
        return Card(name, licence or "mit", text.partition("\n")[2])
    if licence is None:
        raise ConfigError("expected --license mit, or another that the Hub knows: the card of a folder says it first")
    return Card(name, licence)


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
@_clips_option
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
        _score({"float32": path, "int8": target}, clips, [target])


def _quantize(path: Path, target: Path, audio: Path, info: ModelInfo) -> Path:
    from speechrnn.training import quantization

    recordings = quantization.recordings_of(audio, info.spec.sample_rate_hz, _N_CHECKED)
    with writing(target):
        parity = quantization.quantize(path, target, recordings)
    size_kb, before_kb = (file.stat().st_size / 1000 for file in (target, path))
    click.echo(f"{target}: {size_kb:.0f} kB of {before_kb:.0f}; on {len(recordings)} recordings of {audio} {parity}")
    return target


def _score(files: Mapping[str, Path], folder: Path, targets: Iterable[Path]) -> None:
    """Score models on clips, and add what comes out to the scores that `targets` carry."""
    from speechrnn.evaluation import clips
    from speechrnn.recognizer import load, save_info

    scores: dict[str, float] = {}
    for kind, file in files.items():
        result = clips.evaluate(load(file), folder, lambda paths, n: track(paths, n, "evaluating"))
        scores[f"{kind}: clips right of {folder.name}"] = result.accuracy
        scores[f"{kind}: keyword clips right of {folder.name}"] = result.keyword_accuracy
        keywords = f"{100 * result.keyword_accuracy:.2f} % of the keywords"
        click.echo(f"{kind}: {100 * result.accuracy:.2f} % of {result.n} clips right, {keywords}")
    for target in targets:
        save_info(target, target, load(target).info.with_scores(scores))


@click.command(short_help="Upload a model folder to the Hub.")
@click.argument("folder", type=PATH)
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make the repository private, if it is made.")
def push(folder: Path, repository: str, private: bool) -> None:
    """Upload a FOLDER that export wrote to the Hub as OWNER/NAME, which others then load by that name."""
    from speechrnn import hub
    from speechrnn.recognizer import load

    load(folder)
    click.echo(f"{hub.push(folder, repository, private=private)}: speechrnn listen --model {repository}")
