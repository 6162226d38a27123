"""The verbs that listen as words are spoken: listen, devices, doctor."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechrnn.cli.console import (
    PATH,
    choose_options,
    chosen_device,
    device_option,
    in_speech_option,
    model_option,
    name_of,
    note,
    operating_point_option,
    threshold_option,
)
from speechrnn.errors import ConfigError, DeviceError, missing_extra
from speechrnn.files import check_not_read

if TYPE_CHECKING:
    from speechrnn.sinks.live_view import LiveView
    from speechrnn.sinks.running import Sink
    from speechrnn.sources import AudioSource
    from speechrnn.spotter import KeywordSpotter


def _seconds(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"expected a number of seconds above 0, got {value:g}.")
    return value


@click.command(short_help="Detect keywords as they are spoken.")
@model_option
@operating_point_option
@threshold_option
@in_speech_option
@click.option("--keywords", metavar="WORD,WORD", show_default="all", help="Only these are detected.")
@click.option(
    "--step",
    "step_ms",
    metavar="MS",
    type=click.IntRange(10, 1000),
    show_default="the model's",
    help="Time between two decisions, in milliseconds.",
)
@click.option(
    "--source",
    metavar="FILE|-",
    show_default="the microphone",
    help="A recording, or - for raw 16-bit PCM on standard input.",
)
@click.option(
    "--rate",
    "rate_hz",
    metavar="HZ",
    type=click.IntRange(1000, 768000),
    show_default="16000",
    help="Sample rate of --source -, in Hz.",
)
@click.option("--realtime", is_flag=True, help="Play a --source at the speed of the sound.")
@device_option
@click.option(
    "--duration",
    "duration_s",
    metavar="SECONDS",
    type=float,
    callback=_seconds,
    show_default="until Ctrl-C",
    help="Time after which to stop, in seconds.",
)
@click.option("--jsonl", is_flag=True, help="Print one JSON object for each detection.")
@click.option("--run", "command", metavar="COMMAND", help="Run this at each detection: 'notify {label} {score}'.")
@click.option("--save", type=PATH, metavar="FILE", help="Keep the audio, with the detections beside it.")
@click.option(
    "--mqtt",
    metavar="URL",
    show_default="none",
    help="MQTT broker that is told of each word: mqtt://USER@HOST/PREFIX, mqtts:// for TLS.",
)
@click.option("--mqtt-discovery", is_flag=True, help="Show the keywords in Home Assistant as triggers of a device.")
@click.option(
    "--mqtt-password-file",
    type=PATH,
    metavar="FILE",
    show_default="in the URL",
    help="File whose first line is the password.",
)
@click.option(
    "--mqtt-cafile",
    type=PATH,
    metavar="FILE",
    show_default="the system's",
    help="Certificates that mqtts:// trusts, as PEM.",
)
@click.option(
    "--review",
    type=PATH,
    metavar="FOLDER",
    help="Keep what fired and what nearly fired in FOLDER/_review_, to be sorted for speechrnn teach.",
)
def listen(
    model: str,
    operating_point: str | None,
    threshold: tuple[str, ...],
    in_speech: bool,
    keywords: str | None,
    step_ms: int | None,
    source: str | None,
    rate_hz: int | None,
    realtime: bool,
    device: str | None,
    duration_s: float | None,
    jsonl: bool,
    command: str | None,
    save: Path | None,
    mqtt: str | None,
    mqtt_discovery: bool,
    mqtt_password_file: Path | None,
    mqtt_cafile: Path | None,
    review: Path | None,
) -> None:
    """Detect keywords as they are spoken: from the microphone, a pipe or a recording. Ctrl-C ends it."""
    from speechrnn.recognizer import load
    from speechrnn.sinks.command import CommandRunner
    from speechrnn.sinks.printer import Printer
    from speechrnn.sinks.recorder import Recorder
    from speechrnn.sinks.reviewer import Reviewer
    from speechrnn.sinks.running import run
    from speechrnn.spotter import KeywordSpotter

    _end_like_ctrl_c()
    if source is not None:
        check_not_read([save], [Path(source)])
    recognizer = load(model, operating_point=operating_point)
    spotter = KeywordSpotter(recognizer, choose_options(recognizer, threshold, keywords, step_ms, in_speech=in_speech))
    view = None if jsonl or not sys.stdout.isatty() else _live_view(spotter)
    say = note if view is None else view.note
    runner = [] if command is None else [CommandRunner(command, say)]
    told = _mqtt(mqtt, mqtt_discovery, mqtt_password_file, mqtt_cafile, model, spotter, say)
    opened = _open_source(source, rate_hz, realtime, device, say)
    reviewer = [] if review is None else [Reviewer(review, spotter)]
    recorder = [] if save is None else [Recorder(save, spotter.sample_rate_hz)]
    if view is None:
        note(f"listening to {opened.name}; Ctrl-C ends it")
    else:
        view.start(opened)
    shown = view or Printer(jsonl, click.echo)
    run(opened, spotter, [*told, *runner, *recorder, *reviewer, shown], duration_s, by_steps=review is not None)


def _mqtt(
    url: str | None,
    discovery: bool,
    password_file: Path | None,
    cafile: Path | None,
    model: str,
    spotter: KeywordSpotter,
    say: Callable[[str], None],
) -> list[Sink]:
    """The broker that is told of each word, if there is one. Raises ConfigError for options without it."""
    if url is None:
        if discovery or password_file or cafile:
            raise ConfigError("--mqtt-discovery, --mqtt-password-file and --mqtt-cafile: expected --mqtt with them")
        return []
    try:
        from speechrnn.sinks import mqtt
    except ModuleNotFoundError as error:
        raise ConfigError(f"--mqtt cannot be used, for {missing_extra(error.name)}") from None
    broker, recognizer = mqtt.parse(url, password_file), spotter.recognizer
    keywords = spotter.options.keywords or recognizer.info.spec.labels.keywords
    messages = mqtt.discovery(broker.prefix, name_of(model), keywords) if discovery else None
    return [mqtt.MqttSink(broker, say, messages, cafile)]


def _end_like_ctrl_c() -> None:
    """Let a service manager, and a terminal that hangs up, end the listening as Ctrl-C does; nohup stays in force."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def _live_view(spotter: KeywordSpotter) -> LiveView:
    from speechrnn.sinks.live_view import LiveView

    return LiveView(spotter)


