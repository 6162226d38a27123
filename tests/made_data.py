"""A small data set laid out as Speech Commands, in which each word is a short sequence of harmonic tones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import soundfile

from speechrnn.audio import Samples, to_int16
from speechrnn.config import Data, Unknown, UnknownSource

RATE_HZ = 16000
COMMANDS = ("yes", "no", "bed")
OTHER_WORDS = ("cat", "wow", "zero")
TONES: dict[str, tuple[tuple[float, float], ...]] = {  # (Hz, ms) each
    "yes": ((300, 140), (640, 180)),
    "no": ((700, 160), (340, 160)),
    "bed": ((470, 260),),
    "cat": ((560, 90), (390, 90), (560, 90)),
    "wow": ((250, 330),),
    "zero": ((390, 100), (820, 100), (460, 120)),
}


def word(name: str, random: np.random.Generator) -> Samples:
    """One utterance [T] without silence around it, varied in pitch, length and level."""
    pitch, length, level_db = random.uniform(0.93, 1.07), random.uniform(0.85, 1.15), random.uniform(-18, -4)
    tones = []
    for frequency_hz, length_ms in TONES[name]:
        time_s = np.arange(round(length * length_ms * RATE_HZ / 1000)) / RATE_HZ
        phase = 2 * np.pi * frequency_hz * pitch * time_s
        tones.append(sum(np.sin(k * phase) / k for k in (1, 2, 3, 5)) * np.hanning(len(time_s)) ** 0.5)
    joined = np.concatenate(tones)
    return np.asarray(10 ** (level_db / 20) * joined / np.abs(joined).max(), dtype=np.float32)


def hiss(n_samples: int, random: np.random.Generator, level_db: float = -66) -> Samples:
    """White noise [T]."""
    return (10 ** (level_db / 20) * random.standard_normal(n_samples)).astype(np.float32)


def clip(name: str, random: np.random.Generator, n_samples: int = RATE_HZ) -> Samples:
    """An utterance somewhere near the middle of `n_samples` of faint hiss."""
    spoken, samples = word(name, random), hiss(n_samples, random)
    start = round((n_samples - len(spoken)) * random.uniform(0.3, 0.7))
    samples[start : start + len(spoken)] += spoken
    return samples


def stream(names: Sequence[str], pause_s: float, random: np.random.Generator) -> tuple[Samples, list[float]]:
    """Utterances with a pause before each and after the last, in faint hiss; and where each begins, in seconds."""
    parts, starts, n_samples = [], [], 0
    for name in names:
        spoken = word(name, random)
        parts += [np.zeros(round(pause_s * RATE_HZ), dtype=np.float32), spoken]
        starts.append(n_samples / RATE_HZ + pause_s)
        n_samples += len(parts[-2]) + len(spoken)
    samples = np.concatenate([*parts, parts[0]])
    return samples + hiss(len(samples), random), starts


def write_wav(path: Path, samples: Samples) -> None:
    """A 16-bit file at 16 kHz, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, to_int16(samples), RATE_HZ)


def write(root: Path, *, n_speakers: int = 20, n_takes: int = 2, seed: int = 0) -> Path:
    """Write the whole data set below `root`, which is returned.

    Of the speakers, 3 in 5 train, 3 in 10 validate and 1 in 10 test; the lists say so, not the hash of their names.
    """
    random = np.random.default_rng(seed)
    commands = root / "SpeechCommands" / "speech_commands_v0.02"
    listed: dict[str, list[str]] = {"training": [], "validation": [], "testing": []}
    for speaker in range(n_speakers):
        place = speaker % 10
        split = "training" if place < 6 else "validation" if place < 9 else "testing"
        name = f"{random.integers(2**32):08x}"
        for spoken in COMMANDS:
            for take in range(n_takes):
                path = f"{spoken}/{name}_nohash_{take}.wav"
                n_samples = RATE_HZ if take == 0 else int(random.integers(12000, RATE_HZ))
                write_wav(commands / path, clip(spoken, random, n_samples))
                listed[split].append(path)
    for split in ("validation", "testing"):
        (commands / f"{split}_list.txt").write_text("".join(f"{path}\n" for path in sorted(listed[split])))
    write_wav(commands / "_background_noise_" / "hiss.wav", hiss(6 * RATE_HZ, random, -30))
    hum = np.sin(2 * np.pi * 50 * np.arange(6 * RATE_HZ) / RATE_HZ).astype(np.float32)
    write_wav(root / "noise" / "hum.wav", 0.1 * hum + hiss(6 * RATE_HZ, random, -40))
    for split, n in ("training", n_speakers), ("validation", max(1, n_speakers // 3)):
        for other in OTHER_WORDS:
            for take in range(n):
                write_wav(root / "other_words" / split / other / f"{take}.wav", clip(other, random))
    for take in range(max(2, n_speakers // 4)):
        speech, _ = stream([str(random.choice(["bed", *OTHER_WORDS])) for _ in range(5)], 0.15, random)
        write_wav(root / "speech" / "training" / f"{take}.wav", speech)
    return root


OF_UNKNOWN = {
    "aligned_words": ("aligned", "list"),
    "hard_negatives": ("hard_negative", "list"),
    "n_tts_per_word": ("tts", "n_per_word"),
    "n_confusables_per_keyword": ("confusable", "n_per_keyword"),
}
"""Short names of settings of a single source of unknown."""


def settings(*, unknown_fraction: float = 0.1, unknown_mix: dict[Any, float] | None = None, **changes: Any) -> Data:
    """A configuration of data in which `unknown_mix` has all the weights, where it is given."""
    tree: dict[str, Any] = {"fraction": unknown_fraction}
    if unknown_mix is not None:
        tree |= {source: {"weight": unknown_mix.get(source, 0.0)} for source in get_args(UnknownSource)}
    for name in OF_UNKNOWN.keys() & changes.keys():
        source, field = OF_UNKNOWN[name]
        tree.setdefault(source, {})[field] = changes.pop(name)
    return Data(unknown=msgspec.convert(tree, Unknown), **changes)


def data(root: Path, **changes: Any) -> Data:
    """The configuration of a data set that `write` wrote below `root`."""
    folders: dict[str, Any] = {
        "words": ("other_words/training",),
        "words_validation": ("other_words/validation",),
        "speech": ("speech/training",),
        "noise": ("noise",),
    }
    return settings(dir=str(root), **(folders | changes))
