"""The `speechrnn` command: thin verbs over the library. Errors are one line on standard error and exit code 2."""

from __future__ import annotations

import functools
import logging
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import click
import msgspec

import speechrnn
from speechrnn.cli import outputs
from speechrnn.errors import ConfigError, DataError, DeviceError, SpeechRnnError

if TYPE_CHECKING:
    from speechrnn.config import Experiment
    from speechrnn.data.clips import Pack, Split
    from speechrnn.evaluation.streams import StreamCurve, StreamResult
    from speechrnn.formats import Transcript
    from speechrnn.recognizer import Recognizer
    from speechrnn.sources import AudioSource
    from speechrnn.spec import Options
    from speechrnn.spotter import KeywordSpotter
    from speechrnn.training.trainer import Progress

Item = TypeVar("Item")
_FORMATS = ("table", "json", "jsonl", "csv", "vtt", "srt", "audacity", "ctm")
_PATH = click.Path(path_type=Path)
_CHOSEN = "as set"
_DETECTIONS = (".json", ".jsonl")
_model = click.option(
    "--model", default="commands8", show_default=True, help="A shipped model's name, or a model file."
)
_operating_point = click.option(
    "--operating-point", metavar="NAME", help="Decide as the model's strict, balanced or sensitive; see: describe."
)


def _note(message: str) -> None:
    click.echo(_shown(message), err=True)


def _shown(text: str | Path) -> str:
    """A path, or a text that holds one, with ? for bytes that are not valid in it."""
    return str(text).encode(errors="replace").decode()


def _fail(message: str) -> NoReturn:
    _note(f"speechrnn: {message}")
    raise SystemExit(2)


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    run_program(lambda: cli.main(standalone_mode=False))


def run_program(program: Callable[[], object]) -> None:
    """Run a program. An error that its user can cause is one line on standard error and exit code 2, Ctrl-C 130."""
    try:
        program()
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


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(speechrnn.__version__, prog_name="speechrnn")
@click.pass_context
def cli(context: click.Context) -> None:
    """Recurrent recognition of spoken commands: train, transcribe, listen."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def track(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """A progress bar on a terminal; the bare items elsewhere."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, total=total, description=what, console=Console(stderr=True), transient=True)


def _options(
    recognizer: Recognizer, thresholds: Sequence[str], keywords: str | None = None, step_ms: int | None = None
) -> Options:
    """The model's options with what was asked for; each threshold is a number for all keywords, or keyword=number.

    Raises ConfigError for what is neither, and for words that are no keywords.
    """
    from speechrnn.detector import check_words

    options = recognizer.info.options
    common, own, given = options.threshold, dict(options.thresholds), {}
    for text in thresholds:
        word, value = _threshold(text)
        if word:
            given[word] = value
        else:
            common, own = value, {}
    options = msgspec.structs.replace(options, threshold=common, thresholds=own | given)
    if keywords is not None:
        only = tuple(filter(None, map(str.strip, keywords.split(","))))
        if not only:
            raise ConfigError(f"--keywords {keywords}: expected words such as {','.join(recognizer.labels[:2])}")
        options = msgspec.structs.replace(options, keywords=only)
    if step_ms is not None:
        smoothing_ms = max(step_ms, options.smoothing_ms)
        options = msgspec.structs.replace(options, step_ms=step_ms, smoothing_ms=smoothing_ms)
    check_words(options, recognizer.info.spec.labels)
    return options


def _threshold(text: str) -> tuple[str, float]:
    word, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if math.isnan(value) or (equals and not word):
        raise ConfigError(f"--threshold {text}: expected a number such as 0.8, or keyword=number")
    if not 0 < value <= 1:
        raise ConfigError(f"--threshold {text}: expected a number above 0 and at most 1")
    return word, value


