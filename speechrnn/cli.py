"""The `speechrnn` command: thin verbs over the library. Errors are one line on standard error and exit code 2."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import msgspec

import speechrnn
from speechrnn.errors import ConfigError, DeviceError, SpeechRnnError

if TYPE_CHECKING:
    from speechrnn.config import Experiment
    from speechrnn.dataset import Pack
    from speechrnn.formats import Transcript
    from speechrnn.runtime import Recognizer
    from speechrnn.sources import AudioSource
    from speechrnn.spec import Options
    from speechrnn.training import Progress

Item = TypeVar("Item")
_FORMATS = ("table", "json", "jsonl", "csv", "vtt", "srt", "audacity", "ctm")
_PATH = click.Path(path_type=Path)
_model = click.option(
    "--model", default="commands8", show_default=True, help="A shipped model's name, or a model file."
)


def _note(message: str) -> None:
    click.echo(message, err=True)


def _fail(message: str) -> NoReturn:
    _note(f"speechrnn: {message}")
    raise SystemExit(2)


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    try:
        cli.main(standalone_mode=False)
    except SpeechRnnError as error:
        _fail(str(error))
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "speechrnn"
        _fail(f"{error.format_message()} See: {command} --help")
    except click.exceptions.Exit as error:
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        _note("interrupted")
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush is quiet, too
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; this needs: pip install 'speechrnn[train]'")
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(speechrnn.__version__, prog_name="speechrnn")
def cli() -> None:
    """Recurrent recognition of spoken commands: train, transcribe, evaluate."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the place."""
    try:
        yield
    except OSError as error:
        raise DeviceError(f"{path}: cannot write there ({error.strerror}); give another place") from None


def _write_text(path: Path, text: str) -> None:
    with _writing(path):
        path.write_text(text, encoding="utf-8")


def _track(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """A progress bar on a terminal; the bare items elsewhere."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, total=total, description=what, console=Console(stderr=True), transient=True)


def _options(recognizer: Recognizer, thresholds: Sequence[str]) -> Options:
    """The model's options with thresholds given as a number for all keywords or as keyword=number."""
    options = recognizer.info.options
    common, own, given = options.threshold, dict(options.thresholds), {}
    for text in thresholds:
        word, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(f"--threshold {text}: expected a number such as 0.8, or keyword=number") from None
        if not 0 < value <= 1:
            raise ConfigError(f"--threshold {text}: expected a number above 0 and at most 1")
        if equals:
            given[word] = value
        else:
            common, own = value, {}
    own |= given
    return msgspec.structs.replace(options, threshold=common, thresholds=own)


@cli.command()
@click.argument("audio", nargs=-1, required=True, type=_PATH)
@_model
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="table", show_default=True)
@click.option("--output", type=_PATH, help="Write to this file; to a folder, one file for each audio.")
@click.option("--threshold", multiple=True, metavar="[WORD=]NUMBER", help="Score at which keywords fire; repeatable.")
def transcribe(
    audio: tuple[Path, ...], model: str, format_: str, output: Path | None, threshold: tuple[str, ...]
) -> None:
    """Find keywords in recordings of any length, rate and channel count; folders are searched."""
    from speechrnn import formats
    from speechrnn.runtime import load

    recognizer = load(model)
    options = _options(recognizer, threshold)
    files, failed = _find(audio)
    one_each = output is not None and (output.is_dir() or (len(files) > 1 and format_ in formats.ONE_FILE_FORMATS))
    if format_ in formats.ONE_FILE_FORMATS and len(files) > 1 and output is None:
        raise ConfigError(f"--format {format_} holds one recording, got {len(files)}; give --output FOLDER")
    write = formats.FORMATS[format_]
    if format_ == "json":
        write = functools.partial(formats.to_json, several=len(files) > 1)
    if one_each:
        repeated = [name for name, n in Counter(file.stem for file in files).items() if n > 1]
        if repeated:
            raise ConfigError(f"{output}: several recordings are called {repeated[0]}; transcribe them one by one")
    if output is not None:
        with _writing(output):
            (output if one_each else output.parent).mkdir(parents=True, exist_ok=True)
            if not one_each:
                output.touch()  # fail now rather than after the work
    transcripts = []
    for file in files:
        try:
            transcript = _transcribe_file(recognizer, options, file)
        except SpeechRnnError as error:
            _note(f"speechrnn: {error}")
            failed += 1
            continue
        transcripts.append(transcript)
        if output is None and format_ in ("table", "jsonl"):
            click.echo(write([transcript]), nl=False)
        elif one_each and output is not None:
            _write_text(output / (file.stem + formats.SUFFIXES[format_]), write([transcript]))
    if output is not None and not one_each and transcripts:
        _write_text(output, write(transcripts))
    elif output is None and format_ not in ("table", "jsonl") and transcripts:
        click.echo(write(transcripts), nl=False)
    _end(failed, len(files))


