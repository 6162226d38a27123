"""Make the recordings in `examples/audio/` with espeak-ng, their ground truth, and those of two own words.

    python -m pipelines.media.make_examples

Every recording is words of one synthesised voice at known times over faint noise. Beside each lies a label track
(NAME.labels.txt, which Audacity opens) with where each word really is. Own words lie in `examples/own-words/`, each in
a few voices. The same machine makes the same files.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from speechrnn.audio import Samples
from speechrnn.cli.console import run_program
from speechrnn.errors import DeviceError

_SPOKEN_LEVEL = 0.01  # amplitude from which a synthesised word counts as begun
_NOISE_RMS = 3e-4
_PAUSE_S = 1.1


class Example(NamedTuple):
    """What one example holds and how it is stored."""

    name: str
    voice: str
    words: str
    rate_hz: int
    channels: int


RECORDINGS = (
    Example("commands.wav", "en-us+klatt", "yes no up down left right stop go", 16000, 1),
    Example("drive.flac", "en-us+m7", "go left computer right go thank stop", 44100, 2),
    Example("menu.ogg", "en-us+klatt4", "down down yes sunshine up no", 48000, 1),
)


OWN_WORDS = ("curtains", "music")
OWN_VOICES = ("en-us+klatt", "en-us+m7", "en-gb+f2", "en-us+Annie", "en-gb-scotland+m3")


def speak(word: str, voice: str) -> tuple[Samples, int]:
    """One word [T] in a voice of espeak-ng, without the silence around it, and its rate in Hz."""
    command = ["espeak-ng", "-v", voice, "-s", "130", "-p", "45", "--stdout", word]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate_hz = soundfile.read(io.BytesIO(spoken), dtype="float32")
    loud = np.flatnonzero(np.abs(samples) > _SPOKEN_LEVEL)
    return samples[loud[0] : loud[-1] + 1], rate_hz


def make(recording: Example, folder: Path) -> None:
    """Write one recording and its label track."""
    parts, labels, at_s = [], [], 0.0
    for word in recording.words.split():
        samples, spoken_hz = speak(word, recording.voice)
        samples = soxr.resample(samples, spoken_hz, recording.rate_hz)
        pause = np.zeros(round(_PAUSE_S * recording.rate_hz), dtype=np.float32)
        start_s = at_s + len(pause) / recording.rate_hz
        at_s = start_s + len(samples) / recording.rate_hz
        labels.append(f"{start_s:.3f}\t{at_s:.3f}\t{word}\n")
        parts += [pause, 0.5 * samples / np.abs(samples).max()]
    audio = np.concatenate([*parts, np.zeros(recording.rate_hz // 2, dtype=np.float32)])
    audio += np.random.default_rng(0).normal(0, _NOISE_RMS, len(audio)).astype(np.float32)
    path = folder / recording.name
    soundfile.write(path, np.stack([audio] * recording.channels, axis=1), recording.rate_hz)
    path.with_suffix(".labels.txt").write_text("".join(labels))


def make_own_words(folder: Path) -> None:
    """Write each own word in each voice, WORD/VOICE_nohash_0.ogg."""
    for word in OWN_WORDS:
        (folder / word).mkdir(parents=True, exist_ok=True)
        for voice in OWN_VOICES:
            samples, rate_hz = speak(word, voice)
            audio = np.pad(0.5 * samples / np.abs(samples).max(), rate_hz // 3)
            audio += np.random.default_rng(0).normal(0, _NOISE_RMS, len(audio)).astype(np.float32)
            speaker = voice.rpartition("+")[2]
            soundfile.write(folder / word / f"{speaker}_nohash_0.ogg", audio, rate_hz)


def main() -> None:
    """Make all recordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("examples/audio"))
    folder = parser.parse_args().folder
    if shutil.which("espeak-ng") is None:
        raise DeviceError("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    folder.mkdir(parents=True, exist_ok=True)
    for recording in RECORDINGS:
        make(recording, folder)
        print(f"{folder / recording.name}: {recording.words} ({recording.voice})")
    make_own_words(folder.parent / "own-words")


if __name__ == "__main__":
    run_program(main)