@cli.command()
@click.argument("audio", nargs=-1, required=True, type=_PATH)
@_model
@_operating_point
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="table", show_default=True)
@click.option(
    "--output",
    metavar="PLACE",
    help="A file, replaced when all recordings are done; what is done when Ctrl-C comes is kept as FILE.part. "
    "Or a folder, also a new one if its name ends in /: one file for each recording, as soon as it is done.",
)
@click.option("--threshold", multiple=True, metavar="[WORD=]NUMBER", help="Score at which keywords fire; repeatable.")
def transcribe(
    audio: tuple[Path, ...],
    model: str,
    operating_point: str | None,
    format_: str,
    output: str | None,
    threshold: tuple[str, ...],
) -> None:
    """Find keywords in recordings of any length, rate and channel count; folders are searched.

    A recording that cannot be read is reported, and the others are done; the exit code is 2 then.
    """
    from speechrnn.recognizer import load
    from speechrnn.spotter import KeywordSpotter

    recognizer = load(model, operating_point=operating_point)
    spotter = KeywordSpotter(recognizer, _options(recognizer, threshold))
    files, failed = _find(audio)
    several = len(files) > 1 or any(path.is_dir() for path in audio)
    with _destination(output, format_, files, several) as add:
        for file in files:
            try:
                transcript = _transcribe_file(spotter, file)
            except SpeechRnnError as error:
                _note(f"speechrnn: {error}")
                failed += 1
                continue
            add(transcript)
    _end(failed, len(files))


def _destination(
    output: str | None, format_: str, files: Sequence[Path], several: bool
) -> AbstractContextManager[outputs.Add]:
    """Where the transcripts of these files go. Raises ConfigError if they cannot go there together."""
    from speechrnn import formats

    write, holds_one = formats.FORMATS[format_], format_ in formats.ONE_FILE_FORMATS
    if format_ == "json":
        write = functools.partial(formats.to_json, several=len(files) > 1)
    if output is None:
        if holds_one and len(files) > 1:
            raise ConfigError(f"--format {format_} holds one recording, got {len(files)}; give --output FOLDER")
        echo = functools.partial(click.echo, nl=False)
        return (outputs.as_they_come if format_ in ("table", "jsonl") else outputs.at_the_end)(write, echo)
    path = Path(output)
    if path.is_dir() or output.endswith("/") or (several and holds_one):
        repeated = [name for name, n in Counter(Path(_shown(file)).stem for file in files).items() if n > 1]
        if repeated:
            raise ConfigError(f"{path}: several recordings are called {repeated[0]}; transcribe them one by one")
        return outputs.to_folder(path, write, formats.SUFFIXES[format_])
    _check_apart({"--output": path}, {"the recording": files})
    return outputs.to_file(path, write, _note)


