"""An evaluation as people read it: text for a terminal, and one HTML page that needs no other file."""

from __future__ import annotations

import html
import math
from collections import Counter
from pathlib import Path

from speechrnn.audio import SPEECH_FRAME_MS, SPEECH_RANGE_DB
from speechrnn.evaluation.clips import (
    ANY_KEYWORD,
    FAINTEST_NOISE_DB,
    N_RESAMPLES,
    Evaluation,
    Interval,
)
from speechrnn.evaluation.tables import Table, number

_SUMMARY = {
    "accuracy": "all clips right",
    "keyword_accuracy": "keywords right",
    "unknown_recall": "unknown right",
    "macro_f1": "macro-F1",
}
"""Scores of an Evaluation that have an interval, with the names that are shown."""
_N_PREDICTIONS_SHOWN = 4


def to_table(result: Evaluation) -> str:
    """All scores for a terminal, the confusion matrix last."""
    sections = [
        [f"accuracy {_percent(result.accuracy)} % of {result.n} clips"],
        [*_summary(result).to_lines(), _resampling(result)],
        _classes(result).to_lines(),
        _folders(result).to_lines(),
        [*_conditions(result).to_lines(), _about_noise(result)],
        _excluded(result),
        ["confusion (rows: truth, columns: predicted)", *_confusion(result).to_lines()],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def to_html(result: Evaluation, title: str) -> str:
    """All scores as a page, light or dark as its reader's system is, with pictures as inline SVG."""
    from speechrnn.evaluation.plots import draw_all, to_svg

    pictures = {name: f"<figure>{to_svg(figure)}</figure>" for name, figure in draw_all(result).items()}
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{result.n} clips. {_resampling(result)}.</p>",
        *(f"<p>{html.escape(line)}</p>" for line in _excluded(result)),
        _summary(result).to_html(),
        *_section("Classes", _classes(result).to_html()),
        *_section("Confusion", pictures["confusion"], _folders(result).to_html()),
    ]
    if "detection" in pictures:
        body += _section("Keywords against everything else", f"<p>{_ABOUT_DETECTION}</p>", pictures["detection"])
        body.append(_detections(result).to_html())
    body += _section("Confidence", f"<p>{_ABOUT_CONFIDENCE}</p>", pictures["calibration"])
    body += _section("Shifted and in noise", f"<p>{_ABOUT_SHIFT}</p>", f"<p>{_about_noise(result)}.</p>")
    body += [pictures["conditions"], _conditions(result).to_html()]
    return _PAGE.format(title=html.escape(title), body="\n".join(body))


def _percent(rate: float) -> str:
    return number(100 * rate, ".2f")


def _between(interval: Interval) -> str:
    return "-" if math.isnan(interval[0]) else f"{_percent(interval[0])} to {_percent(interval[1])}"


def _summary(result: Evaluation) -> Table:
    rows = [(text, _percent(getattr(result, key)), _between(result.intervals[key])) for key, text in _SUMMARY.items()]
    if ANY_KEYWORD in result.detection:
        found = result.detection[ANY_KEYWORD]
        rows.append(("equal error rate", _percent(found.equal_error_rate), ""))
        rows.append(("missed at 1 % false alarms", _percent(found.miss_at_1_percent_false_alarms), ""))
    rows.append(("expected calibration error", _percent(result.calibration.expected_calibration_error), ""))
    return Table(("score", "%", "95 % interval"), "<><", rows)


def _classes(result: Evaluation) -> Table:
    rows = [
        (name, str(s.n), _percent(s.precision), _percent(s.recall), _percent(s.f1), _between(s.recall_interval))
        for name, s in result.per_class.items()
    ]
    return Table(("class", "clips", "precision %", "recall %", "F1 %", "95 % interval of recall"), "<>>>><", rows)


def _folders(result: Evaluation) -> Table:
    rows = []
    for folder, score in sorted(result.per_folder.items()):
        commonest = Counter(score.predicted).most_common(_N_PREDICTIONS_SHOWN)
        taken_for = ", ".join(f"{label} {n}" for label, n in commonest)
        rows.append((folder, str(score.n), _percent(score.correct / score.n), taken_for))
    return Table(("folder", "clips", "right %", "taken for"), "<>><", rows)


def _detections(result: Evaluation) -> Table:
    rows = [
        (
            name,
            str(found.n_targets),
            _percent(found.area_under_roc),
            _percent(found.equal_error_rate),
            _percent(found.miss_at_1_percent_false_alarms),
        )
        for name, found in result.detection.items()
    ]
    head = ("score of", "clips", "area under ROC %", "equal error rate %", "missed at 1 % false alarms")
    return Table(head, "<>>>>", rows)


def _conditions(result: Evaluation) -> Table:
    shift = [(f"{found.shift_ms:+d} ms" if found.shift_ms else "all, as they are", found) for found in result.shift]
    noise = [("speech, no noise" if c.snr_db is None else f"speech, noise at {c.snr_db:g} dB", c) for c in result.noise]
    rows = [(name, str(c.n), _percent(c.accuracy), _percent(c.keyword_accuracy)) for name, c in shift + noise]
    return Table(("clips", "n", "right %", "keywords right %"), "<>>>", rows)


def _confusion(result: Evaluation) -> Table:
    rows = [(label, *(str(n or ".") for n in row)) for label, row in zip(result.labels, result.confusion, strict=True)]
    return Table(("", *result.labels), "<" + ">" * len(result.labels), rows)


def _resampling(result: Evaluation) -> str:
    drawn = [(result.n_speakers, "speakers"), (result.n_single_files, "files that name no speaker")]
    names = " and ".join(f"{n} {what}" for n, what in drawn if n)
    return f"Intervals: percentiles of {N_RESAMPLES} bootstrap resamples of {names}"


def _about_noise(result: Evaluation) -> str:
    if not result.noise:
        return "Not measured in noise; give --noise FOLDER with recordings"
    return (
        f"Noise: decibels of speech (the {SPEECH_FRAME_MS} ms frames within {SPEECH_RANGE_DB:g} dB of a clip's "
        f"loudest) over noise (a drawn stretch of more than {FAINTEST_NOISE_DB:g} dB of full scale)"
    )


def _excluded(result: Evaluation) -> list[str]:
    lines = []
    if result.left_out:
        folders = Counter(Path(file).parent.name for file in result.left_out)
        counts = ", ".join(f"{folder} {n}" for folder, n in sorted(folders.items()))
        lines.append(f"{len(result.left_out)} clips left out, for the model has no class for their folders: {counts}")
    if result.failed:
        lines += [f"{len(result.failed)} clips could not be read:", *(f"  {line}" for line in result.failed)]
    return lines


def _section(heading: str, *parts: str) -> list[str]:
    return [f"<h2>{heading}</h2>", *parts]


_ABOUT_DETECTION = (
    "A clip counts as found when its score reaches a threshold: the highest posterior of all keywords, or that of one. "
    "False alarms are clips of unknown words and silence; a keyword taken for another does not count here."
)
_ABOUT_CONFIDENCE = (
    "Clips by the posterior of the class they got, in 15 bins. On the diagonal as many are right as the model expects; "
    "the expected calibration error is the mean distance from it."
)
_ABOUT_SHIFT = "Zeros follow a shifted clip into its context; they change what silence sounds like, too."
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin-top: 2.5rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #8885; }}
.text {{ text-align: left; }}
.number {{ text-align: right; }}
.wide {{ overflow-x: auto; }}
figure {{ margin: 1rem 0; }}
svg {{ max-width: 100%; height: auto; }}
</style>
<body>
{body}
</body>
</html>
"""