def _shown(path: Path) -> str:
    """A path as text, with ? for bytes that are not valid in it."""
    return str(path).encode(errors="replace").decode()


def _find(audio: Sequence[Path]) -> tuple[list[Path], int]:
    """The audio files that arguments mean; an argument that means none is reported and counted as failed."""
    from speechrnn.audio import find_audio

    files, failed = [], 0
    for path in audio:
        try:
            files += find_audio(path)
        except SpeechRnnError as error:
            _note(f"speechrnn: {error}")
            failed += 1
    return files, failed


def _end(failed: int, n_files: int) -> None:
    if failed:
        if n_files > 1:
            _note(f"speechrnn: {failed} of {max(n_files, failed)} inputs failed, the others are done")
        raise SystemExit(2)


def _transcribe_file(recognizer: Recognizer, options: Options, file: Path) -> Transcript:
    from speechrnn.formats import Transcript
    from speechrnn.sources import FileSource
    from speechrnn.spotter import KeywordSpotter

    spotter = KeywordSpotter(recognizer, options)
    with FileSource(file, spotter.sample_rate_hz) as source:
        duration_s = source.duration_s or 0.0
        found = []
        for block in _track(source.blocks(), round(duration_s), file.name):
            found += spotter.push(block)
        found += spotter.finish()
    return Transcript(_shown(file), duration_s, tuple(found))


