r"""Validation of models on audio that was not trained on: the figures by which one is chosen.

    python -m pipelines.validate_model configs/commands10.toml MODEL... --data data --output scores.json

Keyword clips are those of the validation split of Speech Commands and of natural voices held out, each between
stretches of faint noise, decided by the detector. Speech is that of speakers held out of the running speech of the
configuration.
At the thresholds, common to all keywords, at which 7, 10 and 15 % of the Speech Commands clips are missed, it counts
false alarms per hour, with and without the requirement that a keyword be said alone.

The figure that decides, the lower the better: the mean over the three thresholds of the natural logarithm of the false
alarms per hour (with half an alarm added), said alone, plus 0.1 for each per cent of Speech Commands validation clips
that are classified wrongly, classes weighing the same, plus 0.02 for each per cent of keywords in natural voices.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.align_words import TRANSCRIPTS, normalised, read_transcripts
from speechrnn.audio import Samples
from speechrnn.cli.console import run_program
from speechrnn.config import Experiment, load_experiment
from speechrnn.data.clips import Source
from speechrnn.data.lexicon import SOUND_LIKE
from speechrnn.data.pack import find_sources
from speechrnn.decoding import read
from speechrnn.detector import Detection, Detector
from speechrnn.evaluation.tables import Table, percent
from speechrnn.recognizer import Recognizer, load
from speechrnn.spec import Options

MISSES = (0.07, 0.10, 0.15)
_CLIP_WEIGHT, _NATURAL_WEIGHT = 10.0, 2.0
_N_PER_KEYWORD = 60
_N_AT_ONCE = 64
_BEFORE_S, _AFTER_S, _NOISE_LEVEL = 1.2, 1.0, 1e-3
_QUIET_BEFORE = 0.5
_LEVELS = np.concatenate([np.linspace(0.05, 0.9, 35), 1 - np.geomspace(0.1, 0.002, 30)])

Rows = NDArray[np.float32]


class SpeechResult(NamedTuple):
    """The posteriors [n, C] of a recording, what is said in it, and its length."""

    rows: Rows
    said: Counter[str]
    duration_s: float


class Scores(msgspec.Struct):
    """What one model scored."""

    model: str
    speech_hours: dict[str, float]
    clip_errors: dict[str, float]
    thresholds: dict[str, list[float]] = {}
    false_alarms: dict[str, list[int]] = {}
    natural_misses: dict[str, list[float]] = {}
    clip_misses: dict[str, list[float]] = {}
    spoken_found: dict[str, list[float]] = {}
    deciding: float = math.nan


def posteriors(recognizer: Recognizer, samples: Samples, step_ms: int) -> Rows:
    """The posteriors [n, C] of every step of a recording [T] in a stream that starts and ends in silence."""
    n, step = recognizer.info.spec.context_samples, step_ms * recognizer.info.spec.sample_rate_hz // 1000
    padded = np.concatenate([np.zeros(n, np.float32), samples, np.zeros(n // 2, np.float32)])
    contexts = np.lib.stride_tricks.sliding_window_view(padded, n)[step::step]
    parts = [recognizer.posteriors(np.ascontiguousarray(p)) for p in _batches(contexts)]
    return np.concatenate(parts)


def _batches(contexts: Samples) -> Iterator[Samples]:
    for first in range(0, len(contexts), _N_AT_ONCE):
        yield contexts[first : first + _N_AT_ONCE]


def in_stream(samples: Samples, rate_hz: int, seed: int) -> Samples:
    """A clip [T] between stretches of faint noise, on noise itself."""
    n_before, n_after = round(_BEFORE_S * rate_hz), round(_AFTER_S * rate_hz)
    noise = np.random.default_rng(seed).normal(0, _NOISE_LEVEL, n_before + len(samples) + n_after).astype(np.float32)
    noise[n_before : n_before + len(samples)] += samples
    return noise


def posteriors_of_clips(
    recognizer: Recognizer, base: Path, sources: Sequence[Source], step_ms: int
) -> list[tuple[str, Rows]]:
    """The words of clips, and their posteriors in a stream."""
    rate_hz = recognizer.info.spec.sample_rate_hz
    streams = (in_stream(read(base / one.path, rate_hz), rate_hz, seed) for seed, one in enumerate(sources))
    return [(one.word, posteriors(recognizer, s, step_ms)) for one, s in zip(sources, streams, strict=True)]


def posteriors_of_speech(
    recognizer: Recognizer, base: Path, sources: Sequence[Source], step_ms: int
) -> list[SpeechResult]:
    """Running speech with its transcripts; where there is none, nothing is known to be said."""
    rate_hz, texts, recordings = recognizer.info.spec.sample_rate_hz, dict[Path, dict[str, str]](), []
    for one in sources:
        file = base / one.path
        path = file.parent / TRANSCRIPTS
        if path not in texts:
            texts[path] = read_transcripts(path) if path.exists() else {}
        samples = read(file, rate_hz)
        said = Counter(normalised(texts[path].get(file.stem, "")).split())
        recordings.append(SpeechResult(posteriors(recognizer, samples, step_ms), said, len(samples) / rate_hz))
    return recordings


def missed(detector: Detector, clips: Sequence[tuple[str, Rows]]) -> float:
    """The fraction of keyword clips in which the keyword is not detected."""
    return sum(word not in {one.label for one in _detect(detector, rows)} for word, rows in clips) / max(1, len(clips))


def _detect(detector: Detector, rows: Rows) -> list[Detection]:
    detector.reset()
    return detector.push(rows)


def count_alarms(detector: Detector, speech: Sequence[SpeechResult]) -> tuple[int, int]:
    """How many detections are of no keyword in the transcript, and how many are."""
    n_false = n_right = 0
    for one in speech:
        left = Counter(one.said)
        for detection in _detect(detector, one.rows):
            alike = {detection.label, *SOUND_LIKE.get(detection.label, ())}
            word = next((word for word in alike if left[word]), "")
            left[word] -= 1
            n_right, n_false = (n_right + 1, n_false) if word else (n_right, n_false + 1)
    return n_false, n_right


def threshold_for(clips: Sequence[tuple[str, Rows]], recognizer: Recognizer, options: Options, misses: float) -> float:
    """The highest of some thresholds at which no more of the clips are missed."""
    low, high = 0, len(_LEVELS) - 1
    while low < high:
        middle = (low + high + 1) // 2
        at = msgspec.structs.replace(options, threshold=float(_LEVELS[middle]))
        if missed(Detector(recognizer.info.spec.labels, at), clips) <= misses:
            low = middle
        else:
            high = middle - 1
    return float(_LEVELS[low])


def clip_errors(recognizer: Recognizer, base: Path, sources: Sequence[Source]) -> dict[str, float]:
    """The fraction of clips of each class that are classified wrongly, in the middle of a context."""
    spec, wrong = recognizer.info.spec, dict[str, list[bool]]()
    for one in sources:
        samples = read(base / one.path, spec.sample_rate_hz)[: spec.context_samples]
        context = np.zeros((1, spec.context_samples), np.float32)
        first = (spec.context_samples - len(samples)) // 2
        context[0, first : first + len(samples)] = samples
        label = spec.labels.of_folder(one.word) or ""
        found = recognizer.labels[int(recognizer.logits(context).argmax())]
        wrong.setdefault(label, []).append(found != label)
    return {label: float(np.mean(errors)) for label, errors in sorted(wrong.items())}


def validate(recognizer: Recognizer, name: str, experiment: Experiment) -> Scores:
    """All figures of a model, at common thresholds, and with its own requirement of quiet if it has one."""
    own = recognizer.info.options
    options = Options(smoothing_ms=400, quiet_from_ms=own.quiet_from_ms, quiet_to_ms=own.quiet_to_ms)
    base, keywords = Path(experiment.data.dir), recognizer.info.spec.labels.keywords
    sources = [one for one in find_sources(experiment.data) if one.split == "validation"]
    commands = [one for one in sources if one.kind == "command"]
    natural = [one for one in sources if one.kind == "word" and one.word in keywords]
    speech = {
        folder: posteriors_of_speech(
            recognizer, base, [one for one in sources if _is_speech(one, folder)], options.step_ms
        )
        for folder in sorted({Path(one.path).parent.name for one in sources if one.kind == "speech"})
    }
    some = [one for word in keywords for one in [c for c in commands if c.word == word][:_N_PER_KEYWORD]]
    clips = posteriors_of_clips(recognizer, base, some, options.step_ms)
    spoken = posteriors_of_clips(recognizer, base, natural, options.step_ms)
    errors = clip_errors(recognizer, base, commands)
    errors |= {f"natural {word}": e for word, e in clip_errors(recognizer, base, natural).items()}
    hours = {folder: sum(one.duration_s for one in recordings) / 3600 for folder, recordings in speech.items()}
    scores = Scores(name, hours, errors)
    for where, bound in (("anywhere", 0.0), ("alone", own.quiet_before or _QUIET_BEFORE)):
        chosen = msgspec.structs.replace(options, quiet_before=bound)
        levels = [threshold_for(clips, recognizer, chosen, misses) for misses in MISSES]
        detectors = [_detector(recognizer, chosen, level) for level in levels]
        scores.thresholds[where] = levels
        scores.clip_misses[where] = [missed(one, clips) for one in detectors]
        scores.natural_misses[where] = [missed(one, spoken) for one in detectors]
        for folder, recordings in speech.items():
            counts = [count_alarms(one, recordings) for one in detectors]
            n_said = sum(one.said[word] for one in recordings for word in keywords)
            scores.false_alarms[f"{folder} {where}"] = [false for false, _ in counts]
            scores.spoken_found[f"{folder} {where}"] = [right / max(1, n_said) for _, right in counts]
    scores.deciding = deciding(scores)
    return scores


def _is_speech(source: Source, folder: str) -> bool:
    return source.kind == "speech" and Path(source.path).parent.name == folder


def _detector(recognizer: Recognizer, options: Options, threshold: float) -> Detector:
    return Detector(recognizer.info.spec.labels, msgspec.structs.replace(options, threshold=threshold))


def deciding(scores: Scores) -> float:
    """The figure that decides, as the head of this file defines it."""
    rates = [
        (counts + 0.5) / scores.speech_hours[where.rpartition(" ")[0]]
        for where, listed in scores.false_alarms.items()
        if where.endswith("alone")
        for counts in listed
    ]
    own, natural = mean_errors(scores)
    return float(np.log(rates).mean() + _CLIP_WEIGHT * own + _NATURAL_WEIGHT * (natural or 0.0))


def mean_errors(scores: Scores) -> tuple[float, float | None]:
    """The fraction of clips classified wrongly, classes weighing the same, and that of natural voices, if any."""
    own = [error for label, error in scores.clip_errors.items() if not label.startswith("natural ")]
    natural = [error for label, error in scores.clip_errors.items() if label.startswith("natural ")]
    return float(np.mean(own)), float(np.mean(natural)) if natural else None


def to_lines(scores: Scores) -> list[str]:
    """The figures as Markdown."""
    hours = ", ".join(f"{folder} {hours:.2f} h" for folder, hours in scores.speech_hours.items())
    folders = list(scores.speech_hours)
    rows = [
        (
            place,
            f"{threshold:.3f}",
            percent(scores.clip_misses[place][at]),
            percent(scores.natural_misses[place][at]),
            *(str(scores.false_alarms[f"{folder} {place}"][at]) for folder in folders),
        )
        for place, thresholds in scores.thresholds.items()
        for at, threshold in enumerate(thresholds)
    ]
    head = ("keywords", "threshold", "clips missed", "natural voices missed", *(f"alarms, {name}" for name in folders))
    own, natural = mean_errors(scores)
    told = "" if natural is None else f", and {percent(natural)} of keywords in natural voices"
    return [
        f"Wrongly classified are {percent(own)} of the validation clips, classes weighing the "
        f"same{told}. One threshold for all keywords, at given misses of clips in streams; false alarms in speech held "
        f"out ({hours}):",
        "",
        *Table(head, "<" + ">" * (len(head) - 1), rows).to_markdown(),
        "",
        f"The figure that decides between models (pipelines.validate_model): {scores.deciding:.2f}.",
    ]


def main() -> None:
    """Validate models, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="the experiment whose validation data is used")
    parser.add_argument("models", type=Path, nargs="+", help="model files or checkpoints")
    parser.add_argument("--data", help="where its data lies, in place of data.dir")
    parser.add_argument("--output", type=Path, default=Path("scores.json"))
    arguments = parser.parse_args()
    experiment, results = load_experiment(arguments.config, data_dir=arguments.data), []
    for path in arguments.models:
        recognizer = load(path)
        results.append(validate(recognizer, str(path), experiment))
        print("\n".join([str(path), "", *to_lines(results[-1]), ""]), flush=True)
    arguments.output.write_bytes(msgspec.json.encode(results))


if __name__ == "__main__":
    run_program(main)
