"""Draw a recording with its detections: the waveform above, the posteriors of all classes below.

python -m pipelines.media.make_picture examples/audio/commands.wav docs/commands.png --to 6.5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from speechrnn.cli.console import run_program
from speechrnn.decoding import read
from speechrnn.evaluation.plots import check_picture
from speechrnn.recognizer import load
from speechrnn.spec import DEFAULT_MODEL
from speechrnn.spotter import KeywordSpotter, posteriors

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(audio: Path, target: Path, model: str, end_s: float | None) -> None:
    """Draw the first `end_s` seconds of a recording."""
    recognizer = load(model)
    info, rate_hz = recognizer.info, recognizer.info.spec.sample_rate_hz
    samples = read(audio, rate_hz)[: round(end_s * rate_hz) if end_s else None]
    spotter = KeywordSpotter(recognizer)
    found = spotter.push(samples) + spotter.finish()
    rows = np.stack(list(posteriors(recognizer, [samples])))
    duration_s, step_s = len(samples) / rate_hz, info.options.step_ms / 1000
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(10, 5), sharex=True, height_ratios=(1, 1.4), layout="constrained"
    )
    time_s = np.arange(len(samples)) / rate_hz
    top.plot(time_s, samples, color="0.35", linewidth=0.5)
    for detection in found:
        top.axvspan(detection.start_s, detection.end_s, color="tab:blue", alpha=0.2, linewidth=0)
        middle_s = (detection.start_s + detection.end_s) / 2
        text = f"{detection.label}  {detection.score:.2f}"
        top.annotate(text, (middle_s, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=11)
    top.set(ylim=(-1, 1), xlim=(0, duration_s), ylabel="waveform")
    extent = (0, len(rows) * step_s, len(recognizer.labels) - 0.5, -0.5)
    image = bottom.imshow(rows.T, aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=extent)
    bottom.set_yticks(range(len(recognizer.labels)), recognizer.labels)
    bottom.set(xlabel="time (s)")
    figure.colorbar(image, ax=bottom, label="posterior", pad=0.01)
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=100)


def main() -> None:
    """Draw one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--to", type=float, help="seconds to draw; all of it if not given")
    arguments = parser.parse_args()
    check_picture(arguments.target)
    draw(arguments.audio, arguments.target, arguments.model, arguments.to)


if __name__ == "__main__":
    run_program(main)
