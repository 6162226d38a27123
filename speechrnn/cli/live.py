"""The verbs that listen as words are spoken: listen, devices, doctor, serve."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechrnn.cli.console import (
    PATH,
    choose_options,
    device_option,
    model_option,
    note,
    operating_point_option,
    threshold_option,
)
from speechrnn.errors import ConfigError, DeviceError
from speechrnn.files import check_apart

if TYPE_CHECKING:
    from speechrnn.sources import AudioSource


def _seconds(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"expected a number of seconds above 0, got {value:g}.")
    return value


@click.command()
@model_option
@operating_point_option
@click.option("--source", help="A recording, or - for raw 16-bit PCM on standard input; the microphone if not given.")
@click.option("--rate", "rate_hz", type=click.IntRange(1000, 768000), help="Rate of --source -; 16000 if not given.")
@click.option("--realtime", is_flag=True, help="Play a --source at the speed of the sound.")
@device_option
@click.option("--keywords", metavar="WORD,WORD", help="Only these may fire.")
@threshold_option
@click.option("--step", "step_ms", type=click.IntRange(10, 1000), help="Milliseconds between two decisions.")
@click.option("--duration", "duration_s", type=float, callback=_seconds, help="Stop after so many seconds.")
@click.option("--jsonl", is_flag=True, help="Print one JSON object for each detection.")
@click.option("--run", "command", metavar="COMMAND", help="Run this at each detection: 'notify {label} {score}'.")
@click.option("--save", type=PATH, metavar="FILE", help="Keep the audio, with the detections beside it.")
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
    spotter = KeywordSpotter(recognizer, choose_options(recognizer, threshold, keywords, step_ms))
    if save is not None and source is not None:
        check_apart({"--save": save}, {"the recording": [Path(source)]})
    notes: list[Callable[[str], None]] = [note]
    sinks: list[Sink] = []
    if command is not None:
        sinks.append(CommandRunner(command, lambda line: notes[-1](line)))
    opened = _open_source(source, rate_hz, realtime, device, lambda line: notes[-1](line))
    if save is not None:
        sinks.append(Recorder(save, spotter.sample_rate_hz))
    if jsonl or not sys.stdout.isatty():
        sinks.append(Printer(jsonl, click.echo))
        note(f"listening to {opened.name}; Ctrl-C ends it")
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


@click.command()
def devices() -> None:
    """List the microphones."""
    from speechrnn.sources import input_devices

    found = input_devices()
    if not found:
        raise DeviceError("no microphone found; plug one in, and see: speechrnn doctor")
    for info in found:
        mark = "*" if info["default"] else " "
        click.echo(f"{mark} {info['index']:>3}  {info['name']}  ({info['channels']} channels, {info['rate_hz']} Hz)")


@click.command()
@model_option
@device_option
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


@click.command()
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--name", "names", multiple=True, help="A further host name under which it may be opened; repeatable.")
@click.option("--certfile", type=PATH, help="PEM certificate, for https.")
@click.option("--keyfile", type=PATH, help="Its key, if not in the same file.")
@operating_point_option
@threshold_option
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
    app = server.App(recognizer, choose_options(recognizer, threshold), max_clients=max_clients)
    listening = server.bind(host, port)
    with suppress(KeyboardInterrupt):
        for address in server.addresses(listening, "https" if certfile else "http"):
            note(f"open {address}")
        if not (certfile or server.is_loopback(listening)):
            note("others can open it, but browsers give a microphone only to https: give --certfile and --keyfile")
        note("Ctrl-C ends it")
        server.make_server(app, names=names, certfile=certfile, keyfile=keyfile).run([listening])
