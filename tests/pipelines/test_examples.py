"""The recordings that come with the project, scored by the model that comes with it."""

import shutil
from pathlib import Path

import librosa
import msgspec
import numpy as np
import pytest
import soundfile

from pipelines.media.make_examples import RECORDINGS, Example, make
from speechrnn import audio
from speechrnn.audio import Samples
from speechrnn.decoding import read
from speechrnn.detector import Detection
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import FileSource
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter, posteriors
from tests.helpers import every, noise

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples" / "audio"
RECORDED = pytest.mark.parametrize("name", [recording.name for recording in RECORDINGS])


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load("commands10")


def truth(name: str, recognizer: Recognizer) -> list[tuple[str, float, float]]:
    """The keywords of an example in order: word, start and end in seconds."""
    lines = (EXAMPLES / name).with_suffix(".labels.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    keywords = recognizer.info.spec.labels.keywords
    return [(word, float(start), float(end)) for start, end, word in rows if word in keywords]


def spot(name: str, recognizer: Recognizer) -> list[Detection]:
    spotter = KeywordSpotter(recognizer)
    with FileSource(EXAMPLES / name) as source:
        found = [detection for block in source.blocks(spotter.sample_rate_hz) for detection in spotter.push(block)]
    return found + spotter.finish()


@RECORDED
def test_every_word_is_found_once_and_nothing_else(name: str, recognizer: Recognizer) -> None:
    assert [found.label for found in spot(name, recognizer)] == [word for word, _, _ in truth(name, recognizer)]


@RECORDED
def test_times_lie_on_the_words(name: str, recognizer: Recognizer) -> None:
    for found, (_, start_s, end_s) in zip(spot(name, recognizer), truth(name, recognizer), strict=True):
        overlap_s = min(found.end_s, end_s) - max(found.start_s, start_s)
        assert overlap_s > 0.45 * (end_s - start_s)
        assert abs(found.end_s - end_s) < 0.3


def spoken(name: str, number: int, recognizer: Recognizer) -> Samples:
    """One word of an example [T] at 16 kHz, counted from 0, without what is around it."""
    _, start_s, end_s = truth(name, recognizer)[number]
    return read(EXAMPLES / name, 16000)[round(16000 * start_s) : round(16000 * end_s)]


def labels_of(samples: Samples, recognizer: Recognizer, options: Options | None = None) -> list[str]:
    spotter = KeywordSpotter(recognizer, options)
    return [found.label for found in spotter.push(samples) + spotter.finish()]


def test_words_said_twice_with_half_a_second_between_are_two(recognizer: Recognizer) -> None:
    """But for a few: the audio of a detection counts as silence, so the second of them has fewer contexts."""
    pause, n_twice = np.zeros(8000, dtype=np.float32), 0
    for number, (label, *_) in enumerate(truth("commands.wav", recognizer)):
        word = spoken("commands.wav", number, recognizer)
        for n_shifted in (0, 531, 1067):  # against the steps of 1600
            samples = np.concatenate([np.zeros(n_shifted, dtype=np.float32), pause, word, pause, word, pause])
            labels = labels_of(samples + 0.01 * noise(len(samples)), recognizer)
            assert labels in ([label], [label] * 2)
            n_twice += len(labels) == 2
    assert n_twice >= 22  # of 24


@pytest.mark.parametrize(("name", "number"), [("commands.wav", 7), ("commands.wav", 1), ("menu.ogg", 0)])
def test_a_word_drawn_out_to_twice_its_length_is_one(name: str, number: int, recognizer: Recognizer) -> None:
    word = spoken(name, number, recognizer)
    spectra = librosa.stft(word, n_fft=512)
    drawn_out = librosa.istft(librosa.phase_vocoder(spectra, rate=0.5), n_fft=512)
    pause = np.zeros(8000, dtype=np.float32)
    low = msgspec.structs.replace(recognizer.info.options, threshold=0.5)  # at which two are likelier than at its own
    assert labels_of(np.concatenate([pause, drawn_out, pause]), recognizer, low) == [truth(name, recognizer)[number][0]]


@pytest.mark.parametrize("block_samples", [97, 4410, 44100, 441000])
def test_blocks_of_any_length_at_another_rate_give_the_same(block_samples: int, recognizer: Recognizer) -> None:
    samples, rate_hz = soundfile.read(EXAMPLES / "drive.flac", dtype="float32")
    assert rate_hz == 44100

    def spot_in_blocks(n_samples: int) -> tuple[Samples, list[Detection]]:
        resampler = audio.Resampler(rate_hz, 16000)
        blocks = [resampler.push(block) for block in every(n_samples, audio.to_mono(samples))]
        blocks.append(resampler.push(np.zeros(0, dtype=np.float32), last=True))
        spotter = KeywordSpotter(recognizer)
        found = [detection for block in blocks for detection in spotter.push(block)] + spotter.finish()
        return np.stack(list(posteriors(recognizer, blocks))), found

    whole_rows, whole_found = spot_in_blocks(len(samples))
    rows, found = spot_in_blocks(block_samples)
    np.testing.assert_array_equal(rows, whole_rows)
    assert found == whole_found
    assert [detection.label for detection in found] == ["go", "left", "right", "go", "stop"]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_the_script_makes_the_recordings_again(recording: Example, tmp_path: Path) -> None:
    make(recording, tmp_path)
    made, kept = tmp_path / recording.name, EXAMPLES / recording.name
    assert soundfile.info(made).samplerate == soundfile.info(kept).samplerate == recording.rate_hz
    assert soundfile.info(made).channels == soundfile.info(kept).channels == recording.channels
    label_lines = made.with_suffix(".labels.txt").read_text().splitlines()
    assert [line.split("\t")[2] for line in label_lines] == recording.words.split()
    duration_s = len(read(made, 16000)) / 16000
    assert duration_s == pytest.approx(len(read(kept, 16000)) / 16000, abs=0.5)
