"""The verbs that measure a model: evaluate, score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

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
from speechrnn.errors import ConfigError, DataError, SpeechRnnError
from speechrnn.files import check_apart, check_place, is_same, write_json, write_text, writing

if TYPE_CHECKING:
    from speechrnn.data.clips import Split
    from speechrnn.evaluation.streams import StreamResult
    from speechrnn.formats import Transcript
    from speechrnn.recognizer import Recognizer
    from speechrnn.spec import Options

_CHOSEN = "as set"
_DETECTIONS = (".json", ".jsonl")


@click.command()
@click.argument("model")
@click.argument("folder", type=PATH)
@click.option("--json", "json_path", type=PATH, help="Write the scores to this file.")
@click.option("--plots", type=PATH, help="Draw the pictures into this folder.")
@click.option("--report", "report_path", type=PATH, metavar="FILE.html", help="Write a page with scores and pictures.")
@click.option("--noise", type=PATH, metavar="FOLDER", help="Score in noise from these recordings, too.")
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

    check_apart(
        {"--json": json_path, "--plots": plots, "--report": report_path},
        {
            "a clip": evaluation.clips_of(folder, split),
            "noise": [] if noise is None else find_audio(noise),
            "the model": [find_model(model)],
        },
    )
    if plots is not None or report_path is not None:
        from speechrnn.evaluation.plots import check_picture, draw_all  # before the work, for matplotlib may be missing
    for path in (json_path, report_path):
        if path is not None:
            check_place(path)
    if plots is not None:
        check_picture(plots / "confusion.png")
    recognizer = load(model)
    result = evaluation.evaluate(
        recognizer, folder, lambda files, n: track(files, n, "evaluating"), noise=noise, split=split
    )
    click.echo(report.to_table(result), nl=False)
    if json_path is not None:
        write_json(json_path, result)
    if plots is not None:
        with writing(plots):
            for name, figure in draw_all(result).items():
                figure.savefig(plots / f"{name}.png", dpi=110)
    if report_path is not None:
        title = f"{model} on {shown(folder)}" + (f", {split} split" if split else "")
        write_text(report_path, report.to_html(result, title))
    end_of_batch(len(result.failed), result.n + len(result.failed))


@click.command()
@click.argument("audio", nargs=-1, required=True, type=PATH)
@model_option
@operating_point_option
@threshold_option
@click.option(
    "--truth",
    type=PATH,
    metavar="FILE|FOLDER",
    help="What was spoken: Audacity labels or transcripts (.txt), .ctm, .json or .csv; in a folder, by the name of the "
    "recording. Beside the recordings if not given.",
)
@click.option("--rule", type=click.Choice(("default", "tensorflow", "mlperf")), default="default", help="How to match.")
@click.option("--json", "json_path", type=PATH, metavar="FILE", help="Write the score to this file.")
@click.option(
    "--curve",
    "curve_path",
    type=PATH,
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
        from speechrnn.evaluation.plots import check_curve, write_curve

        check_curve(curve_path)
    if json_path is not None:
        check_place(json_path)
    recognizer = load(model, operating_point=operating_point)
    options, points = choose_options(recognizer, threshold), recognizer.info.operating_points
    choices = {_CHOSEN: options}
    if curve_path is not None and not threshold:
        choices |= {name: recognizer.info.options_at(name) for name in points}
    inputs, n_unread = _find_inputs(audio, truth, recognizer.info.spec.labels.keywords)
    check_apart(
        {
            "--json": json_path,
            "--curve": curve_path,
            "the JSON beside --curve": curve_path and curve_path.with_suffix(".json"),
        },
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
            write_json(json_path, scores[_CHOSEN])
        if curve_path is not None:
            write_curve(scoring.build_curve(heard, recognizer.info.spec.labels, choices, rule), curve_path)
    end_of_batch(failed, len(heard) + failed)


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
    files, n_missing = find_files([path for path in audio if path.suffix not in _DETECTIONS])
    recordings = [file for file in files if _can_be_opened(file)]
    paths = [Path(transcript.audio) for transcript in written] + recordings
    inputs = _Inputs(written, recordings, [find_ground_truth(path, place) for path in paths])
    for truth in inputs.truths:
        if any(is_same(truth, path) for path in audio):
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
            note(f"speechrnn: {error}")
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
        note(f"speechrnn: {error}")
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
                tracked = track(blocks, round(source.duration_s or 0.0), shown(file.name))
                found, duration_s, posteriors = spot_all(tracked, recognizer, choices)
        except SpeechRnnError as error:
            note(f"speechrnn: {error}")
            failed += 1
            continue
        done.append(StreamResult(shown(file), duration_s, truth, found, posteriors))
    return done, failed
