"""The verbs that listen for others: serve, wyoming."""

from __future__ import annotations

import signal
import socket
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechrnn.cli.console import (
    DEFAULT_MODEL,
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
@click.option(
    "--clients",
    "max_clients",
    metavar="N",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Largest number of clients at a time.",
)
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
) -> None:
    """Open a page on this machine that listens to a microphone, or to a sound file. Ctrl-C ends it."""
    try:
        from speechrnn.clients.server import bind
        from speechrnn.serving import app as server
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve cannot be used, for {missing_extra(error.name)}") from None
    from speechrnn.recognizer import load

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.check_certificate(certfile, keyfile)
    recognizer = load(model, operating_point=operating_point)
    app = server.App(recognizer, choose_options(recognizer, threshold, in_speech=in_speech), max_clients=max_clients)
    listening = bind(host, port)
    with suppress(KeyboardInterrupt):
        for address in server.addresses(listening, "https" if certfile else "http"):
            note(f"open {address}")
        if not (certfile or server.is_loopback(listening)):
            note("others can open it, but browsers give a microphone only to https: give --certfile and --keyfile")
        note("Ctrl-C ends it")
        server.Server(app, names=names, certfile=certfile, keyfile=keyfile).run(listening)


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
) -> None:
    """Serve keywords as wake words and as speech-to-text, by the Wyoming protocol. Ctrl-C ends it."""
    try:
        from speechrnn.wyoming import server
    except ModuleNotFoundError as error:
        raise ConfigError(f"wyoming cannot be used, for {missing_extra(error.name)}") from None
    from speechrnn.recognizer import load

    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
        note(f"Wyoming server at {uri}; Ctrl-C ends it")
        serving.run(listening)


def _announced(name: str, host: str, port: int) -> AbstractContextManager[None]:
    from speechrnn.wyoming.discovery import announced

    return announced(name or f"speechrnn on {socket.gethostname()}"[:63], host, port)
