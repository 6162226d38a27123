"""The verbs for own words: teach."""

from __future__ import annotations

from pathlib import Path

import click

from speechrnn.cli.console import PATH, note
from speechrnn.errors import ConfigError


@click.command(short_help="Teach a model your own words.")
@click.argument("folder", type=PATH)
@click.option("--output", type=PATH, required=True, metavar="FILE", help="Model file to write, such as my.onnx.")
@click.option(
    "--from",
    "model",
    metavar="NAME|FILE",
    default="commands10",
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
@click.option("--voices", is_flag=True, help="Learn from synthetic voices that say the words, too; needs espeak-ng.")
def teach(folder: Path, output: Path, model: str, only: bool, keep: str | None, minutes: float, voices: bool) -> None:
    """Teach a model the words of FOLDER, which holds FOLDER/WORD/*.wav, and report what will go wrong.

    Three recordings of a word are needed, ten are good. Recordings in FOLDER/_not_ are not to be taken for a word,
    those in FOLDER/_background_noise_ are of the room.
    """
    from speechrnn.teaching.lesson import taught

    if only and keep is not None:
        raise ConfigError(f"--keep {keep}: contradicts --only; give one of them")
    if output.suffix != ".onnx":
        raise ConfigError(f"{output}: expected a name that ends in .onnx")
    kept = () if only else None if keep is None else tuple(filter(None, map(str.strip, keep.split(","))))
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
    click.echo(f"\n{output}: {', '.join(result.recognizer.info.spec.labels.keywords)}")
    note(f"try it: speechrnn listen --model {output}")