def _check_apart(written: Mapping[str, Path | None], read: Mapping[str, Iterable[Path]]) -> None:
    """Raise ConfigError if a file that would be written, by what it is, is another one of them or one that is read."""
    places = [(what, path) for what, path in written.items() if path is not None]
    inputs = [(what, path) for what, paths in read.items() for path in paths]
    for number, (what, path) in enumerate(places):
        for other_what, other in places[number + 1 :] + (inputs if path.exists() else []):
            if _is_same(path, other):
                raise ConfigError(f"{path}: is both {what} and {other_what}; give another name")


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names mean one file; a device, which writing does not replace, may be named twice."""
    if one.exists() and other.exists():
        return one.is_file() and one.samefile(other)
    return one.resolve() == other.resolve()


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


def _transcribe_file(spotter: KeywordSpotter, file: Path) -> Transcript:
    from speechrnn.formats import Transcript
    from speechrnn.listening import spot
    from speechrnn.sources import FileSource

    spotter.reset()
    with FileSource(file) as source:
        duration_s = source.duration_s or 0.0
        blocks = track(source.blocks(spotter.sample_rate_hz), round(duration_s), _shown(file.name))
        found = [detection for _, completed in spot(blocks, spotter) for detection in completed]
    return Transcript(_shown(file), duration_s, tuple(found))


@cli.command()
@click.argument("audio", nargs=-1, required=True, type=_PATH)
@_model
@click.option("--format", "format_", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many labels to show in a table.")
def classify(audio: tuple[Path, ...], model: str, format_: str, top: int) -> None:
    """Say which word each one-word clip holds, with the probability of every label."""
    from speechrnn.audio import read
    from speechrnn.recognizer import load

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


def _seconds(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"expected a number of seconds above 0, got {value:g}.")
    return value


@cli.command()
@_model
@_operating_point
@click.option("--source", help="A recording, or - for raw 16-bit PCM on standard input; the microphone if not given.")
@click.option("--rate", "rate_hz", type=click.IntRange(1000, 768000), help="Rate of --source -; 16000 if not given.")
@click.option("--realtime", is_flag=True, help="Play a --source at the speed of the sound.")
@click.option("--device", help="Name or number of the microphone; see: speechrnn devices.")
@click.option("--keywords", metavar="WORD,WORD", help="Only these may fire.")
@click.option("--threshold", multiple=True, metavar="[WORD=]NUMBER", help="Score at which keywords fire; repeatable.")
@click.option("--step", "step_ms", type=click.IntRange(10, 1000), help="Milliseconds between two decisions.")
@click.option("--duration", "duration_s", type=float, callback=_seconds, help="Stop after so many seconds.")
@click.option("--jsonl", is_flag=True, help="Print one JSON object for each detection.")
@click.option("--run", "command", metavar="COMMAND", help="Run this at each detection: 'notify {label} {score}'.")
@click.option("--save", type=_PATH, metavar="FILE", help="Keep the audio, with the detections beside it.")
def listen(
    model: str,
    operating_point: str | None,
    source: str | None,
    rate_hz: int | None,
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
    from speechrnn.cli.sinks import CommandRunner, Printer, Recorder, Sink, run
    from speechrnn.recognizer import load
    from speechrnn.spotter import KeywordSpotter

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's way to press Ctrl-C
    recognizer = load(model, operating_point=operating_point)
    spotter = KeywordSpotter(recognizer, _options(recognizer, threshold, keywords, step_ms))
    if save is not None and source is not None:
        _check_apart({"--save": save}, {"the recording": [Path(source)]})
    notes: list[Callable[[str], None]] = [_note]
    sinks: list[Sink] = []
    if command is not None:
        sinks.append(CommandRunner(command, lambda line: notes[-1](line)))
    opened = _open_source(source, rate_hz, realtime, device, lambda line: notes[-1](line))
    if save is not None:
        sinks.append(Recorder(save, spotter.sample_rate_hz))
    if jsonl or not sys.stdout.isatty():
        sinks.append(Printer(jsonl, click.echo))
        _note(f"listening to {opened.name}; Ctrl-C ends it")
    else:
        from speechrnn.cli.live_view import LiveView

        view = LiveView(opened, spotter)
        notes.append(view.note)
        sinks.append(view)
    run(opened, spotter, sinks, duration_s)


def _open_source(
    source: str | None,
    rate_hz: int | None,
    realtime: bool,
    device: str | None,
    note: Callable[[str], None],
) -> AudioSource:
    from speechrnn.sources import RealTimeSource, open_source

    if rate_hz is not None and source != "-":
        raise ConfigError(f"--rate {rate_hz}: belongs to --source -; a recording and a microphone tell theirs")
    if realtime and source is None:
        raise ConfigError("--realtime: belongs to --source; a microphone is as fast as the sound")
    if device is not None and source is not None:
        raise ConfigError(f"--device {device}: is not used with --source {source}; give one of them")
    opened = open_source(source, device=_device(device), pipe_rate_hz=rate_hz or 16000, on_event=note)
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
    from speechrnn.cli.doctor import check_all

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
@_operating_point
@click.option("--threshold", multiple=True, metavar="[WORD=]NUMBER", help="Score at which keywords fire; repeatable.")
@click.option(
    "--clients",
    "max_clients",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="How many may be heard at once.",
)
def serve(
    model: str,
    host: str,
    port: int,
    names: tuple[str, ...],
    certfile: Path | None,
    keyfile: Path | None,
    operating_point: str | None,
    threshold: tuple[str, ...],
    max_clients: int,
) -> None:
    """Open a page on this machine that listens: to a microphone, or to a sound file. Ctrl-C ends it."""
    try:
        from speechrnn.serving import app as server
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve needs {error.name}, which is not installed: pip install 'speechrnn[web]'") from None
    from speechrnn.recognizer import load

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.check_certificate(certfile, keyfile)
    recognizer = load(model, operating_point=operating_point)
    app = server.App(recognizer, _options(recognizer, threshold), max_clients=max_clients)
    listening = server.bind(host, port)
    with suppress(KeyboardInterrupt):
        for address in server.addresses(listening, "https" if certfile else "http"):
            _note(f"open {address}")
        if not (certfile or server.is_loopback(listening)):
            _note("others can open it, but browsers give a microphone only to https: give --certfile and --keyfile")
        _note("Ctrl-C ends it")
        server.make_server(app, names=names, certfile=certfile, keyfile=keyfile).run([listening])


@cli.command()
@click.argument("model")
@click.argument("folder", type=_PATH)
@click.option("--json", "json_path", type=_PATH, help="Write the scores to this file.")
@click.option("--plots", type=_PATH, help="Draw the pictures into this folder.")
@click.option("--report", "report_path", type=_PATH, metavar="FILE.html", help="Write a page with scores and pictures.")
@click.option("--noise", type=_PATH, metavar="FOLDER", help="Score in noise from these recordings, too.")
@click.option(
    "--split", type=click.Choice(("testing", "validation")), help="Only the clips of this split of Speech Commands."
)
def evaluate(
    model: str,
    folder: Path,
    json_path: Path | None,
    plots: Path | None,
    report_path: Path | None,
    noise: Path | None,
    split: Split | None,
) -> None:
    """Score MODEL on the clips of FOLDER, laid out as LABEL/*.wav.

    Folders that are no label of the model count as unknown, _silence_ as silence; each context of the recordings in
    _background_noise_ is a clip of silence. Clips of more than a context are searched for a keyword.
    With --split, FOLDER is a Speech Commands tree, whose lists, or else the hash of the speaker, tell the splits.
    """
    from speechrnn.audio import find_audio
    from speechrnn.evaluation import clips as evaluation
    from speechrnn.evaluation import report
    from speechrnn.recognizer import find_model, load

    _check_apart(
        {"--json": json_path, "--plots": plots, "--report": report_path},
        {
            "a clip": evaluation.clips_of(folder, split),
            "noise": [] if noise is None else find_audio(noise),
            "the model": [find_model(model)],
        },
    )
    if plots is not None or report_path is not None:
        from speechrnn.evaluation.plots import draw_all  # before the work, for matplotlib may be missing
    for path in (json_path, report_path):
        if path is not None:
            outputs.check_place(path)
    if plots is not None:
        outputs.check_picture(plots / "confusion.png")
    recognizer = load(model)
    result = evaluation.evaluate(
        recognizer, folder, lambda files, n: track(files, n, "evaluating"), noise=noise, split=split
    )
    click.echo(report.to_table(result), nl=False)
    if json_path is not None:
        outputs.write_text(json_path, _to_json(result))
    if plots is not None:
        with outputs.writing(plots):
            for name, figure in draw_all(result).items():
                figure.savefig(plots / f"{name}.png", dpi=110)
    if report_path is not None:
        title = f"{model} on {_shown(folder)}" + (f", {split} split" if split else "")
        outputs.write_text(report_path, report.to_html(result, title))
    _end(len(result.failed), result.n + len(result.failed))


@cli.command()
@click.argument("audio", nargs=-1, required=True, type=_PATH)
@_model
@_operating_point
@click.option("--threshold", multiple=True, metavar="[WORD=]NUMBER", help="Score at which keywords fire; repeatable.")
@click.option(
    "--truth",
    type=_PATH,
    metavar="FILE|FOLDER",
    help="What was spoken: Audacity labels or transcripts (.txt), .ctm, .json or .csv; in a folder, by the name of the "
    "recording. Beside the recordings if not given.",
)
@click.option("--rule", type=click.Choice(("default", "tensorflow", "mlperf")), default="default", help="How to match.")
@click.option("--json", "json_path", type=_PATH, metavar="FILE", help="Write the score to this file.")
@click.option(
    "--curve",
    "curve_path",
    type=_PATH,
    metavar="FILE.png",
    help="Draw misses against false alarms over all thresholds, of the detector on the audio as it is, with what the "
    "spotter gives as set and at the model's operating points; the same as JSON beside it.",
)
def score(
    audio: tuple[Path, ...],
    model: str,
    operating_point: str | None,
    threshold: tuple[str, ...],
    truth: Path | None,
    rule: str,
    json_path: Path | None,
    curve_path: Path | None,
) -> None:
    """Hold what is found in recordings against what was spoken in them.

    AUDIO can also be what transcribe wrote as .json or .jsonl. What cannot be read is reported, and the rest is scored;
    the exit code is 2 then.
    """
    from speechrnn.evaluation import streams as scoring
    from speechrnn.recognizer import find_model, load

    written = [path for path in audio if path.suffix in _DETECTIONS]
    if len(written) == len(audio) and (threshold or operating_point):
        option = f"--threshold {threshold[0]}" if threshold else f"--operating-point {operating_point}"
        raise ConfigError(f"{option}: changes nothing in detections, which are decided; give the recordings themselves")
    if curve_path is not None:
        if written:
            raise ConfigError(f"--curve {curve_path}: needs the recordings themselves, got detections")
        check_curve(curve_path)
    if json_path is not None:
        outputs.check_place(json_path)
    recognizer = load(model, operating_point=operating_point)
    options, points = _options(recognizer, threshold), recognizer.info.operating_points
    choices = {_CHOSEN: options}
    if curve_path is not None and not threshold:
        choices |= {name: recognizer.info.options_at(name) for name in points}
    inputs, n_unread = _find_inputs(audio, truth, recognizer.info.spec.labels.keywords)
    _check_apart(
        {"--json": json_path, "--curve": curve_path, "the JSON beside --curve": curve_path and _beside(curve_path)},
        {"an input": [*audio, *inputs.recordings], "the truth": inputs.truths, "the model": [find_model(model)]},
    )
    heard, n_damaged = _hear_all(recognizer, choices, inputs)
    failed = n_unread + n_damaged
    if heard:
        scores = {
            name: scoring.score([one.scored(name) for one in heard], recognizer.info.spec.labels.keywords, rule)
            for name in choices
        }
        click.echo(scoring.to_table(scores[_CHOSEN]), nl=False)
        if json_path is not None:
            outputs.write_text(json_path, _to_json(scores[_CHOSEN]))
        if curve_path is not None:
            write_curve(scoring.build_curve(heard, recognizer.info.spec.labels, choices, rule), curve_path)
    _end(failed, len(heard) + failed)


def _beside(curve_path: Path) -> Path:
    return curve_path.with_suffix(".json")


def check_curve(path: Path) -> None:
    """Raise DeviceError now, rather than after the work, if `write_curve` could not write."""
    outputs.check_picture(path)
    outputs.check_place(_beside(path))


def write_curve(curve: StreamCurve, path: Path) -> None:
    """Draw a curve, and write the same as JSON beside the picture. Raises DeviceError."""
    from speechrnn.evaluation.plots import draw_curve

    outputs.write_text(_beside(path), _to_json(curve))
    with outputs.writing(path):
        draw_curve(curve).savefig(path, dpi=110)


class _Inputs(NamedTuple):
    """What is scored: detections that were written, and recordings; for each, in this order, the file of its truth."""

    written: list[Transcript]
    recordings: list[Path]
    truths: list[Path]


def _find_inputs(audio: Sequence[Path], place: Path | None, keywords: Sequence[str]) -> tuple[_Inputs, int]:
    """What can be scored of the arguments, and how many files cannot be read, each of which is reported.

    Raises DataError if the truth of one is missing or the file itself, or detections are of no keyword.
    """
    from speechrnn.evaluation.ground_truth import find_ground_truth

    written, failed = _read_written([path for path in audio if path.suffix in _DETECTIONS], keywords)
    files, n_missing = _find([path for path in audio if path.suffix not in _DETECTIONS])
    recordings = [file for file in files if _can_be_opened(file)]
    paths = [Path(transcript.audio) for transcript in written] + recordings
    inputs = _Inputs(written, recordings, [find_ground_truth(path, place) for path in paths])
    for truth in inputs.truths:
        if any(_is_same(truth, path) for path in audio):
            raise DataError(f"{truth}: cannot be its own truth; give --truth")
    return inputs, failed + n_missing + len(files) - len(recordings)


def _read_written(paths: Sequence[Path], keywords: Sequence[str]) -> tuple[list[Transcript], int]:
    from speechrnn.evaluation.ground_truth import read_detections

    written: list[Transcript] = []
    failed = 0
    for path in paths:
        try:
            transcripts = read_detections(path)
        except SpeechRnnError as error:
            _note(f"speechrnn: {error}")
            failed += 1
            continue
        others = {found.label for transcript in transcripts for found in transcript.detections} - set(keywords)
        if others:
            names = ", ".join(sorted(others))
            raise DataError(f"{path}: {names}: no keyword of this model; give the --model that found it")
        written += transcripts
    return written, failed


def _can_be_opened(file: Path) -> bool:
    from speechrnn.audio import open_audio

    try:
        open_audio(file).close()
    except SpeechRnnError as error:
        _note(f"speechrnn: {error}")
        return False
    return True


def _hear_all(recognizer: Recognizer, choices: dict[str, Options], inputs: _Inputs) -> tuple[list[StreamResult], int]:
    """What each choice of options finds, beside what was spoken, and how many recordings turned out to be damaged.

    Raises DataError before any is heard if the truth of one cannot be read.
    """
    from speechrnn.evaluation.ground_truth import read_ground_truth
    from speechrnn.evaluation.streams import StreamResult, spot_all
    from speechrnn.sources import FileSource

    written, recordings, places = inputs
    paths = [Path(transcript.audio) for transcript in written] + recordings
    truths = [read_ground_truth(place, path.stem) for place, path in zip(places, paths, strict=True)]
    failed = 0
    done = [
        StreamResult(t.audio, t.duration_s, truth, {_CHOSEN: t.detections})
        for t, truth in zip(written, truths, strict=False)
    ]
    for file, truth in zip(recordings, truths[len(written) :], strict=True):
        try:
            with FileSource(file) as source:
                blocks = source.blocks(recognizer.info.spec.sample_rate_hz)
                tracked = track(blocks, round(source.duration_s or 0.0), _shown(file.name))
                found, duration_s, posteriors = spot_all(tracked, recognizer, choices)
        except SpeechRnnError as error:
            _note(f"speechrnn: {error}")
            failed += 1
            continue
        done.append(StreamResult(_shown(file), duration_s, truth, found, posteriors))
    return done, failed


def _to_json(result: msgspec.Struct) -> str:
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"


@cli.command()
@click.argument("model")
def describe(model: str) -> None:
    """Print what a model file says of itself: features, network, labels, thresholds, provenance."""
    from speechrnn.cli.describe import describe_model

    click.echo(describe_model(model), nl=False)


@cli.command()
@click.argument("config", type=_PATH)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--data", type=click.Path(), help="Folder that the paths in [data] start from.")
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


def pack_audio(experiment: Experiment) -> Pack:
    """The packed audio of an experiment, with progress; clips that cannot be used are counted, their list named."""
    from speechrnn.data import pack as dataset

    keywords = experiment.model.labels.keywords
    pack = dataset.prepare(experiment.data, lambda clips, n: track(clips, n, "preparing"), keywords=keywords)
    if pack.refused:
        report = Path(experiment.data.dir) / experiment.data.packed / dataset.PROBLEMS
        _note(f"{len(pack.refused)} clips cannot be used; they are listed in {report}")
    return pack


@cli.command()
@click.argument("config", type=_PATH)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--data", type=click.Path(), help="Folder that the paths in [data] start from.")
@click.option("--run-dir", type=_PATH, help="Where the run is kept; runs/NAME-OF-CONFIG if not given.")
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
    with outputs.writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    show = _ProgressLine()
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
            _note(f"interrupted; go on with: speechrnn train {run_dir / 'config.toml'} --run-dir {run_dir} --resume")
        raise SystemExit(130) from None
    show.end()
    if not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
        click.echo(f"{run_dir / 'best.pt'}: {100 * accuracy:.2f} % of validation contexts, mean of the classes")


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
    if checkpoint.suffix == ".onnx":
        raise ConfigError(f"{checkpoint}: is exported already; give a checkpoint such as runs/NAME/best.pt")
    if output.suffix != ".onnx":
        raise ConfigError(f"{output}: expected a name that ends in .onnx; a checkpoint such as best.pt is a model, too")
    outputs.check_place(output)
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
    with outputs.writing(output):
        difference = write_onnx(net, info, contexts, output)
    size_kb = output.stat().st_size / 1000
    click.echo(
        f"{output}: {size_kb:.0f} kB, at most {difference:.1e} from torch on {len(contexts)} contexts of {folder}"
    )
