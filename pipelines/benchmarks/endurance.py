"""Spot in a day of audio, as fast as possible, and check that memory and detections stay as they are.

    python -m pipelines.benchmarks.endurance

The words of `examples/audio/` come at drawn times over faint noise, made on the fly; the same seed makes the same
hour, and the last hour is made with the seed of the first. Memory must stay flat and the last hour must have the
detections of the first; the command fails if not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechrnn.audio import Samples
from speechrnn.cli.console import run_program
from speechrnn.decoding import read
from speechrnn.detector import Detection
from speechrnn.recognizer import Recognizer, load
from speechrnn.spec import DEFAULT_MODEL
from speechrnn.spotter import KeywordSpotter

EXAMPLES = Path(__file__).parents[2] / "examples" / "audio"
_MARGIN_S = 0.05  # of the recording that is kept around a word
_PAUSE_S = (1.5, 8.0)  # the least lets a word end and its score fall before the next
_NOISE_RMS = (1e-4, 3e-3)
_FLAT_MB = 4.0


class Spoken(NamedTuple):
    """A word as it is spoken in an example [T]."""

    label: str
    samples: Samples


class Found(NamedTuple):
    """A detection, its times from the start of the hour."""

    label: str
    start_ms: int
    decided_ms: int
    score: float


class Hour(NamedTuple):
    """What one hour left: memory at its end, the keywords that were spoken, and what was found."""

    rss_mb: float
    keywords: list[str]
    found: list[Found]


def read_words(folder: Path, rate_hz: int) -> list[Spoken]:
    """Every word that the label tracks in a folder name."""
    words = []
    for recording in sorted(path for path in folder.iterdir() if path.suffix != ".txt"):
        samples = read(recording, rate_hz)
        for line in recording.with_suffix(".labels.txt").read_text().splitlines():
            start_s, end_s, label = line.split("\t")
            start = round((float(start_s) - _MARGIN_S) * rate_hz)
            words.append(Spoken(label, samples[start : round((float(end_s) + _MARGIN_S) * rate_hz)]))
    return words


def make_hour(words: list[Spoken], n_samples: int, rate_hz: int, seed: int) -> Iterator[Spoken]:
    """`n_samples` of noise with words in it, one after the other: a block is a pause and the word that ends it.

    The last block is a pause alone, without a label, and no shorter than any other.
    """
    random = np.random.default_rng(seed)
    min_samples = round(_PAUSE_S[0] * rate_hz)
    while True:
        word = words[random.integers(len(words))]
        pause = round(random.uniform(*_PAUSE_S) * rate_hz)
        ends = pause + len(word.samples) + min_samples > n_samples
        n_block = n_samples if ends else pause + len(word.samples)
        rms = np.exp(random.uniform(*np.log(_NOISE_RMS)))
        block = (rms * random.standard_normal(n_block)).astype(np.float32)
        if ends:
            yield Spoken("", block)
            return
        block[pause:] += word.samples
        yield Spoken(word.label, block)
        n_samples -= n_block


def rss_mb() -> float:
    """Resident memory of this process, where the system tells it as Linux does."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def endure(recognizer: Recognizer, n_hours: int, hour_s: int) -> Iterator[Hour]:
    """Push so many hours of `hour_s` seconds, each of whole steps, through one spotter."""
    spotter = KeywordSpotter(recognizer)
    keywords, rate_hz = recognizer.info.spec.labels.keywords, spotter.sample_rate_hz
    words = read_words(EXAMPLES, rate_hz)
    for number in range(n_hours):
        start_s = spotter.position_s
        spoken: list[str] = []
        found: list[Found] = []
        for label, block in make_hour(words, hour_s * rate_hz, rate_hz, seed=number % max(1, n_hours - 1)):
            spoken += [label] if label in keywords else []
            found += [_since(start_s, detection) for detection in spotter.push(block)]
        yield Hour(rss_mb(), spoken, found)


def _since(start_s: float, found: Detection) -> Found:
    """A detection by the clock of its hour."""
    return Found(
        found.label, round(1000 * (found.start_s - start_s)), round(1000 * (found.decided_s - start_s)), found.score
    )


def problems(first: Hour, last: Hour) -> list[str]:
    """What is not as it should be, one line each."""
    lines = []
    if last.rss_mb - first.rss_mb > _FLAT_MB:
        lines.append(f"memory grew from {first.rss_mb:.1f} MB after the first hour to {last.rss_mb:.1f} MB")
    if last.found != first.found:
        lines.append("the last hour has other detections than the first, which has the same sound")
    return lines


def main() -> None:
    """Listen, show each hour, and end with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    if arguments.hours < 2:
        parser.exit(
            2, f"expected --hours of at least 2, so that one can be compared with another, got {arguments.hours}\n"
        )
    recognizer = load(arguments.model)
    before_mb, start_s, start_cpu_s = rss_mb(), time.perf_counter(), time.process_time()
    n_hits = n_keywords = 0
    for number, hour in enumerate(endure(recognizer, arguments.hours, 3600), 1):
        if number == 1:
            first = hour
        n_hits, n_keywords = n_hits + len(hour.found), n_keywords + len(hour.keywords)
        counts = f"{len(hour.found)} detections of {len(hour.keywords)} keywords"
        print(f"hour {number} of {arguments.hours}: {counts}, {hour.rss_mb:.1f} MB", file=sys.stderr, flush=True)
    elapsed_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    print(
        f"{number} h in {elapsed_s / 60:.1f} min, {cpu_s / number / 36:.2f} % of a core when live; memory "
        f"{before_mb:.1f} MB at the start, {first.rss_mb:.1f} after an hour, {hour.rss_mb:.1f} at the end; {n_hits} "
        f"detections of {n_keywords} keywords; last hour as the first: {'yes' if hour.found == first.found else 'no'}"
    )
    if failed := problems(first, hour):
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    run_program(main)
