"""The verbs on recordings: transcribe, classify, describe."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from speechrnn.cli import outputs
from speechrnn.cli.console import (
    PATH,
    Batch,
    choose_options,
    in_speech_option,
    model_option,
    note,
    operating_point_option,
    threshold_option,
    track,
)
from speechrnn.errors import ConfigError, DamagedAudioError
from speechrnn.files import check_not_read, printable

if TYPE_CHECKING:
    from speechrnn.detector import Detection
    from speechrnn.formats import Transcript
    from speechrnn.recognizer import Recognizer
    from speechrnn.spotter import KeywordSpotter

_FORMATS = ("table", "json", "jsonl", "csv", "vtt", "srt", "audacity", "ctm")


@click.command(short_help="Find keywords in recordings.")
@click.argument("audio", nargs=-1, required=True, type=PATH)
@model_option
@operating_point_option
@threshold_option
@in_speech_option
@click.option(
    "--format", "format_", type=click.Choice(_FORMATS), default="table", show_default=True, help="Form of the output."
)
@click.option(
    "--output",
    metavar="PLACE",
    show_default="standard output",
    help="A file, replaced when all recordings are done; what is done when Ctrl-C comes is kept as FILE.part. "
    "Or a folder, also a new one if its name ends in /: one file for each recording, as soon as it is done.",
)
def transcribe(
    audio: tuple[Path, ...],
    model: str,
    operating_point: str | None,
    threshold: tuple[str, ...],
    in_speech: bool,
    format_: str,
    output: str | None,
) -> None:
    """Find keywords in recordings of any length, rate and channel count; folders are searched, - is standard input.

    A recording that cannot be read is reported, and the others are done; of one that is damaged, what is missing is
    reported, and the rest is done. The exit code is 2 then.
    """
    from speechrnn.recognizer import load
    from speechrnn.spotter import KeywordSpotter

    recognizer, batch = load(model, operating_point=operating_point), Batch()
    spotter = KeywordSpotter(recognizer, choose_options(recognizer, threshold, in_speech=in_speech))
    files = batch.files(audio)
    several = len(files) > 1 or any(path.is_dir() for path in audio)
    with _destination(output, format_, files, several) as add:
        for _ in batch.results(files, lambda file: add(_transcribe_file(spotter, file, batch))):
            pass
    batch.end()


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
        repeated = [name for name, n in Counter(Path(printable(file)).stem for file in files).items() if n > 1]
        if repeated:
            raise ConfigError(f"{path}: several recordings are called {repeated[0]}; transcribe them one by one")
        return outputs.to_folder(path, write, formats.SUFFIXES[format_])
    check_not_read([path], files)
    return outputs.to_file(path, write, note)


def _transcribe_file(spotter: KeywordSpotter, file: Path, batch: Batch) -> Transcript:
    """What is found in a file; what is missing of it is reported."""
    from speechrnn.formats import Transcript
    from speechrnn.listening import spot
    from speechrnn.sources import FileSource

    spotter.reset()
    found: list[Detection] = []
    with FileSource(file) as source:
        blocks = track(source.blocks(spotter.sample_rate_hz), round(source.duration_s or 0.0), printable(file.name))
        try:
            for step in spot(blocks, spotter):
                found += step.detections
        except DamagedAudioError as error:
            batch.report_damage(error)
        return Transcript(printable(file), source.duration_s or 0.0, tuple(found))


@click.command(short_help="Name the word in clips of one word.")
@click.argument("audio", nargs=-1, required=True, type=PATH)
@model_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="Form of the output.",
)
@click.option(
    "--top", metavar="N", default=3, show_default=True, type=click.IntRange(1), help="Number of labels in a table."
)
def classify(audio: tuple[Path, ...], model: str, format_: str, top: int) -> None:
    """Say which word each clip of one word holds, with the probability of every label; - is standard input."""
    from speechrnn.recognizer import load

    recognizer, batch = load(model), Batch()
    files = batch.files(audio)
    results = batch.results(files, lambda file: (file, _classify_file(recognizer, file)))
    if format_ == "table":
        for file, probabilities in results:
            best = list(probabilities.items())[:top]
            click.echo(f"{printable(file)}  " + "  ".join(f"{label} {value:.3f}" for label, value in best))
    else:
        objects = [_to_object(file, probabilities) for file, probabilities in results]
        text = msgspec.json.encode(objects[0] if len(files) == len(objects) == 1 else objects)
        click.echo(msgspec.json.format(text, indent=2))
    batch.end()


def _classify_file(recognizer: Recognizer, file: Path) -> dict[str, float]:
    """The probability of each label, the largest first."""
    from speechrnn.decoding import read

    posteriors = recognizer.classify(read(file, recognizer.info.spec.sample_rate_hz))
    ranked = sorted(zip(recognizer.labels, map(float, posteriors), strict=True), key=lambda item: -item[1])
    return dict(ranked)


def _to_object(file: Path, probabilities: Mapping[str, float]) -> dict[str, Any]:
    rounded = {label: round(value, 5) for label, value in probabilities.items()}
    return {"audio": printable(file), "label": next(iter(rounded)), "probabilities": rounded}


@click.command(short_help="Show what a model file says of itself.")
@click.argument("model")
def describe(model: str) -> None:
    """Print what a model file says of itself: features, network, labels, thresholds, provenance."""
    from speechrnn.cli.describe import describe_model

    click.echo(describe_model(model), nl=False)
