"""The verbs on recordings: transcribe, classify, describe."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from speechrnn.cli import outputs
from speechrnn.cli.console import (
    PATH,
    choose_options,
    end_of_batch,
    find_files,
    model_option,
    note,
    operating_point_option,
    shown,
    threshold_option,
    track,
)
from speechrnn.errors import ConfigError, SpeechRnnError
from speechrnn.files import check_apart

if TYPE_CHECKING:
    from speechrnn.formats import Transcript
    from speechrnn.spotter import KeywordSpotter

_FORMATS = ("table", "json", "jsonl", "csv", "vtt", "srt", "audacity", "ctm")


@click.command()
@click.argument("audio", nargs=-1, required=True, type=PATH)
@model_option
@operating_point_option
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="table", show_default=True)
@click.option(
    "--output",
    metavar="PLACE",
    help="A file, replaced when all recordings are done; what is done when Ctrl-C comes is kept as FILE.part. "
    "Or a folder, also a new one if its name ends in /: one file for each recording, as soon as it is done.",
)
@threshold_option
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
    spotter = KeywordSpotter(recognizer, choose_options(recognizer, threshold))
    files, failed = find_files(audio)
    several = len(files) > 1 or any(path.is_dir() for path in audio)
    with _destination(output, format_, files, several) as add:
        for file in files:
            try:
                transcript = _transcribe_file(spotter, file)
            except SpeechRnnError as error:
                note(f"speechrnn: {error}")
                failed += 1
                continue
            add(transcript)
    end_of_batch(failed, len(files))


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
        repeated = [name for name, n in Counter(Path(shown(file)).stem for file in files).items() if n > 1]
        if repeated:
            raise ConfigError(f"{path}: several recordings are called {repeated[0]}; transcribe them one by one")
        return outputs.to_folder(path, write, formats.SUFFIXES[format_])
    check_apart({"--output": path}, {"the recording": files})
    return outputs.to_file(path, write, note)


def _transcribe_file(spotter: KeywordSpotter, file: Path) -> Transcript:
    from speechrnn.formats import Transcript
    from speechrnn.listening import spot
    from speechrnn.sources import FileSource

    spotter.reset()
    with FileSource(file) as source:
        duration_s = source.duration_s or 0.0
        blocks = track(source.blocks(spotter.sample_rate_hz), round(duration_s), shown(file.name))
        found = [detection for step in spot(blocks, spotter) for detection in step.detections]
    return Transcript(shown(file), duration_s, tuple(found))


@click.command()
@click.argument("audio", nargs=-1, required=True, type=PATH)
@model_option
@click.option("--format", "format_", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many labels to show in a table.")
def classify(audio: tuple[Path, ...], model: str, format_: str, top: int) -> None:
    """Say which word each one-word clip holds, with the probability of every label."""
    from speechrnn.audio import read
    from speechrnn.recognizer import load

    recognizer = load(model)
    files, failed = find_files(audio)
    results: list[dict[str, Any]] = []
    for file in files:
        try:
            posteriors = recognizer.classify(read(file, recognizer.info.spec.sample_rate_hz))
        except SpeechRnnError as error:
            note(f"speechrnn: {error}")
            failed += 1
            continue
        ranked = sorted(zip(recognizer.labels, map(float, posteriors), strict=True), key=lambda item: -item[1])
        if format_ == "table":
            click.echo(f"{shown(file)}  " + "  ".join(f"{label} {share:.3f}" for label, share in ranked[:top]))
        else:
            probabilities = {label: round(share, 5) for label, share in ranked}
            results.append({"audio": shown(file), "label": ranked[0][0], "probabilities": probabilities})
    if format_ == "json":
        text = msgspec.json.encode(results[0] if len(files) == len(results) == 1 else results)
        click.echo(msgspec.json.format(text, indent=2))
    end_of_batch(failed, len(files))


@click.command()
@click.argument("model")
def describe(model: str) -> None:
    """Print what a model file says of itself: features, network, labels, thresholds, provenance."""
    from speechrnn.cli.describe import describe_model

    click.echo(describe_model(model), nl=False)
