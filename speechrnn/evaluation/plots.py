"""Pictures of an evaluation, from numbers alone. Colours are readable on a light and on a dark ground."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from speechrnn.errors import OutputError
from speechrnn.evaluation.clips import ANY_KEYWORD, Evaluation
from speechrnn.evaluation.metrics import Floats
from speechrnn.evaluation.streams import StreamCurve
from speechrnn.files import check_place, write_json, writing

_BLUE, _ORANGE = "#3d85c8", "#dd7a2b"
_INK = "#010203"
"""Black to the eye; in an SVG, it is replaced by the colour of the text around it."""
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "text.parse_math": False,  # labels are words, whatever is in them
    "xtick.color": _INK,
    "ytick.color": _INK,
    "font.family": "sans-serif",
    "font.size": 9,
}
_ALARM_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_NAMED_THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99)
_DET_LIMITS = (0.0005, 0.6)
_DET_TICKS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


def draw_all(result: Evaluation) -> dict[str, Figure]:
    """Every picture that the clips allow, by name: there is no detection without both keywords and other clips."""
    with matplotlib.rc_context(_STYLE):
        figures = {"confusion": _draw_confusion(result)}
        if result.detection:
            figures["detection"] = _draw_detection(result)
        return figures | {"calibration": _draw_calibration(result), "conditions": _draw_conditions(result)}


def draw_curve(curve: StreamCurve) -> Figure:
    """Misses against false alarms per hour, from the strictest threshold to the loosest, and the spotter's points."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6, 4.6), layout="constrained")
        axis = figure.subplots()
        alarms = [point.false_alarms_per_hour for point in curve.detector]
        missed = [100 * point.miss_rate for point in curve.detector]
        axis.plot(alarms, missed, ".-", color=_BLUE, lw=1, label="detector, by threshold")
        for number, (name, point) in enumerate(curve.spotter.items()):
            position = point.false_alarms_per_hour, 100 * point.miss_rate
            axis.plot(*position, "o^sDv"[number % 5], color=_ORANGE, label=f"spotter, {name}")
        axis.set_xscale("symlog", linthresh=1, linscale=0.5)  # which shows zero, too
        max_alarms = 1.2 * max([1.0, *alarms])
        axis.set_xticks([rate for rate in _ALARM_TICKS if rate <= max_alarms], minor=False)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set(xlim=(0, max_alarms), ylim=(0, None), xlabel="false alarms per hour", ylabel="misses (%)")
        axis.legend(frameon=False)
        figure.draw_without_rendering()  # only then is the position of a point in the picture known
        _name_thresholds(axis, [point.threshold for point in curve.detector], list(zip(alarms, missed, strict=True)))
        return figure


def _name_thresholds(axis: Axes, thresholds: Sequence[float], points: Sequence[tuple[float, float]]) -> None:
    """Write some thresholds beside their points, but those that would overlap one that is written already."""
    taken: list[Bbox] = []
    for level in _NAMED_THRESHOLDS:
        at = min(range(len(points)), key=lambda i: abs(thresholds[i] - level))
        name = axis.annotate(f"{level:g}", points[at], xytext=(4, 4), textcoords="offset points", fontsize=8)
        box = name.get_window_extent().padded(2)
        if any(box.overlaps(other) for other in taken):
            name.remove()
        else:
            taken.append(box)


def to_svg(figure: Figure) -> str:
    """An SVG element to put into a page: its text and axes take the colour of the text around it."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "speechrnn"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every picture, and an id may stand once in a page


def _draw_confusion(result: Evaluation) -> Figure:
    """The confusion matrix, coloured by the fraction of each true class."""
    counts = np.array(result.confusion)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.0 + 0.5 * len(result.labels)
    figure = Figure(figsize=(size, size), layout="constrained")
    axis = figure.subplots()
    for row, column in np.argwhere(counts):
        axis.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, color=_BLUE, alpha=0.9 * fractions[row, column], linewidth=0)
        )
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8)
    ticks, edges = range(len(result.labels)), (-0.5, len(result.labels) - 0.5)
    axis.set_xticks(ticks, result.labels, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, result.labels)
    axis.set(xlim=edges, ylim=edges[::-1], aspect="equal", xlabel="predicted", ylabel="truth")
    axis.set_title(f"{100 * result.accuracy:.2f} % of {result.n} clips")
    return figure


def _draw_detection(result: Evaluation) -> Figure:
    """Receiver operating characteristic and, on probit axes, detection error trade-off (Martin et al., 1997)."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    roc, det = figure.subplots(1, 2)
    for number, (name, found) in enumerate(result.detection.items()):
        style = {"color": _INK, "lw": 2.2, "zorder": 3} if name == ANY_KEYWORD else {"color": f"C{number - 1}", "lw": 1}
        false_alarm, miss = np.array(found.false_alarm), np.array(found.miss)
        roc.plot(100 * false_alarm, 100 * (1 - miss), label=name, **style)
        det.plot(_probit(false_alarm), _probit(miss), **style)
    low, high = _probit(np.array(_DET_LIMITS))
    det.plot([low, high], [low, high], color=_INK, alpha=0.3, lw=0.8, ls="--")
    ticks, names = _probit(np.array(_DET_TICKS)), [f"{100 * rate:g}" for rate in _DET_TICKS]
    det.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel="false alarms (%)", ylabel="misses (%)")
    det.set_xticks(ticks, names)
    det.set_yticks(ticks, names)
    det.set_title("detection error trade-off")
    roc.set(xlim=(-1, 100), ylim=(0, 101), aspect="equal", xlabel="false alarms (%)", ylabel="found (%)")
    roc.set_title("receiver operating characteristic")
    roc.legend(frameon=False, loc="lower right")
    return figure


