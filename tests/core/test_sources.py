"""The contract that every audio source keeps."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from speechrnn.audio import Samples, from_int16, to_int16
from speechrnn.decoding import read
from speechrnn.errors import AudioError
from speechrnn.sources import ArraySource, AudioSource, FileSource, PipeSource, open_source
from tests.helpers import RATE_HZ, assert_one_line, noise, sine, write_audio

DURATION_S = 2.345
Make = Callable[[Path], ArraySource | FileSource]


def array_source(rate_hz: int, block_samples: int) -> Make:
    samples = sine(1000, DURATION_S, rate_hz)
    return lambda _: ArraySource(samples, rate_hz, block_samples=block_samples)


def file_source(name: str, file_rate_hz: int, n_channels: int) -> Make:
    samples = np.stack([sine(1000, DURATION_S, file_rate_hz)] * n_channels, axis=1)
    return lambda folder: FileSource(write_audio(folder / name, samples, file_rate_hz))


SOURCES: dict[str, Make] = {
    "array": array_source(RATE_HZ, 16000),
    "array in one block": array_source(RATE_HZ, 10**9),
    "array in odd blocks at 8 kHz": array_source(8000, 77),
    "wav": file_source("a.wav", 16000, 1),
    "wav of 8 channels at 44.1 kHz": file_source("a.wav", 44100, 8),
    "wav at 192 kHz": file_source("a.wav", 192000, 1),
    "wav at 8 kHz": file_source("a.wav", 8000, 2),
    "flac at 48 kHz": file_source("a.flac", 48000, 2),
}
every_source = pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
every_rate = pytest.mark.parametrize("rate_hz", [8000, RATE_HZ])


@every_rate
@every_source
def test_blocks_are_mono_float32_and_not_empty(make: Make, rate_hz: int, tmp_path: Path) -> None:
    with make(tmp_path) as source:
        blocks = list(source.blocks(rate_hz))
    assert {(block.dtype.name, block.ndim) for block in blocks} == {("float32", 1)}
    assert min(map(len, blocks)) > 0


@every_rate
@every_source
def test_blocks_hold_the_whole_of_the_audio_at_the_rate_that_is_asked_for(
    make: Make, rate_hz: int, tmp_path: Path
) -> None:
    with make(tmp_path) as source:
        assert source.duration_s == pytest.approx(DURATION_S, abs=1e-3)
        samples = np.concatenate(list(source.blocks(rate_hz)))
    expected = sine(1000, DURATION_S, rate_hz)
    assert abs(len(samples) - len(expected)) <= 2
    np.testing.assert_allclose(samples[200:-200], expected[200 : len(samples) - 200], atol=1e-3)


@every_source
def test_close_may_be_called_twice_and_after_a_part(make: Make, tmp_path: Path) -> None:
    source = make(tmp_path)
    next(source.blocks(RATE_HZ))
    source.close()
    source.close()


@every_source
def test_with_lets_errors_through(make: Make, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), make(tmp_path):
        raise KeyError("mine")


def test_with_closes_the_file(tmp_path: Path) -> None:
    with FileSource(write_audio(tmp_path / "a.wav", noise(100))) as source:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        next(source.blocks(RATE_HZ))


@pytest.mark.parametrize("file_rate_hz", [8000, 16000, 44100, 48000])
def test_a_file_by_blocks_equals_the_file_at_once(file_rate_hz: int, tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise(5 * file_rate_hz // 2, 2), file_rate_hz)
    with FileSource(path) as source:
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(RATE_HZ))), read(path, RATE_HZ))


def test_a_long_file_comes_one_second_at_a_time(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise(8000 * 60), 8000)
    with FileSource(path) as source:
        assert max(map(len, source.blocks(RATE_HZ))) <= 1.1 * RATE_HZ


@pytest.mark.parametrize(
    "samples", [np.zeros(9, np.int16), np.zeros((9, 2), np.float32), np.full(9, np.nan, np.float32)]
)
def test_an_array_that_is_no_audio_is_refused(samples: Samples) -> None:
    with pytest.raises(AudioError, match="array"):
        ArraySource(samples, RATE_HZ)


def test_an_empty_array_has_no_blocks() -> None:
    assert list(ArraySource(noise(0), RATE_HZ).blocks(RATE_HZ)) == []


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000])
def test_a_file_tells_its_own_rate(rate_hz: int, tmp_path: Path) -> None:
    with FileSource(write_audio(tmp_path / "a.wav", noise(100), rate_hz)) as source:
        assert source.sample_rate_hz == rate_hz
        np.testing.assert_array_equal(np.concatenate(list(source.native_blocks())), read(tmp_path / "a.wav", rate_hz))


class Waiting(AudioSource):
    """A source of one's own at 8 kHz, which has nothing for a while before and after its second of sound."""

    sample_rate_hz = 8000

    def native_blocks(self) -> Iterator[Samples]:
        yield from (noise(0), noise(8000), noise(0))


@every_rate
def test_a_live_source_says_that_it_waits_at_any_rate(rate_hz: int) -> None:
    lengths = [len(block) for block in Waiting().blocks(rate_hz)]
    assert [lengths[0], lengths[2]] == [0, 0]
    assert abs(sum(lengths) - rate_hz) <= 1


def test_what_a_user_names_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(tmp_path / "a.wav", noise(100), 8000)
    waiting = Waiting()
    assert open_source(waiting) is waiting
    for named in (path, str(path)):
        with open_source(named) as source:
            assert (source.name, source.sample_rate_hz) == ("a.wav", 8000)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    piped = open_source("-", pipe_rate_hz=44100)
    assert (piped.name, piped.sample_rate_hz) == ("pipe", 44100)


def piped(content: bytes) -> NDArray[np.float32]:
    """What a pipe into which this is written gives."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        with os.fdopen(writing, "wb") as other_end:
            other_end.write(content)
        return np.concatenate([np.zeros(0, np.float32), *PipeSource(pipe, RATE_HZ).native_blocks()])


@pytest.mark.parametrize("n_samples", [0, 1, 2, 3, 5000])
def test_every_whole_sample_of_a_pipe_is_given(n_samples: int) -> None:
    samples = to_int16(noise(n_samples))
    np.testing.assert_array_equal(piped(samples.tobytes()), from_int16(samples))
    np.testing.assert_array_equal(piped(samples.tobytes() + b"x"), from_int16(samples))


@pytest.mark.parametrize("first", [b"RIFF\x24\0\0\0WAVE", b"fLaC\0\0\0\x22", b"OggS\0\2", b"FORM"])
def test_a_file_with_a_header_is_not_taken_for_raw_samples(first: bytes) -> None:
    with pytest.raises(AudioError) as caught:
        piped(first + bytes(1000))
    assert_one_line(caught.value, "got a file with a header", "speechrnn transcribe -")
