"""The verbs that measure a model: evaluate, score, calibrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechrnn.cli.console import (
    PATH,
    Batch,
    choose_options,
    model_option,
    note,
    operating_point_option,
    threshold_option,
    track,
)
from speechrnn.errors import ConfigError
from speechrnn.files import check_not_read, check_place, printable, write_json, write_whole, writing

if TYPE_CHECKING:
    from speechrnn.config import Calibration
    from speechrnn.data.clips import Split
    from speechrnn.evaluation.clips import Evaluation
    from speechrnn.evaluation.streams import StreamResult
    from speechrnn.formats import Transcript
    from speechrnn.labels import Labels
    from speechrnn.spec import Options

_json_option = click.option("--json", "json_path", type=PATH, metavar="FILE", help="Write the scores to this file.")


@click.command(short_help="Score a model on clips of one word.")
@click.argument("model")
@click.argument("folder", type=PATH)
@_json_option
@click.option("--plots", type=PATH, metavar="FOLDER", help="Draw the pictures into this folder.")
@click.option("--report", "report_path", type=PATH, metavar="FILE.html", help="Write a page with scores and pictures.")
@click.option("--noise", type=PATH, metavar="FOLDER", help="Score in noise from these recordings, too.")
@click.option(
    "--split",
    type=click.Choice(("testing", "validation")),
    show_default="all clips",
    help="Only the clips of this split of Speech Commands.",
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
    _background_noise_ is a clip of silence. In clips longer than a context, a keyword anywhere counts.
    With --split, FOLDER is a Speech Commands tree; its lists, or else the hash of the speaker, give the splits.
    """
    from speechrnn.evaluation import clips
    from speechrnn.evaluation.report import to_table
    from speechrnn.folders import find_audio
    from speechrnn.recognizer import find_model, load

    read = [*clips.clips_of(folder, split), *(find_audio(noise) if noise else []), find_model(model)]
    check_not_read([json_path, report_path], read)
    _check_places(json_path, plots, report_path)
    result = clips.evaluate(
        load(model), folder, lambda files, n: track(files, n, "evaluating"), noise=noise, split=split
    )
    click.echo(to_table(result), nl=False)
    title = f"{model} on {printable(folder)}" + (f", {split} split" if split else "")
    _write(result, title, json_path, plots, report_path)
    Batch(result.n, len(result.failed)).end()


def _check_places(json_path: Path | None, plots: Path | None, report_path: Path | None) -> None:
    """Raise an error before the work if the results could not be written."""
    for path in filter(None, (json_path, report_path)):
        check_place(path)
    if plots or report_path:
        from speechrnn.evaluation.plots import check_picture

        if plots:
            check_picture(plots / "confusion.png")


def _write(
    result: Evaluation, title: str, json_path: Path | None, plots: Path | None, report_path: Path | None
) -> None:
    if json_path:
        write_json(json_path, result)
    if plots:
        from speechrnn.evaluation.plots import draw_all

        with writing(plots):
            for name, figure in draw_all(result).items():
                figure.savefig(plots / f"{name}.png", dpi=110)
    if report_path:
        from speechrnn.evaluation.report import to_html

        write_whole(report_path, to_html(result, title))


