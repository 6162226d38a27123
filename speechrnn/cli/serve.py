"""The verbs that listen for others: serve, wyoming."""

from __future__ import annotations

import json
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechrnn.cli.console import (
    PATH,
    choose_options,
    in_speech_option,
    model_option,
    name_of,
    note,
    operating_point_option,
    threshold_option,
)
from speechrnn.errors import ConfigError, missing_extra
from speechrnn.spec import DEFAULT_MODEL

if TYPE_CHECKING:
    from speechrnn.recognizer import Recognizer
    from speechrnn.spec import Options

clients_option = click.option(
    "--clients",
    "max_clients",
    metavar="N",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Largest number of clients at a time.",
)

_log = logging.getLogger("speechrnn")


def _log_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about what a server logs on standard error."""
    level = click.option(
        "--log-level",
        type=click.Choice(("debug", "info", "warning", "error")),
        default="warning",
        show_default=True,
        help="Least important messages that are logged.",
    )
    form = click.option(
        "--log-format",
        type=click.Choice(("text", "json")),
        default="text",
        show_default=True,
        help="Lines for people, or one JSON object for each message.",
    )
    return level(form(verb))


class JsonFormatter(logging.Formatter):
    """A log message as one line of JSON: time in UTC, level, logger, message, and the trace of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a message."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start_logging(level: str, form: str) -> Callable[[str], None]:
    """Log messages of this package from a level on, of others from warnings on, and give what tells people something.

    In JSON what people are told is logged, too, whatever the level, so that every line can be read by a program.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    _log.setLevel(level.upper())
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(lambda: logging.getLogger().removeHandler(handler))
    if form == "text":
        return note

    def tell(message: str) -> None:
        handler.handle(_log.makeRecord(_log.name, logging.INFO, "", 0, message, (), None))

    return tell


@click.command(short_help="Open a page in the browser that listens.")
@model_option
@operating_point_option
@threshold_option
@in_speech_option
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to serve at; 0.0.0.0 for all."
)
@click.option(
    "--port",
    metavar="N",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="TCP port; 0 takes a free one.",
)
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    show_default="only its addresses",
    help="A further host name under which the page may be opened; repeatable.",
)
@click.option("--certfile", type=PATH, metavar="FILE", show_default="none, http", help="PEM certificate, for https.")
@click.option("--keyfile", type=PATH, metavar="FILE", show_default="in --certfile", help="Key of the certificate.")
@clients_option
@_log_options
def serve(
    model: str,
    operating_point: str | None,
    threshold: tuple[str, ...],
    in_speech: bool,
    host: str,
    port: int,
    names: tuple[str, ...],
    certfile: Path | None,
    keyfile: Path | None,
    max_clients: int,
    log_level: str,
    log_format: str,
) -> None:
    """Open a page on this machine that listens to a microphone, or to a sound file. Ctrl-C ends it."""
    try:
        from speechrnn.clients.server import bind
        from speechrnn.serving import app as server
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve cannot be used, for {missing_extra(error.name)}") from None
    from speechrnn.recognizer import load

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tell = start_logging(log_level, log_format)
    server.check_certificate(certfile, keyfile)
    recognizer = load(model, operating_point=operating_point)
    app = server.App(recognizer, choose_options(recognizer, threshold, in_speech=in_speech), max_clients=max_clients)
    listening = bind(host, port)

    def tell_addresses() -> None:
        for address in server.addresses(listening, "https" if certfile else "http"):
            tell(f"open {address}")
        if not (certfile or server.is_loopback(listening)):
            tell("others can open it, but browsers give a microphone only to https: give --certfile and --keyfile")
        tell("Ctrl-C ends it")

    with suppress(KeyboardInterrupt):
        server.Server(app, names=names, certfile=certfile, keyfile=keyfile).run(listening, tell_addresses)


@click.command(short_help="Serve wake words and speech-to-text to Home Assistant.")
@click.option(
    "--uri",
    metavar="URI",
    default="tcp://127.0.0.1:10400",
    show_default=True,
    help="Where to listen: tcp://0.0.0.0:10400 for other machines, unix:///PATH, or stdio://.",
)
@click.option(
    "--model",
    "models",
    metavar="NAME|FILE",
    multiple=True,
    default=(DEFAULT_MODEL,),
    show_default=True,
    help="Name of a shipped model, a model file or folder, or OWNER/NAME on the Hub; repeatable.",
)
@click.option("--keywords", metavar="WORD,WORD", show_default="all", help="Only these are offered.")
@operating_point_option
@threshold_option
@in_speech_option
@click.option(
    "--language",
    "languages",
    metavar="CODE",
    multiple=True,
    default=("en",),
    show_default=True,
    help="Language of the words, such as de; repeatable.",
)
@clients_option
@click.option(
    "--zeroconf",
    "announced_as",
    metavar="NAME",
    is_flag=False,
    flag_value="",
    show_default="off",
    help="Announce the server in the local network, so that Home Assistant offers it; NAME may be left out.",
)
@click.option(
    "--metrics-port",
    metavar="N",
    type=click.IntRange(1, 65535),
    show_default="off",
    help="Show counters for Prometheus at this port of 127.0.0.1.",
)
@_log_options
def wyoming(
    uri: str,
    models: tuple[str, ...],
    keywords: str | None,
    operating_point: str | None,
    threshold: tuple[str, ...],
    in_speech: bool,
    languages: tuple[str, ...],
    max_clients: int,
    announced_as: str | None,
    metrics_port: int | None,
    log_level: str,
    log_format: str,
) -> None:
    """Serve keywords as wake words and as speech-to-text, by the Wyoming protocol. Ctrl-C ends it."""
    try:
        from speechrnn.wyoming import server
    except ModuleNotFoundError as error:
        raise ConfigError(f"wyoming cannot be used, for {missing_extra(error.name, 'wyoming')}") from None
    from speechrnn.recognizer import load

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tell = start_logging(log_level, log_format)
    address = server.parse(uri)
    loaded: list[tuple[str, Recognizer, Options]] = []
    for model in models:
        recognizer = load(model, operating_point=operating_point)
        options = choose_options(recognizer, threshold, keywords, in_speech=in_speech)
        loaded.append((name_of(model), recognizer, options))
    serving = server.Server(loaded, max_clients=max_clients, languages=languages)
    if metrics_port is not None:
        server.show_counters(serving.metrics, metrics_port)
    with suppress(KeyboardInterrupt), server.bound(address, serving) as listening, ExitStack() as stack:
        if address.scheme == "tcp":
            host, port = listening.getsockname()[:2]
            uri = f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
            if announced_as is not None:
                stack.enter_context(_announced(announced_as, host, port))
        elif announced_as is not None:
            raise ConfigError(f"--zeroconf: belongs to --uri tcp://HOST:PORT, got {uri}")
        serving.run(listening, lambda: tell(f"Wyoming server at {uri}; Ctrl-C ends it"))


def _announced(name: str, host: str, port: int) -> AbstractContextManager[None]:
    from speechrnn.wyoming.discovery import announced

    return announced(name or f"speechrnn on {socket.gethostname()}"[:63], host, port)