def _draw_calibration(result: Evaluation) -> Figure:
    """Accuracy over confidence in each bin, and how many clips are in it."""
    found = result.calibration
    n, n_bins = np.array(found.n), len(found.n)
    edges = 100 * np.arange(n_bins) / n_bins
    figure = Figure(figsize=(5, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 100], [0, 100], color=_INK, alpha=0.3, lw=0.8, ls="--")
    confidence, accuracy = 100 * np.array(found.confidence), 100 * np.array(found.accuracy)
    top.vlines(confidence, confidence, accuracy, color=_ORANGE, lw=1.5)
    top.plot(confidence[n > 0], accuracy[n > 0], "o-", color=_BLUE, lw=1, ms=4)
    top.set(xlim=(0, 100), ylim=(0, 102), ylabel="right (%)")
    top.set_title(f"expected calibration error {100 * found.expected_calibration_error:.2f} %")
    bottom.bar(edges, n, width=100 / n_bins, align="edge", color=_BLUE, linewidth=0.5, edgecolor=_BLUE, alpha=0.8)
    bottom.set(yscale="log", ylim=(0.7, None), xlabel="confidence (%)", ylabel="clips")
    return figure


def _draw_conditions(result: Evaluation) -> Figure:
    """Accuracy over shift and, where it was measured, over noise."""
    names = [f"{found.shift_ms:+d}" if found.shift_ms else "0" for found in result.shift]
    rows = [("shift of the clip (ms)", result.shift, names)]
    if result.noise:
        names = ["none" if found.snr_db is None else f"{found.snr_db:g} dB" for found in result.noise]
        rows.append(("speech over noise", result.noise, names))
    figure = Figure(figsize=(1 + 4.2 * len(rows), 3.6), layout="constrained")
    axes = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axis, (title, conditions, names) in zip(axes, rows, strict=True):
        axis.plot(names, [100 * found.accuracy for found in conditions], "o-", color=_BLUE, label="all classes")
        of_keywords = [100 * found.keyword_accuracy for found in conditions]
        axis.plot(names, of_keywords, "o-", color=_ORANGE, label="keywords")
        axis.set_xlabel(title)
        axis.margins(x=0.08)
    lowest = np.nanmin([(found.accuracy, found.keyword_accuracy) for found in result.shift + result.noise])
    axes[0].set(ylabel="right (%)", ylim=(max(0, 100 * lowest // 10 * 10 - 10), 101))
    axes[0].legend(frameon=False, loc="lower left")
    return figure


def _probit(rates: Floats) -> Floats:
    """Rates as quantiles of the normal distribution, cut at the limits of the picture."""
    low, high = _DET_LIMITS
    return np.array([NormalDist().inv_cdf(min(max(rate, low), high)) for rate in rates])


def check_picture(path: Path) -> None:
    """As `check_place`, for a picture: raise OutputError now, too, if matplotlib cannot write what its suffix says."""
    try:
        Figure().savefig(io.BytesIO(), format=path.suffix[1:])
    except Exception:  # every format fails in its own way, such as for want of another program
        raise OutputError(f"{path}: matplotlib cannot write such a picture; give a name that ends in .png") from None
    check_place(path)


def check_curve(path: Path) -> None:
    """Raise OutputError now, rather than after the work, if `write_curve` could not write."""
    check_picture(path)
    check_place(curve_json(path))


def write_curve(curve: StreamCurve, path: Path) -> None:
    """Draw a curve, and write the same as JSON beside the picture. Raises OutputError."""
    write_json(curve_json(path), curve)
    with writing(path):
        draw_curve(curve).savefig(path, dpi=110)


def curve_json(curve_path: Path) -> Path:
    """Where `write_curve` writes the numbers of a picture."""
    return curve_path.with_suffix(".json")
