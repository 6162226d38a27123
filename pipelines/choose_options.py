"""Show what smoothing and threshold cost, on validation data, to choose the options of a configuration by.

    python -m pipelines.choose_options configs/commands8.toml runs/commands8/best.pt --data data

Joins validation clips to one stream (70 % keywords, pauses of 0.5 to 2 s, background noise) and runs the spotter over
it and over the running speech of the training data. A detection is right if its word is the keyword spoken between
100 ms before it and 1 s after it, each word once. Prints, for each choice, the share of keywords found, of wrong words,
false alarms per hour of running speech, and the time from the word's end to the detection's end and decision.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from speechrnn.audio import Samples, from_int16
from speechrnn.cli import pack_audio, run_program
from speechrnn.config import load_experiment
from speechrnn.dataset import Clip, Pack
from speechrnn.detector import Detection, Detector
from speechrnn.runtime import Recognizer, load
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

_N_WORDS = 400
_NOISE_LEVEL = 0.1
_SPEECH_HOURS = 0.5
_SMOOTHINGS_MS = (200, 300, 400, 500)
_THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8)


class Word(NamedTuple):
    """A word of the stream and where it is."""

    label: str
    start_s: float
    end_s: float


class Outcome(NamedTuple):
    """What one choice of options gives on the stream."""

    hits: float
    wrong: float
    lag_ms: float
    delay_p50_ms: float
    delay_p95_ms: float


def make_stream(pack: Pack, keywords: tuple[str, ...], rate_hz: int) -> tuple[Samples, list[Word]]:
    """Validation clips end to end with pauses and noise [T], and the words in it."""
    random = np.random.default_rng(5)
    clips = [clip for clip in pack.clips if clip.split == "validation" and clip.kind != "noise"]
    known = [clip for clip in clips if clip.word in keywords]
    others = [clip for clip in clips if clip.word not in keywords]
    parts, words, at = [], [], 0
    for _ in range(_N_WORDS):
        choice = known if random.random() < 0.7 else others
        clip = choice[random.integers(len(choice))]
        pause = np.zeros(int(random.uniform(0.5, 2.0) * rate_hz), dtype=np.float32)
        at += len(pause)
        words.append(Word(clip.word, (at + clip.word_start) / rate_hz, (at + clip.word_end) / rate_hz))
        at += clip.n_samples
        parts += [pause, from_int16(_samples(pack, clip))]
    noise = max((clip for clip in pack.clips if clip.kind == "noise"), key=lambda clip: clip.n_samples)
    stream = np.concatenate(parts)
    return stream + _NOISE_LEVEL * np.resize(from_int16(_samples(pack, noise)), len(stream)), words


def _samples(pack: Pack, clip: Clip) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return pack.samples[clip.offset : clip.offset + clip.n_samples]


def running_speech(pack: Pack, rate_hz: int) -> Samples:
    """Some of the running speech [T]."""
    clips = [clip for clip in pack.clips if clip.kind == "speech"]
    n_samples = sum(clip.n_samples for clip in clips)
    every = max(1, int(n_samples / (_SPEECH_HOURS * 3600 * rate_hz)))
    return from_int16(np.concatenate([_samples(pack, clip) for clip in clips[::every]]))


def outcome(found: list[Detection], words: list[Word], keywords: tuple[str, ...]) -> Outcome:
    """Match detections with words."""
    taken: set[int] = set()
    n_wrong, lags, delays = 0, [], []
    for detection in found:
        near = [i for i, word in enumerate(words) if word.start_s - 0.1 <= detection.decided_s <= word.end_s + 1.0]
        right = [i for i in near if words[i].label == detection.label and i not in taken]
        if not right:
            n_wrong += 1
            continue
        taken.add(right[0])
        lags.append(detection.end_s - words[right[0]].end_s)
        delays.append(detection.decided_s - words[right[0]].end_s)
    n_keywords = sum(word.label in keywords for word in words)
    ms = 1000 * np.array([np.median(lags), *np.percentile(delays, [50, 95])])
    return Outcome(len(taken) / n_keywords, n_wrong / n_keywords, *map(float, ms))


def compare(recognizer: Recognizer, pack: Pack) -> list[str]:
    """One line for each choice."""
    labels, rate_hz = recognizer.info.spec.labels, recognizer.info.spec.sample_rate_hz
    stream, words = make_stream(pack, labels.keywords, rate_hz)
    speech = running_speech(pack, rate_hz)
    posteriors = KeywordSpotter(recognizer).posteriors(stream)
    of_speech = KeywordSpotter(recognizer).posteriors(speech)
    hours = len(speech) / rate_hz / 3600
    lines = [
        f"{len(words)} words in {len(stream) / rate_hz / 60:.0f} minutes; {hours:.2f} hours of running speech",
        "| smoothing ms | threshold | found | wrong | false alarms/h, speech | lag ms | delay p50 ms | delay p95 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for smoothing_ms in _SMOOTHINGS_MS:
        for threshold in _THRESHOLDS:
            options = msgspec.structs.replace(Options(), smoothing_ms=smoothing_ms, threshold=threshold)
            got = outcome(Detector(labels, options).push(posteriors), words, labels.keywords)
            alarms = len(Detector(labels, options).push(of_speech)) / hours
            lines.append(
                f"| {smoothing_ms} | {threshold} | {100 * got.hits:.1f} % | {100 * got.wrong:.1f} % | {alarms:.0f} "
                f"| {got.lag_ms:.0f} | {got.delay_p50_ms:.0f} | {got.delay_p95_ms:.0f} |"
            )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("model")
    parser.add_argument("--data", help="folder that the paths in [data] start from")
    arguments = parser.parse_args()
    experiment, recognizer = load_experiment(arguments.config, data_dir=arguments.data), load(arguments.model)
    print("\n".join(compare(recognizer, pack_audio(experiment))))


if __name__ == "__main__":
    run_program(main)
