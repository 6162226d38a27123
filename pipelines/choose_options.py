"""Show what step, smoothing and threshold cost, on validation data, to choose the options of a configuration by.

    python -m pipelines.choose_options configs/commands8.toml commands8 --data data --picture docs/latency.png

Joins validation clips to one stream (pipelines/streams.py says how) and pushes it, and the running speech of the
training data, through the spotter that ships. Prints, for each choice, the share of keywords found and of wrong words,
false alarms per hour of running speech, the share of one core that listening takes, and the time from the word's end to
the detection's end (lag: what the model's own `lag_ms` leaves) and decision (delay).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib
import msgspec
import numpy as np

from pipelines.inputs import open_inputs, parse_inputs
from speechrnn.audio import Samples
from speechrnn.cli import outputs
from speechrnn.cli.main import run_program
from speechrnn.config import TRAINING_RATE_HZ
from speechrnn.detector import Detection
from speechrnn.evaluation.ground_truth import Word
from speechrnn.evaluation.synthetic_streams import (
    PRESETS,
    join,
    judge,
    make_stream,
    of_pack,
    percentiles_ms,
    speech_clips,
)
from speechrnn.recognizer import Recognizer, cached
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

_SEED = 5
_SMOOTHINGS_MS = {20: (300,), 50: (200, 300, 400), 100: (200, 300, 400, 500), 200: (200, 400)}  # by step
_MARKERS = {200: "o", 300: "^", 400: "s", 500: "D"}  # by smoothing
_THRESHOLDS = (0.5, 0.6, 0.7)
_COSTED_S = 20


class Row(NamedTuple):
    """One choice and what it gives: shares of keywords, false alarms per hour, share of a core, times in ms."""

    step_ms: int
    smoothing_ms: int
    threshold: float
    found: float
    wrong: float
    alarms_per_h: float
    cost: float
    lag_ms: float
    delay_p50_ms: float
    delay_p95_ms: float


def spot(recognizer: Recognizer, options: Options, samples: Samples) -> list[Detection]:
    """All detections in a stream [T]."""
    spotter = KeywordSpotter(recognizer, options)
    return spotter.push(samples) + spotter.finish()


def cost_of(recognizer: Recognizer, options: Options, samples: Samples) -> float:
    """Share of one core, in CPU time, that listening to samples [T] takes."""
    start_s = time.process_time()
    spot(recognizer, options, samples)
    return (time.process_time() - start_s) * recognizer.info.spec.sample_rate_hz / len(samples)


def compare(recognizer: Recognizer, stream: Samples, words: list[Word], speech: Samples) -> list[Row]:
    """One row for each choice. Without running speech [T], false alarms are NaN."""
    keywords, rate_hz = recognizer.info.spec.labels.keywords, recognizer.info.spec.sample_rate_hz
    hours = len(speech) / rate_hz / 3600
    remembered = cached(recognizer)
    rows = []
    for step_ms, smoothings_ms in _SMOOTHINGS_MS.items():
        given = msgspec.structs.replace(recognizer.info.options, thresholds={}, step_ms=step_ms, smoothing_ms=step_ms)
        cost = cost_of(recognizer, given, stream[: _COSTED_S * rate_hz])
        for smoothing_ms in smoothings_ms:
            for threshold in _THRESHOLDS:
                options = msgspec.structs.replace(given, smoothing_ms=smoothing_ms, threshold=threshold)
                got = judge(spot(remembered, options, stream), words, keywords)
                alarms = len(spot(remembered, options, speech)) / hours if hours else float("nan")
                delays_ms = percentiles_ms(got.delays_s, 50, 95)
                (lag_ms,) = percentiles_ms(got.lags_s, 50)
                rows.append(
                    Row(step_ms, smoothing_ms, threshold, got.found, got.wrong, alarms, cost, lag_ms, *delays_ms)
                )
    return rows


def to_markdown(rows: list[Row]) -> str:
    """A table for docs/log.md."""
    lines = [
        "| step ms | smoothing ms | threshold | found | wrong | false alarms/h, speech | of a core "
        "| lag ms | delay p50 ms | delay p95 ms |",
        "|" + "---|" * len(Row._fields),
    ]
    return "\n".join(
        lines
        + [
            f"| {row.step_ms} | {row.smoothing_ms} | {row.threshold} | {100 * row.found:.1f} % "
            f"| {100 * row.wrong:.1f} % | {row.alarms_per_h:.0f} | {100 * row.cost:.1f} % "
            f"| {row.lag_ms:.0f} | {row.delay_p50_ms:.0f} | {row.delay_p95_ms:.0f} |"
            for row in rows
        ]
    )


def draw(rows: list[Row], target: Path) -> None:
    """Draw misses, wrong words and false alarms over the delay; a line is one step, smoothing and all thresholds."""
    panels = {
        "missed, % of keywords": [100 * (1 - row.found) for row in rows],
        "wrong, % of keywords": [100 * row.wrong for row in rows],
        "false alarms per hour of speech": [row.alarms_per_h for row in rows],
    }
    colors = dict(zip(_SMOOTHINGS_MS, plt.colormaps["viridis"](np.linspace(0, 0.9, len(_SMOOTHINGS_MS))), strict=True))
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 4), sharex=True, layout="constrained")
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        for line in dict.fromkeys((row.step_ms, row.smoothing_ms) for row in rows):
            points = [
                (row.delay_p95_ms, value)
                for row, value in zip(rows, values, strict=True)
                if (row.step_ms, row.smoothing_ms) == line
            ]
            axis.plot(*np.transpose(points), color=colors[line[0]], marker=_MARKERS[line[1]], markersize=5, linewidth=1)
        axis.set(title=title, ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_xlabel("delay from the word's end to its detection, 95th percentile (ms)")
    costs = {row.step_ms: row.cost for row in rows}
    handles = [
        *(
            Line2D([], [], color=colors[step], label=f"step {step} ms, {100 * costs[step]:.1f} % of a core")
            for step in costs
        ),
        *(
            Line2D([], [], color="0.4", marker=m, linestyle="", label=f"smoothing {ms} ms")
            for ms, m in _MARKERS.items()
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(target, dpi=100)
    plt.close(figure)


def main() -> None:
    """Print the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="file to draw the same into")
    arguments = parse_inputs(parser)
    if arguments.picture:
        outputs.check_picture(arguments.picture)
    recognizer, pack = open_inputs(arguments)
    stream, words = make_stream(of_pack(pack, recognizer.info.spec.labels.keywords), PRESETS["plain"], _SEED)
    speech = join(pack, speech_clips(pack))
    hours = [len(samples) / TRAINING_RATE_HZ / 3600 for samples in (stream, speech)]
    print(f"{len(words)} words in {60 * hours[0]:.0f} minutes; {hours[1]:.2f} hours of running speech", flush=True)
    rows = compare(recognizer, stream, words, speech)
    print(to_markdown(rows))
    if arguments.picture:
        draw(rows, arguments.picture)


if __name__ == "__main__":
    run_program(main)
