"""Measure `speechrnn bulk`, each figure as a ratio within this run: python -m pipelines.benchmarks.bulk.

Needs the bulk extra, and train and ray for some of the figures. Run it on an idle machine of two cores; what was
measured is in docs/bulk.md. `--only` takes some of: speed, network, eight-bit, workers, ray,
memory, listing, ledger.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from pipelines.benchmarks.ratios import CLI, Row, to_table
from speechrnn.audio import Samples
from speechrnn.bulk.network import Network, in_halves, in_pieces, whole
from speechrnn.bulk.report import report_on
from speechrnn.bulk.run import WHOLE
from speechrnn.bulk.shards import all_rows, open_job
from speechrnn.bulk.spotting import FrameSpotter, run_contexts
from speechrnn.bulk.store import open_store
from speechrnn.cli.console import note, run_program
from speechrnn.decoding import read
from speechrnn.recognizer import Recognizer, load
from speechrnn.spec import DEFAULT_MODEL

_RATE_HZ = 16000
_SECONDS = 10
_N_ROUNDS = 3
_PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
_OWN_PEAK = "print(next(x for x in open('/proc/self/status') if 'VmHWM' in x).split()[1], file=sys.stderr)"
_WORDS = Path("examples/audio/commands.wav")


class Cost(NamedTuple):
    """What a command took."""

    wall_s: float
    cpu_s: float
    stderr: str


def run(*arguments: object, code: str = CLI) -> Cost:
    """Run the command line; processor time is that of all its processes."""
    before, started_s = os.times(), time.perf_counter()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.perf_counter() - started_s, cpu_s, done.stderr)


def write_recordings(folder: Path, n: int) -> Path:
    """Recordings of 10 s of faint noise; every other has words of the example in it."""
    folder.mkdir()
    random, words = np.random.default_rng(0), read(_WORDS, _RATE_HZ)
    for number in range(n):
        samples = random.normal(0, 0.01, _SECONDS * _RATE_HZ).astype(np.float32)
        if number % 2:
            part = words[number % 8 * _RATE_HZ :][: 2 * _RATE_HZ]
            samples[4 * _RATE_HZ :][: len(part)] += part
        soundfile.write(folder / f"{number:05}.wav", samples, _RATE_HZ)
    return folder


def bulk(folder: Path, place: Path, *options: object) -> Cost:
    """One run over a folder into a new place."""
    return run("bulk", folder, "--output", place, *options)


def speed_rows(folder: Path, n: int) -> list[Row]:
    """The same recordings by `bulk` and by `transcribe`, in processor time."""
    audio_s = n * _SECONDS
    one = run("transcribe", folder / "audio", "--format", "jsonl")
    many = bulk(folder / "audio", folder / "speed", "--workers", 1)
    return [
        Row(
            f"`bulk`, {n} files of 10 s, processor time",
            f"{many.cpu_s:.1f} s",
            f"`transcribe`: {one.cpu_s:.1f} s",
            f"{one.cpu_s / many.cpu_s:.2f} times faster",
            "at least 2",
        ),
        Row(
            "one core, ten decisions a second",
            f"{many.cpu_s:.1f} s",
            f"audio: {audio_s} s",
            f"real-time factor {many.cpu_s / audio_s:.4f} (`transcribe`: {one.cpu_s / audio_s:.4f})",
            "at most 0.007",
        ),
    ]


def network_rows(n: int) -> list[Row]:
    """What a decision costs by each way to cut the network, by the size of a batch, and of digital silence."""
    cost_ms = _costs_ms(np.random.default_rng(0).normal(0, 0.01, min(n, 6) * _SECONDS * _RATE_HZ).astype(np.float32))
    ways = (
        ("shared features", "halves", "whole"),
        ("shared convolutions, too", "pieces", "halves"),
        ("of digital silence", "silence", "pieces"),
    )
    rows = [
        Row(
            f"a decision, {what}",
            f"{cost_ms[name]:.3f} ms",
            f"{other}: {cost_ms[other]:.3f} ms",
            f"{cost_ms[other] / cost_ms[name]:.2f} times faster",
            "",
        )
        for what, name, other in ways
    ]
    sizes = ", ".join(f"{size}: {cost_ms[size]:.3f}" for size in cost_ms if size.isdecimal())
    return [*rows, Row("contexts in a batch", f"32: {cost_ms['pieces']:.3f} ms", sizes, "", "")]


def _costs_ms(noise: Samples) -> dict[str, float]:
    """The least that a decision on noise [T] took in several rounds, in each of which every way has its turn."""
    recognizer = load(DEFAULT_MODEL)
    step_samples = recognizer.info.options.step_ms * _RATE_HZ // 1000
    pieces = in_pieces(recognizer, step_samples // recognizer.info.spec.features.hop_samples(_RATE_HZ))
    halves = in_halves(recognizer)
    assert pieces
    assert halves
    work: dict[str, tuple[Network, Samples, int]] = {
        "whole": (whole(recognizer), noise, 32),
        "halves": (halves, noise, 32),
        "pieces": (pieces, noise, 32),
        "silence": (pieces, np.zeros_like(noise), 32),
        **{f"{size}": (pieces, noise, size) for size in (4, 8, 16, 64, 128, 256)},
    }
    rounds = [{name: decision_ms(recognizer, *what) for name, what in work.items()} for _ in range(_N_ROUNDS)]
    return {name: min(each[name] for each in rounds) for name in work}


def decision_ms(recognizer: Recognizer, network: Network, samples: Samples, n_contexts: int) -> float:
    """Processor time of one decision on a recording [T], so many contexts at a time."""
    spotter = FrameSpotter(recognizer, recognizer.info.options, network)
    started_s = time.process_time()
    spotter.push(samples)
    spotter.finish()
    n_steps = spotter.n_ready
    while not spotter.is_done:
        run_contexts([spotter], network, n_contexts)
    return 1000 * (time.process_time() - started_s) / n_steps


def eight_bit_rows(folder: Path, n: int) -> list[Row]:
    """A model in 8 bits, and in what it differs."""
    model = folder / "model.int8.onnx"
    run("quantize", "commands10", model, "--audio", _WORDS.parent)
    plain = bulk(folder / "audio", folder / "plain", "--workers", 1)
    small = bulk(folder / "audio", folder / "small", "--workers", 1, "--model", model)
    words = [_words(folder / name) for name in ("plain", "small")]
    n_changed = sum(abs(words[0][word] - words[1][word]) for word in words[0] | words[1])
    return [
        Row(
            f"model in 8 bits: {n_changed} of {words[0].total()} detections differ",
            f"{small.cpu_s:.1f} s",
            f"in float32: {plain.cpu_s:.1f} s",
            f"{plain.cpu_s / small.cpu_s:.2f} times faster, real-time factor {small.cpu_s / (n * _SECONDS):.4f}",
            "",
        )
    ]


def workers_rows(folder: Path, n: int) -> list[Row]:
    """Two workers against one, in time on the clock."""
    one = bulk(folder / "audio", folder / "one", "--workers", 1, "--shard-files", max(1, n // 8))
    two = bulk(folder / "audio", folder / "two", "--workers", 2, "--shard-files", max(1, n // 8))
    return [_clock_row("two workers", two, "one", one, "at least 1.8")]


def ray_rows(folder: Path, n: int) -> list[Row]:
    """Ray against processes of our own; the start of either is measured on one recording, and taken off."""
    single = write_recordings(folder / "single", 1)
    rates = []
    for engine in ("local", "ray"):
        options = ("--engine", engine, "--workers", 2, "--shard-files", max(1, n // 8))
        start = bulk(single, folder / f"start-{engine}", *options)
        whole = bulk(folder / "audio", folder / f"all-{engine}", *options)
        rates.append((whole.wall_s - start.wall_s, start.wall_s))
    (local_s, local_start_s), (ray_s, ray_start_s) = rates
    return [
        Row(
            "Ray embedded, two workers, start apart",
            f"{ray_s:.1f} s (start: {ray_start_s:.1f} s)",
            f"local: {local_s:.1f} s (start: {local_start_s:.1f} s)",
            f"{local_s / ray_s:.2f} of its speed",
            "at least 0.9",
        )
    ]


def _clock_row(what: str, measured: Cost, other: str, against: Cost, aim: str) -> Row:
    return Row(
        what,
        f"{measured.wall_s:.1f} s",
        f"{other}: {against.wall_s:.1f} s",
        f"{against.wall_s / measured.wall_s:.2f} times faster",
        aim,
    )


def memory_rows(folder: Path, hours: float) -> list[Row]:
    """The largest process of a run with a long recording among short ones."""
    audio = write_recordings(folder / "mixed", 20)
    with soundfile.SoundFile(audio / "00000-long.wav", "w", _RATE_HZ, 1, "PCM_16") as file:
        random = np.random.default_rng(1)
        for _ in range(round(hours * 3600)):
            file.write(random.normal(0, 0.01, _RATE_HZ))
    code = f"import sys\ntry:\n    {CLI}\nfinally:\n    {_PEAK}"
    cost = run("bulk", audio, "--output", folder / "memory", "--workers", 1, code=code)
    peak_mb = int(cost.stderr.split()[-1]) / 1000
    what = f"memory of a worker, {hours:g} hours in one file among 20 of 10 s"
    factor = cost.cpu_s / (hours * 3600 + 20 * _SECONDS)
    took = f"{cost.cpu_s:.0f} s of one core, real-time factor {factor:.4f}"
    return [Row(what, f"{peak_mb:.0f} MB", "", took, "under 400 MB")]


def listing_rows(folder: Path, n: int) -> list[Row]:
    """What listing and planning cost, of a manifest whose recordings are not there, beside one of a tenth of it."""
    seconds, peaks_mb = [], []
    for size in (n // 10, n):
        manifest = folder / f"{size}.jsonl"
        with manifest.open("w") as file:
            for number in range(size):
                name = f"/recordings/2026/{number // 1000:05}/call-{number:08}.wav"
                file.write(f'{{"audio_filepath": "{name}", "duration": 10.0, "text": "nothing"}}\n')
        place = folder / f"listing-{size}"
        none_of_it = ("--shard-files", 1000, "--part", f"{size}/{size}")
        cost = run(
            "bulk",
            manifest,
            "--output",
            place,
            *none_of_it,
            code=f"import sys\ntry:\n    {CLI}\nfinally:\n    {_OWN_PEAK}",
        )
        seconds.append(cost.wall_s)
        peaks_mb.append(int(cost.stderr.split()[-1]) / 1000)
    return [
        Row(
            f"listing of {n} entries of a manifest, and planning",
            f"{seconds[1]:.1f} s, {peaks_mb[1]:.0f} MB",
            f"{n // 10} entries: {seconds[0]:.1f} s, {peaks_mb[0]:.0f} MB",
            f"{peaks_mb[1] / peaks_mb[0]:.2f} times the memory",
            "memory does not grow",
        )
    ]


def ledger_rows(folder: Path, n: int) -> list[Row]:
    """Many short entries and a small network: what the listing, a kill at half and the status cost, and the rows."""
    model, audio = _small_model(folder), folder / "many"
    audio.mkdir()
    clip = folder / "clip.wav"
    soundfile.write(clip, np.random.default_rng(0).normal(0, 0.01, 800), 8000)
    for number in range(n):
        if not number % 1000:
            (audio / f"{number:06}").mkdir()
        (audio / f"{number - number % 1000:06}" / f"{number:06}.wav").symlink_to(clip)
    place = folder / "ledger"
    command = [sys.executable, "-c", CLI, "bulk", str(audio), "--output", str(place), "--model", str(model)]
    listed_s, half_s = _killed_at_half([*command, "--workers", "1"], place, n)
    n_before = len(list(place.glob("part-*")))
    resumed = run(*command[3:], "--workers", 1, code=f"import sys\ntry:\n    {CLI}\nfinally:\n    {_PEAK}")
    status = run("bulk", "--status", place, code=f"import sys\ntry:\n    {CLI}\nfinally:\n    {_OWN_PEAK}")
    store = open_store(str(place))
    indices = [row.index for row in all_rows(store, open_job(store))]
    missing, twice = n - len(set(indices)), len(indices) - len(set(indices))
    return [
        Row(f"listing of {n} entries", f"{listed_s:.1f} s", "", "", "stated"),
        Row(f"to half, then kill -9: {n_before} shards done", f"{half_s:.0f} s", "", "", "stated"),
        Row("resumed to the end", f"{resumed.wall_s:.0f} s", "", f"{missing} rows lost, {twice} twice", "none"),
        Row("--status", f"{status.wall_s:.1f} s", "", f"{int(status.stderr.split()[-1]) / 1000:.0f} MB", "stated"),
    ]


def _killed_at_half(command: list[str], place: Path, n: int) -> tuple[float, float]:
    """Seconds until the listing was there, and until half of the shards were done, when everything was killed."""
    started_s = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        listed_s = _until(lambda: (place / "_job.json").exists(), started_s)
        half_s = _until(lambda: len(list(place.glob("part-*"))) >= n // 2000, started_s)
        os.killpg(process.pid, 9)
    return listed_s, half_s


def _until(is_so: Callable[[], bool], started_s: float) -> float:
    while not is_so():
        time.sleep(0.05)
    return time.perf_counter() - started_s


def _small_model(folder: Path) -> Path:
    """A network that takes little time, for what does not depend on it."""
    import torch

    from speechrnn.labels import Labels
    from speechrnn.model.network import RecognizerNet
    from speechrnn.spec import Classifier, Conv, Mfcc, ModelInfo, Options, Spec
    from speechrnn.training.export import export

    spec = Spec(
        labels=Labels(("yes", "no")),
        features=Mfcc(n_mels=16, n_coefficients=8, f_max_hz=3800.0),
        classifier=Classifier(hidden_size=8, n_layers=1, conv=Conv(n_channels=8)),
        sample_rate_hz=8000,
    )
    info = ModelInfo(spec=spec, options=Options(step_ms=500, smoothing_ms=500))
    torch.manual_seed(0)
    contexts = np.random.default_rng(0).normal(0, 0.1, (4, spec.context_samples)).astype(np.float32)
    export(RecognizerNet(spec).eval(), info, contexts, folder / "small.onnx")
    return folder / "small.onnx"


def _words(place: Path) -> Counter[str]:
    store = open_store(str(place))
    return report_on(store, open_job(store), WHOLE).words


PARTS = ("speed", "network", "eight-bit", "workers", "ray", "memory", "listing", "ledger")


def measured(only: Iterable[str], folder: Path, n_files: int, n_entries: int, hours: float) -> list[Row]:
    """The rows of the parts that were asked for."""
    write_recordings(folder / "audio", n_files)
    work: dict[str, Callable[[], list[Row]]] = {
        "speed": lambda: speed_rows(folder, n_files),
        "network": lambda: network_rows(n_files),
        "eight-bit": lambda: eight_bit_rows(folder, n_files),
        "workers": lambda: workers_rows(folder, n_files),
        "ray": lambda: ray_rows(folder, n_files),
        "memory": lambda: memory_rows(folder, hours),
        "listing": lambda: listing_rows(folder, 10 * n_entries),
        "ledger": lambda: ledger_rows(folder, n_entries),
    }
    rows: list[Row] = []
    for part in only:
        rows += work[part]()
        note("\n".join(" | ".join(row) for row in rows[-5:]))
    return rows


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--files", type=int, default=200, help="recordings of 10 s")
    parser.add_argument(
        "--entries", type=int, default=100_000, help="entries of the ledger, and a tenth of those of the listing"
    )
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long recording")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measured(arguments.only, Path(name), arguments.files, arguments.entries, arguments.hours)
    print("\n".join(to_table(rows).to_markdown()))


if __name__ == "__main__":
    run_program(main)