def _open_source(
    source: str | None, rate_hz: int | None, realtime: bool, device: str | None, say: Callable[[str], None]
) -> AudioSource:
    """What `listen` was asked to listen to. Raises ConfigError for options that contradict each other."""
    from speechrnn.sources import RealTimeSource, open_source

    if rate_hz is not None and source != "-":
        raise ConfigError(f"--rate {rate_hz}: belongs to --source -; a recording and a microphone tell theirs")
    if realtime and source is None:
        raise ConfigError("--realtime: belongs to --source; a microphone is as fast as the sound")
    if device is not None and source is not None:
        raise ConfigError(f"--device {device}: is not used with --source {source}; give one of them")
    opened = open_source(source, device=chosen_device(device), pipe_rate_hz=rate_hz or 16000, on_event=say)
    return RealTimeSource(opened) if realtime else opened


@click.command(short_help="List the microphones.")
def devices() -> None:
    """List the microphones: number, name, channels and rate; * marks the system's default."""
    from speechrnn.sources import input_devices

    found = input_devices()
    if not found:
        raise DeviceError("no microphone found; plug one in, and see: speechrnn doctor")
    for info in found:
        mark = "*" if info["default"] else " "
        click.echo(f"{mark} {info['index']:>3}  {info['name']}  ({info['channels']} channels, {info['rate_hz']} Hz)")


@click.command(short_help="Check installation, model and microphone.")
@model_option
@device_option
def doctor(model: str, device: str | None) -> None:
    """Check installation, model and microphone, and say what to do. Speak while it records for two seconds."""
    from speechrnn.cli.doctor import check_all

    failed = False
    for finding in check_all(model, chosen_device(device)):
        click.echo(f"{'ok     ' if finding.ok else 'PROBLEM'}  {finding.what:<12}  {finding.seen}")
        if not finding.ok:
            failed = True
            if finding.advice:
                click.echo(f"{'':<23}{finding.advice}")
    if failed:
        raise SystemExit(2)
