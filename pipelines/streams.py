"""Streams of validation words whose truth is known, and how detections are held against it.

A detection is right if its word is a keyword spoken between 100 ms before it and 1 s after it, each word once.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, from_int16
from speechrnn.cli import pack_audio
from speechrnn.config import TRAINING_RATE_HZ, load_experiment
from speechrnn.dataset import Clip, Pack
from speechrnn.detector import Detection
from speechrnn.errors import DataError
from speechrnn.runtime import Recognizer, load

_KEYWORD_SHARE = 0.7
_PAUSE_S = (0.5, 2.0)
_NOISE_LEVEL = 0.1
_SPEECH_HOURS = 0.5


class Word(NamedTuple):
    """A word of the stream and where it is."""

    label: str
    start_s: float
    end_s: float


class Outcome(NamedTuple):
    """What detections are worth: the share of keywords found, that of detections that are wrong, and the delays.

    Both shares are of the number of keywords. `lags_s` and `delays_s` [n found] are from the word's end to the
    detection's end and to its decision, on the sample clock.
    """

    found: float
    wrong: float
    lags_s: NDArray[np.float64]
    delays_s: NDArray[np.float64]


def validation_clips(pack: Pack) -> list[Clip]:
    """All words that are there to choose by."""
    return [clip for clip in pack.clips if clip.split == "validation" and clip.kind != "noise"]


def speech_clips(pack: Pack) -> list[Clip]:
    """Some half an hour of the running speech, drawn evenly; none if there is none."""
    clips = [clip for clip in pack.clips if clip.kind == "speech"]
    n_samples = sum(clip.n_samples for clip in clips)
    return clips[:: max(1, int(n_samples / (_SPEECH_HOURS * 3600 * TRAINING_RATE_HZ)))]


def join(pack: Pack, clips: Iterable[Clip]) -> Samples:
    """Clips end to end [T]."""
    return from_int16(np.concatenate([_samples(pack, clip) for clip in clips] or [np.zeros(0, dtype=np.int16)]))


def make_stream(pack: Pack, clips: list[Clip], keywords: tuple[str, ...], n_words: int) -> tuple[Samples, list[Word]]:
    """Clips end to end with pauses of 0.5 to 2 s, over background noise [T], and the words in it: 70 % keywords.

    Raises DataError unless the clips hold both keywords and other words.
    """
    random = np.random.default_rng(5)
    known = [clip for clip in clips if clip.word in keywords]
    others = [clip for clip in clips if clip.word not in keywords]
    if not known or not others:
        raise DataError(f"expected validation clips of keywords and of others, got {len(known)} and {len(others)}")
    parts, words, at = [], [], 0
    for _ in range(n_words):
        choice = known if random.random() < _KEYWORD_SHARE else others
        clip = choice[random.integers(len(choice))]
        pause = np.zeros(int(random.uniform(*_PAUSE_S) * TRAINING_RATE_HZ), dtype=np.float32)
        at += len(pause)
        words.append(
            Word(clip.word, (at + clip.word_start) / TRAINING_RATE_HZ, (at + clip.word_end) / TRAINING_RATE_HZ)
        )
        at += clip.n_samples
        parts += [pause, from_int16(_samples(pack, clip))]
    stream = np.concatenate([*parts, np.zeros(TRAINING_RATE_HZ, dtype=np.float32)])
    noises = [clip for clip in pack.clips if clip.kind == "noise"]
    if noises:
        noise = max(noises, key=lambda clip: clip.n_samples)
        stream += _NOISE_LEVEL * np.resize(from_int16(_samples(pack, noise)), len(stream))
    return stream, words


def _samples(pack: Pack, clip: Clip) -> NDArray[np.int16]:
    return pack.samples[clip.offset : clip.offset + clip.n_samples]


def match(found: Iterable[Detection], words: list[Word]) -> list[Word | None]:
    """The word that each detection found, or None where it is wrong."""
    taken: set[int] = set()
    matched = []
    for detection in found:
        right = [
            index
            for index, word in enumerate(words)
            if word.label == detection.label
            and index not in taken
            and word.start_s - 0.1 <= detection.decided_s <= word.end_s + 1.0
        ]
        taken |= set(right[:1])
        matched.append(words[right[0]] if right else None)
    return matched


def judge(found: list[Detection], words: list[Word], keywords: tuple[str, ...]) -> Outcome:
    """Hold detections against the words of their stream."""
    matched = match(found, words)
    n_keywords = sum(word.label in keywords for word in words)
    hits = [(detection, word) for detection, word in zip(found, matched, strict=True) if word is not None]
    return Outcome(
        len(hits) / n_keywords,
        matched.count(None) / n_keywords,
        np.array([detection.end_s - word.end_s for detection, word in hits]),
        np.array([detection.decided_s - word.end_s for detection, word in hits]),
    )


def percentiles_ms(times_s: NDArray[np.float64], *percentiles: float) -> list[float]:
    """Percentiles of times, in ms; NaN if there is none."""
    return [float(1000 * np.percentile(times_s, p)) if len(times_s) else float("nan") for p in percentiles]


def remembering(recognizer: Recognizer) -> Recognizer:
    """The same recognizer with a memory: a context heard before, bit for bit, costs no second run.

    Spotters with different options look at mostly the same contexts, until a detection makes part of one silent.
    """
    known: dict[bytes, NDArray[np.float32]] = {}

    def logits(contexts: Samples) -> NDArray[np.float32]:
        key = hashlib.blake2b(contexts.tobytes(), digest_size=16).digest()
        if key not in known:
            known[key] = recognizer.logits(contexts)
        return known[key]

    return Recognizer(recognizer.info, logits)


def open_inputs(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Recognizer, Pack]:
    """Read the command line, to which configuration, model and data folder are added, and open what it names."""
    parser.add_argument("config", type=Path)
    parser.add_argument("model")
    parser.add_argument("--data", help="folder that the paths in [data] start from")
    arguments = parser.parse_args()
    recognizer = load(arguments.model)
    return arguments, recognizer, pack_audio(load_experiment(arguments.config, data_dir=arguments.data))
