"""Measure how long after the end of a word it is detected.

    python -m pipelines.latency configs/commands8.toml commands8 --data data

Pushes a stream of validation words (pipelines/streams.py says how it is made) step by step, as a microphone would. Of
each word that is found: from its end to the decision on the sample clock, which is the algorithm's part; and the time
that the `push` took which returned it, which is the computing's. A microphone adds its own block (20 ms).
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from pipelines.inputs import open_inputs, parse_inputs
from speechrnn.audio import Samples
from speechrnn.cli.main import run_program
from speechrnn.evaluation.ground_truth import Word
from speechrnn.evaluation.synthetic_streams import PRESETS, make_stream, match, of_pack, percentiles_ms
from speechrnn.recognizer import Recognizer
from speechrnn.spotter import KeywordSpotter

_SEED = 5


def measure(recognizer: Recognizer, stream: Samples, words: list[Word]) -> tuple[list[float], list[float]]:
    """Delay on the sample clock, and time that the push took, in s, of each keyword that is found in a stream [T]."""
    spotter = KeywordSpotter(recognizer)
    step = spotter.options.step_ms * spotter.sample_rate_hz // 1000
    found, push_s = [], []
    for at in range(0, len(stream), step):
        start_s = time.perf_counter()
        detections = spotter.push(stream[at : at + step])
        push_s += [time.perf_counter() - start_s] * len(detections)
        found += detections
    hits = [
        (f.decided_s - word.end_s, s) for f, s, word in zip(found, push_s, match(found, words), strict=True) if word
    ]
    return [delay for delay, _ in hits], [s for _, s in hits]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recognizer, pack = open_inputs(parse_inputs(parser))
    stream, words = make_stream(of_pack(pack, recognizer.info.spec.labels.keywords), PRESETS["plain"], _SEED)
    delays_s, push_s = map(np.array, measure(recognizer, stream, words))
    options = recognizer.info.options
    print(
        f"{len(delays_s)} keywords found; step {options.step_ms} ms, smoothing {options.smoothing_ms} ms, "
        f"threshold {options.threshold:g}\n\n| from the end of the word, ms | p50 | p95 |\n|---|---|---|"
    )
    parts = {"algorithm, on the sample clock": delays_s, "computing, one `push`": push_s, "both": delays_s + push_s}
    for part, times_s in parts.items():
        print(f"| {part} | " + " | ".join(f"{value:.1f}" for value in percentiles_ms(times_s, 50, 95)) + " |")


if __name__ == "__main__":
    run_program(main)
