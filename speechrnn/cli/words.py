"""The verbs for own words: record, teach."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechrnn.cli.console import PATH, chosen_device, device_option, note
from speechrnn.errors import ConfigError
from speechrnn.spec import DEFAULT_MODEL

if TYPE_CHECKING:
    from speechrnn.audio import Samples
    from speechrnn.sources import AudioSource

_RATE_HZ = 16000
_METER_DB, _METER_WIDTH = 60.0, 20


@click.command(short_help="Record your own words.")
@click.argument("folder", type=PATH)
@click.option("--label", "labels", multiple=True, required=True, metavar="WORD", help="Word to record; repeatable.")
@click.option(
    "--count",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Recordings of each word; those that are there count.",
)
@click.option("--speaker", metavar="NAME", default="me", show_default=True, help="Who speaks, for the names of files.")
@click.option(
    "--room",
    "room_s",
    type=click.FloatRange(0, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for which the room is recorded without speech; 0 for not at all.",
)
@click.option(
    "--others",
    "n_others",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Words for each label that are spelled like it, which it must not be taken for.",
)
@click.option("--ask", is_flag=True, help="After each take: Enter keeps it, p plays it, r records it again.")
@device_option
def record(
    folder: Path,
    labels: tuple[str, ...],
    count: int,
    speaker: str,
    room_s: float,
    n_others: int,
    ask: bool,
    device: str | None,
) -> None:
    """Record words into FOLDER/WORD/*.wav, one take after the other, for speechrnn teach.

    A take that is clipped, faint, empty or cut off is not kept, and why is said. Ctrl-C ends; the same command goes on.
    """
    from speechrnn.labels import Labels
    from speechrnn.teaching.session import Session

    _check_names(labels, speaker)
    Labels(labels)
    on_terminal = sys.stderr.isatty()
    session = Session(
        folder,
        _microphone(device),
        _RATE_HZ,
        speaker=speaker,
        say=note,
        show=_show_level if on_terminal else lambda what, left_s, block: None,
        keep=_ask if ask else lambda samples: True,
    )
    for label in labels:
        session.record_word(label, count)
    session.record_room(room_s)
    for label in labels:
        session.record_others(label, n_others)
    click.echo(f"{folder}: {count} of each of {', '.join(labels)}")
    note(f"now: speechrnn teach {folder} --output my.onnx")


def _check_names(labels: tuple[str, ...], speaker: str) -> None:
    """Raise ConfigError for what cannot be the name of a folder or a file, or would be read as something else."""
    for name in (*labels, speaker):
        if not name or any(sign in name for sign in "/\\\0") or name.startswith((".", "_")) or "_nohash_" in name:
            raise ConfigError(
                f"{name!r}: expected a name for a folder or a file, without / and not beginning with _ or ."
            )


def _microphone(device: str | None) -> Callable[[], AudioSource]:
    from speechrnn.sources import open_source

    return lambda: open_source(None, device=chosen_device(device), on_event=note)


def _show_level(what: str, left_s: float, block: Samples) -> None:
    """A meter that is rewritten: what to do, how long, and the level in dB of full scale."""
    from speechrnn.audio import rms_db
    from speechrnn.sinks.live_view import bar

    level_db = rms_db(block)
    meter = bar(1 + level_db / _METER_DB, _METER_WIDTH)
    sys.stderr.write(f"\r\x1b[K{what:>12} {left_s:4.1f} s  |{meter}| {level_db:4.0f} dB\r")
    sys.stderr.flush()


def _ask(samples: Samples) -> bool:
    """Ask on the terminal whether a take is kept, and play it as often as is wanted."""
    while True:
        answer = click.prompt("Enter keeps, p plays, r records again", default="", show_default=False, err=True)
        if answer != "p":
            return bool(answer != "r")
        _play(samples)


def _play(samples: Samples) -> None:
    import sounddevice

    sounddevice.play(samples, _RATE_HZ, blocking=True)


@click.command(short_help="Teach a model your own words.")
@click.argument("folder", type=PATH)
@click.option("--output", type=PATH, required=True, metavar="FILE", help="Model file to write, such as my.onnx.")
@click.option(
    "--from",
    "model",
    metavar="NAME|FILE",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Model that is taught: a shipped one, or one that was taught from it.",
)
@click.option("--only", is_flag=True, help="The model's keywords are dropped: only the own words are detected.")
@click.option("--keep", metavar="WORD,WORD", show_default="all", help="Keywords of the model that stay.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, 60),
    default=1.0,
    show_default=True,
    help="About how long to work; 0 learns from the recordings as they are, in seconds.",
)
@click.option(
    "--voices/--no-voices",
    default=None,
    show_default="if espeak-ng is installed",
    help="Learn from synthetic voices that say the words, too.",
)
def teach(
    folder: Path, output: Path, model: str, only: bool, keep: str | None, minutes: float, voices: bool | None
) -> None:
    """Teach a model the words of FOLDER, which holds FOLDER/WORD/*.wav, and report what will go wrong.

    FOLDER may be a zip archive, such as the page of speechrnn serve makes. Three recordings of a word are needed, ten
    are good. Recordings in FOLDER/_not_ are not to be taken for a word, those in FOLDER/_background_noise_ are of the
    room.
    """
    from speechrnn.recognizer import load
    from speechrnn.teaching.lesson import taught
    from speechrnn.teaching.report import changes

    if only and keep is not None:
        raise ConfigError(f"--keep {keep}: contradicts --only; give one of them")
    if output.suffix != ".onnx":
        raise ConfigError(f"{output}: expected a name that ends in .onnx")
    kept = () if only else None if keep is None else tuple(filter(None, map(str.strip, keep.split(","))))
    before = load(output).info if output.is_file() else None
    result = taught(
        folder,
        model=model,
        output=output,
        keep=kept,
        minutes=minutes,
        voices=voices,
        problem=lambda error: note(f"speechrnn: {error}"),
        note=note,
    )
    for line in result.report.to_lines():
        click.echo(line)
    for line in [] if before is None else changes(before, result.report):
        click.echo(line)
    click.echo(f"\n{output}: {', '.join(result.recognizer.info.spec.labels.keywords)}")
    note(f"try it: speechrnn listen --model {output}")