@cli.command()
@click.argument("audio", nargs=-1, required=True, type=_PATH)
@_model
@click.option("--format", "format_", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many labels to show in a table.")
def classify(audio: tuple[Path, ...], model: str, format_: str, top: int) -> None:
    """Say which word each one-word clip holds, with the probability of every label."""
    from speechrnn.audio import read
    from speechrnn.runtime import load

    recognizer = load(model)
    files, failed = _find(audio)
    results: list[dict[str, Any]] = []
    for file in files:
        try:
            posteriors = recognizer.classify(read(file, recognizer.info.spec.sample_rate_hz))
        except SpeechRnnError as error:
            _note(f"speechrnn: {error}")
            failed += 1
            continue
        ranked = sorted(zip(recognizer.labels, map(float, posteriors), strict=True), key=lambda item: -item[1])
        if format_ == "table":
            click.echo(f"{_shown(file)}  " + "  ".join(f"{label} {share:.3f}" for label, share in ranked[:top]))
        else:
            probabilities = {label: round(share, 5) for label, share in ranked}
            results.append({"audio": _shown(file), "label": ranked[0][0], "probabilities": probabilities})
    if format_ == "json":
        text = msgspec.json.encode(results[0] if len(files) == len(results) == 1 else results)
        click.echo(msgspec.json.format(text, indent=2))
    _end(failed, len(files))


@cli.command()
@_model
@click.option("--source", help="A recording, or - for raw 16-bit PCM on standard input; the microphone if not given.")
@click.option(
    "--rate", "rate_hz", default=16000, show_default=True, type=click.IntRange(1000), help="Rate of --source -."
)
@click.option("--realtime", is_flag=True, help="Play a --source at the speed of the sound.")
@click.option("--device", help="Name or number of the microphone; see: speechrnn devices.")
@click.option("--keywords", metavar="WORD,WORD", help="Only these may fire.")
@click.option("--threshold", multiple=True, metavar="[WORD=]NUMBER", help="Score at which keywords fire; repeatable.")
@click.option("--step", "step_ms", type=click.IntRange(10, 1000), help="Milliseconds between two decisions.")
@click.option("--duration", "duration_s", type=click.FloatRange(0, min_open=True), help="Stop after so many seconds.")
@click.option("--jsonl", is_flag=True, help="Print one JSON object for each detection.")
@click.option("--run", "command", metavar="COMMAND", help="Run this at each detection: 'notify {label} {score}'.")
@click.option("--save", type=_PATH, metavar="FILE", help="Keep the audio, with the detections beside it.")
def listen(
    model: str,
    source: str | None,
    rate_hz: int,
    realtime: bool,
    device: str | None,
    keywords: str | None,
    threshold: tuple[str, ...],
    step_ms: int | None,
    duration_s: float | None,
    jsonl: bool,
    command: str | None,
    save: Path | None,
) -> None:
    """Hear keywords as they are spoken: from the microphone, a pipe or a recording. Ctrl-C ends it."""
    from speechrnn.listening import CommandRunner, Printer, Recorder, Sink, run
    from speechrnn.runtime import load
    from speechrnn.spotter import KeywordSpotter

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's way to press Ctrl-C
    recognizer = load(model)
    options = _options(recognizer, threshold)
    if keywords is not None:
        options = msgspec.structs.replace(options, only=tuple(word.strip() for word in keywords.split(",")))
    if step_ms is not None:
        smoothing_ms = max(step_ms, options.smoothing_ms)
        options = msgspec.structs.replace(options, step_ms=step_ms, smoothing_ms=smoothing_ms)
    spotter = KeywordSpotter(recognizer, options)
    notes: list[Callable[[str], None]] = [_note]
    opened = _open_source(source, rate_hz, realtime, device, spotter.sample_rate_hz, lambda line: notes[-1](line))
    sinks: list[Sink] = []
    if save is not None:
        sinks.append(Recorder(save, spotter.sample_rate_hz))
    if command is not None:
        sinks.append(CommandRunner(command, lambda line: notes[-1](line)))
    if jsonl or not sys.stdout.isatty():
        sinks.append(Printer(jsonl, click.echo))
        _note(f"listening to {opened.name}; Ctrl-C ends it")
    else:
        from speechrnn.view import LiveView

        view = LiveView(opened, spotter)
        notes.append(view.note)
        sinks.append(view)
    run(opened, spotter, sinks, duration_s)


def _open_source(
    source: str | None, rate_hz: int, realtime: bool, device: str | None, to_hz: int, note: Callable[[str], None]
) -> AudioSource:
    from speechrnn.sources import FileSource, Microphone, PipeSource, RealTimeSource

    if source is None:
        return Microphone(to_hz, device=_device(device), on_event=note)
    is_pipe = source == "-"
    opened: AudioSource = PipeSource(sys.stdin.buffer, rate_hz, to_hz) if is_pipe else FileSource(Path(source), to_hz)
    return RealTimeSource(opened) if realtime else opened


def _device(device: str | None) -> str | int | None:
    return int(device) if device is not None and device.isdigit() else device


@cli.command()
def devices() -> None:
    """List the microphones."""
    from speechrnn.sources import input_devices

    found = input_devices()
    if not found:
        raise DeviceError("no microphone found; plug one in, and see: speechrnn doctor")
    for info in found:
        mark = "*" if info["default"] else " "
        click.echo(f"{mark} {info['index']:>3}  {info['name']}  ({info['channels']} channels, {info['rate_hz']} Hz)")


@cli.command()
@_model
@click.option("--device", help="Name or number of the microphone; see: speechrnn devices.")
def doctor(model: str, device: str | None) -> None:
    """Check installation, model and microphone, and say what to do. Speak while it records for two seconds."""
    from speechrnn.doctor import check_all

    failed = False
    for finding in check_all(model, _device(device)):
        click.echo(f"{'ok     ' if finding.ok else 'PROBLEM'}  {finding.what:<12}  {finding.seen}")
        if not finding.ok:
            failed = True
            click.echo(f"{'':<23}{finding.advice}")
    if failed:
        raise SystemExit(2)


@cli.command()
@_model
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--name", "names", multiple=True, help="A further host name under which it may be opened; repeatable.")
@click.option("--certfile", type=_PATH, help="PEM certificate, for https.")
@click.option("--keyfile", type=_PATH, help="Its key, if not in the same file.")
@click.option("--threshold", multiple=True, metavar="[WORD=]NUMBER", help="Score at which keywords fire; repeatable.")
@click.option(
    "--clients", "n_most", default=64, show_default=True, type=click.IntRange(1), help="How many may be heard at once."
)
def serve(
    model: str,
    host: str,
    port: int,
    names: tuple[str, ...],
    certfile: Path | None,
    keyfile: Path | None,
    threshold: tuple[str, ...],
    n_most: int,
) -> None:
    """Open a page on this machine that listens: to a microphone, or to a sound file. Ctrl-C ends it."""
    try:
        from speechrnn import server, service
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve needs {error.name}, which is not installed: pip install 'speechrnn[web]'") from None
    from speechrnn.runtime import find_model, load

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.check_certificate(certfile, keyfile)
    recognizer = load(model)
    heard = service.Service(recognizer, find_model(model), _options(recognizer, threshold), n_most=n_most)
    listening = server.bind(host, port)
    with suppress(KeyboardInterrupt):
        for address in server.addresses(listening, "https" if certfile else "http"):
            _note(f"open {address}")
        if not (certfile or server.is_loopback(listening)):
            _note("others can open it, but browsers give a microphone only to https: give --certfile and --keyfile")
        _note("Ctrl-C ends it")
        server.make_server(heard, names=names, certfile=certfile, keyfile=keyfile).run([listening])


@cli.command()
@click.argument("model")
@click.argument("folder", type=_PATH)
@click.option("--json", "json_path", type=_PATH, help="Write the scores to this file.")
@click.option("--plots", type=_PATH, help="Draw the confusion matrix into this folder.")
def evaluate(model: str, folder: Path, json_path: Path | None, plots: Path | None) -> None:
    """Score MODEL on the clips of FOLDER, laid out as LABEL/*.wav.

    Folders that are no label of the model count as unknown, _silence_ as silence.
    """
    from speechrnn import evaluation
    from speechrnn.runtime import load

    if json_path is not None:
        with _writing(json_path):
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.touch()
    if plots is not None:
        with _writing(plots):
            plots.mkdir(parents=True, exist_ok=True)
    result = evaluation.evaluate(load(model), folder, lambda files, n: _track(files, n, "evaluating"))
    click.echo(evaluation.to_table(result), nl=False)
    if json_path is not None:
        _write_text(json_path, msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
    if plots is not None:
        with _writing(plots):
            evaluation.plot_confusion(result, plots / "confusion.png")
    _end(len(result.failed), result.n + len(result.failed))


@cli.command()
@click.argument("model")
def describe(model: str) -> None:
    """Print what a model file says of itself: features, network, labels, thresholds, provenance."""
    from speechrnn.describe import describe_model

    click.echo(describe_model(model), nl=False)


@cli.command()
@click.argument("config", type=_PATH)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--data", type=click.Path(), help="Folder that the paths in [data] start from.")
@click.option("--download", type=click.Choice(("v0.01", "v0.02")), help="Fetch Speech Commands first.")
def prepare(config: Path, overrides: tuple[str, ...], data: str | None, download: str | None) -> None:
    """Pack the audio of CONFIG into one memory-mapped file, and report clips that cannot be used."""
    from speechrnn import dataset
    from speechrnn.config import load_experiment

    experiment = load_experiment(config, overrides, data_dir=data)
    if download:
        expected = Path(experiment.data.dir) / experiment.data.commands
        target = Path("SpeechCommands") / f"speech_commands_{download}"
        if Path(experiment.data.commands) != target:
            raise ConfigError(f"--download {download}: {config} reads {expected}; add --set data.commands={target}")
        dataset.download(Path(experiment.data.dir), download)
    pack = _pack(experiment)
    hours = len(pack.samples) / dataset.PACKED_RATE_HZ / 3600
    click.echo(f"{Path(experiment.data.dir) / experiment.data.packed}: {len(pack.clips)} clips, {hours:.2f} hours")


def _pack(experiment: Experiment) -> Pack:
    """The packed audio of an experiment; clips that cannot be used are counted and listed in a file."""
    from speechrnn import dataset

    pack = dataset.prepare(experiment.data, lambda clips, n: _track(clips, n, "packing"))
    if pack.problems:
        report = Path(experiment.data.dir) / experiment.data.packed / "problems.txt"
        _write_text(report, "".join(f"{clip.path}: {clip.problem}\n" for clip in pack.problems))
        _note(f"{len(pack.problems)} clips cannot be used; they are listed in {report}")
    return pack


@cli.command()
@click.argument("config", type=_PATH)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--data", type=click.Path(), help="Folder that the paths in [data] start from.")
@click.option("--run-dir", type=_PATH, help="Where the run is kept; runs/NAME-OF-CONFIG if not given.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
def train(config: Path, overrides: tuple[str, ...], data: str | None, run_dir: Path | None, resume: bool) -> None:
    """Train the model of CONFIG; safe to interrupt and to --resume."""
    from speechrnn.config import load_experiment

    experiment = load_experiment(config, overrides, data_dir=data)
    from speechrnn.training import fit

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces the precision
    run_dir = run_dir or Path("runs") / config.stem
    pack = _pack(experiment)
    with _writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    show = _ProgressLine()
    try:
        accuracy = fit(experiment, pack, run_dir, resume=resume, on_progress=show)
    except KeyboardInterrupt:
        show.end()
        if (run_dir / "last.pt").exists():
            _note(f"interrupted; go on with: speechrnn train {run_dir / 'config.toml'} --run-dir {run_dir} --resume")
        raise SystemExit(130) from None
    show.end()
    click.echo(f"{run_dir / 'best.pt'}: {100 * accuracy:.2f} % of validation contexts")


class _ProgressLine:
    """Training progress: one line that is rewritten on a terminal, a new line every half minute elsewhere."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._shown_at = 0.0

    def __call__(self, progress: Progress) -> None:
        left = timedelta(seconds=round(progress.left_s))
        line = (
            f"epoch {progress.epoch}/{progress.n_epochs}  step {progress.step}/{progress.n_steps}  "
            f"loss {progress.loss:.3f}  validation {100 * progress.accuracy:.2f} %  "
            f"{progress.utterances_per_s:.0f} utterances/s  {left} left"
        )
        if self._on_terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif time.monotonic() - self._shown_at > 30 or progress.step == progress.n_steps:
            self._shown_at = time.monotonic()
            _note(line)

    def end(self) -> None:
        """Leave the line."""
        if self._on_terminal:
            sys.stderr.write("\n")


@cli.command()
@click.argument("checkpoint", type=_PATH)
@click.argument("output", type=_PATH)
@click.option("--audio", type=_PATH, help="Real audio for the check; the data the model was trained on if not given.")
def export(checkpoint: Path, output: Path, audio: Path | None) -> None:
    """Turn a training CHECKPOINT into an ONNX model file, checked against torch on real audio."""
    import numpy as np

    from speechrnn.audio import find_audio, read
    from speechrnn.export import export as write_onnx
    from speechrnn.recognizer import load_checkpoint

    net, info = load_checkpoint(checkpoint)
    data = info.provenance.config.get("data", {})
    folder = audio or Path(data.get("dir", "data")) / data.get("commands", "")
    if not folder.exists():
        raise ConfigError(f"{folder}: no such audio to check the export on; give --audio FILE-OR-FOLDER")
    files = find_audio(folder)
    length = info.spec.context_samples
    clips = [read(file, info.spec.sample_rate_hz)[:length] for file in files[:: max(1, len(files) // 64)]]
    contexts = np.stack([np.pad(clip, (0, length - len(clip))) for clip in clips])
    with _writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        difference = write_onnx(net, info, contexts, output)
    size_kb = output.stat().st_size / 1000
    click.echo(
        f"{output}: {size_kb:.0f} kB, at most {difference:.1e} from torch on {len(contexts)} contexts of {folder}"
    )