@click.command(short_help="Compare detections with what was spoken.")
@click.argument("audio", nargs=-1, required=True, type=PATH)
@model_option
@operating_point_option
@threshold_option
@click.option(
    "--truth",
    type=PATH,
    metavar="FILE|FOLDER",
    show_default="beside the recordings",
    help="What was spoken: Audacity labels or transcripts (.txt), .ctm, .json or .csv; in a folder, by the name of the "
    "recording.",
)
@click.option(
    "--rule",
    type=click.Choice(("default", "tensorflow", "mlperf")),
    default="default",
    show_default=True,
    help="How detections are matched with words.",
)
@_json_option
@click.option(
    "--curve",
    "curve_path",
    type=PATH,
    metavar="FILE.png",
    help="Draw misses against false alarms over all thresholds, and at the model's operating points; the numbers are "
    "written beside it as JSON.",
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
    """Compare the keywords found in recordings with those that were spoken in them.

    AUDIO can also be what transcribe wrote as .json or .jsonl, or what bulk wrote. What cannot be read is reported, and
    the rest is scored; the exit code is 2 then.
    """
    from speechrnn.evaluation.recordings import AS_SET, find_inputs, spot_inputs
    from speechrnn.recognizer import find_model, load

    results = [path for path in audio if (path / "_job.json").is_file()]
    _check_written(audio, results, threshold, operating_point, curve_path)
    _check_results(json_path, curve_path)
    recognizer, batch = load(model, operating_point=operating_point), Batch()
    choices = {AS_SET: choose_options(recognizer, threshold)}
    if curve_path and not threshold:
        choices |= {name: recognizer.info.options_at(name) for name in recognizer.info.operating_points}
    others = [path for path in audio if path not in results]
    keywords = recognizer.info.spec.labels.keywords
    inputs = find_inputs(others, truth, keywords, batch.report, [(path, _bulk_transcripts(path)) for path in results])
    written = [json_path, curve_path, curve_path and curve_path.with_suffix(".json")]
    check_not_read(written, [*audio, *inputs.files, find_model(model)])
    streams = spot_inputs(recognizer, inputs, choices, batch.report, track)
    if streams:
        _write_score(streams, recognizer.info.spec.labels, choices, rule, json_path, curve_path)
    batch.n_done = len(streams)
    batch.end()


def _bulk_transcripts(place: Path) -> list[Transcript]:
    """What is in a folder of results of bulk."""
    from speechrnn.bulk.report import transcripts
    from speechrnn.bulk.shards import open_job
    from speechrnn.bulk.store import open_store

    store = open_store(str(place))
    return transcripts(store, open_job(store))


def _write_score(
    results: Sequence[StreamResult],
    labels: Labels,
    choices: Mapping[str, Options],
    rule: str,
    json_path: Path | None,
    curve_path: Path | None,
) -> None:
    """Print the score with the first of `choices`, and write what was asked for."""
    from speechrnn.evaluation import streams

    found = streams.score([one.scored(next(iter(choices))) for one in results], labels.keywords, rule)
    click.echo(streams.to_table(found), nl=False)
    if json_path:
        write_json(json_path, found)
    if curve_path:
        from speechrnn.evaluation.plots import write_curve

        write_curve(streams.build_curve(results, labels, choices, rule), curve_path)


def _check_written(
    audio: Sequence[Path],
    results: Sequence[Path],
    threshold: Sequence[str],
    operating_point: str | None,
    curve_path: Path | None,
) -> None:
    """Raise ConfigError for options that written detections have no use for."""
    from speechrnn.evaluation.recordings import WRITTEN_SUFFIXES

    n_written = len(results) + sum(path.suffix in WRITTEN_SUFFIXES for path in audio)
    if n_written == len(audio) and (threshold or operating_point):
        option = f"--threshold {threshold[0]}" if threshold else f"--operating-point {operating_point}"
        raise ConfigError(f"{option}: changes nothing in detections, which are decided; give the recordings themselves")
    if curve_path and n_written:
        raise ConfigError(f"--curve {curve_path}: needs the recordings themselves, got detections")


def _check_results(json_path: Path | None, curve_path: Path | None) -> None:
    """Raise an error before the work if the results could not be written."""
    if json_path:
        check_place(json_path)
    if curve_path:
        from speechrnn.evaluation.plots import check_curve, curve_json

        check_curve(curve_path)
        if json_path and json_path.resolve() == curve_json(curve_path).resolve():
            raise ConfigError(f"--json {json_path}: the numbers of --curve go there; give another name")


@click.command(short_help="Measure operating points and store them in a model.")
@click.argument("model")
@click.option(
    "--speech",
    multiple=True,
    required=True,
    type=PATH,
    metavar="FOLDER",
    help="Running speech without keywords, in which false alarms are counted; recordings whose transcript has a "
    "keyword are left out. Repeatable.",
)
@click.option(
    "--words",
    multiple=True,
    required=True,
    type=PATH,
    metavar="FOLDER",
    help="Clips laid out as LABEL/*.wav, of every keyword and of other words. Repeatable.",
)
@click.option("--noise", type=PATH, metavar="FOLDER", help="Noise to lie under the words.")
@click.option(
    "--target",
    nargs=3,
    type=float,
    default=(0.1, 0.5, 5.0),
    show_default=True,
    help="False alarms per hour to aim at: strict, balanced and sensitive.",
)
@click.option(
    "--split",
    type=click.Choice(("testing", "validation")),
    show_default="all clips",
    help="Only words of this split of Speech Commands.",
)
@click.option("--output", type=PATH, metavar="FILE", show_default="MODEL itself", help="The model file to write.")
def calibrate(
    model: str,
    speech: tuple[Path, ...],
    words: tuple[Path, ...],
    noise: Path | None,
    target: tuple[float, float, float],
    split: Split | None,
    output: Path | None,
) -> None:
    """Measure operating points of MODEL on audio, and write them into the model file.

    Give audio that the model was not trained on. The file then says what each point rests on; see: describe. MODEL
    decides by `balanced` from then on.
    """
    from speechrnn.evaluation import operating_points
    from speechrnn.evaluation.clips import clips_of
    from speechrnn.evaluation.synthetic_streams import of_files
    from speechrnn.folders import find_audio
    from speechrnn.recognizer import find_model, load, save_info

    path, targets = find_model(model), _targets(target)
    output = _output_of(model, path, output)
    check_place(output)
    recognizer = load(path)
    files = [file for folder in words for file in clips_of(folder, split)]
    recordings = [file for folder in speech for file in find_audio(folder)]
    material = of_files(recognizer.info.spec.labels.keywords, files, find_audio(noise) if noise else [], recordings)
    points = operating_points.calibrate(recognizer, material, material.speech, targets=targets, note=note)
    click.echo("\n".join(operating_points.to_table(points, targets).to_lines()))
    with writing(output):
        save_info(path, output, operating_points.calibrated(recognizer.info, points))
    note(f"{output}: has these operating points now; see: speechrnn describe {output}")


def _targets(rates: tuple[float, float, float]) -> Calibration:
    from speechrnn.config import Calibration

    try:
        return Calibration(**dict(zip(("strict", "balanced", "sensitive"), rates, strict=True)))
    except ValueError as error:
        raise ConfigError(f"--target: {error}") from None


def _output_of(model: str, path: Path, output: Path | None) -> Path:
    """Where the calibrated model goes. Raises ConfigError for a shipped model without --output, and another suffix."""
    if output is None and path != Path(model):
        raise ConfigError(f"{model}: is shipped with the program; give --output FILE{path.suffix}")
    if output is not None and output.suffix != path.suffix:
        raise ConfigError(f"{output}: expected a name that ends in {path.suffix}, as {path.name} does")
    return output or path
