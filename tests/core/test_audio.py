"""Decoding, mixing, checking and resampling of audio."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechrnn.audio import Resampler, Samples, check_samples, find_audio, from_int16, read, rms_db, to_int16, to_mono
from speechrnn.errors import AudioError
from speechrnn.sources import FileSource
from tests.helpers import RATE_HZ, assert_one_line, cut, cuts, every, noise, sine, write_audio

Read = Callable[[Path, int], Samples]
PIPE_SIZES = (0xFFFFFFFF, 0x7FFFFFFF)


def read_by_blocks(path: Path, sample_rate_hz: int) -> Samples:
    with FileSource(path) as source:
        return np.concatenate(list(source.blocks(sample_rate_hz)))


both_readers = pytest.mark.parametrize("read_file", [read, read_by_blocks])


def wav_bytes(riff_size: int, data_size: int, n_samples: int) -> bytes:
    """A 16-bit mono file at 16 kHz whose header gives these sizes, whatever follows."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    head = b"RIFF" + struct.pack("<I", riff_size) + b"WAVEfmt " + form
    return head + b"data" + struct.pack("<I", data_size) + to_int16(noise(n_samples)).tobytes()


def test_every_int16_survives_the_way_to_float_and_back() -> None:
    values = np.arange(-(2**15), 2**15).astype(np.int16)
    floats = from_int16(values)
    assert floats.dtype == np.float32
    assert (floats.min(), floats.max()) == (-1, 1 - 2**-15)
    np.testing.assert_array_equal(to_int16(floats), values)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 0), (1.0, 32767), (3.0, 32767), (-1.0, -32768), (-3.0, -32768), (0.6 / 32768, 1)]
)
def test_int16_is_rounded_and_clipped(value: float, expected: int) -> None:
    assert to_int16(np.array([value], dtype=np.float32)).tolist() == [expected]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.5, -0.5], [0.5, -0.5]),
        ([[0.5], [-0.5]], [0.5, -0.5]),
        ([[0.0, 0.5], [1.0, -1.0], [0.25, 0.25]], [0.25, 0.0, 0.25]),
        (np.zeros((0, 2)), []),
    ],
)
def test_mono_is_the_mean_of_the_channels(samples: Any, expected: list[float]) -> None:
    mono = to_mono(np.array(samples))
    assert (mono.dtype.name, mono.ndim) == ("float32", 1)
    assert mono.tolist() == expected


@pytest.mark.parametrize(
    ("samples", "part"),
    [
        (np.zeros(3), "float64"),
        (np.zeros(3, np.int16), "int16"),
        (np.zeros((3, 2), np.float32), "(3, 2)"),
        (np.float32(0), "()"),
        (np.array([0, np.nan], np.float32), "finite"),
        (np.array([0, -np.inf], np.float32), "finite"),
    ],
)
def test_samples_that_are_no_finite_float32_stream_are_refused(samples: NDArray[Any], part: str) -> None:
    with pytest.raises(AudioError) as caught:
        check_samples(samples, "stream 7")
    assert_one_line(caught.value, "stream 7", part)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_empty(path: Path) -> None:
    path.touch()


def make_text(path: Path) -> None:
    path.write_text("This is no audio.\n" * 100)


def make_truncated(path: Path) -> None:
    whole = write_audio(path, noise(3 * RATE_HZ)).read_bytes()
    path.write_bytes(whole[: len(whole) // 3])


def make_without_its_end(path: Path) -> None:
    path.write_bytes(write_audio(path, noise(RATE_HZ)).read_bytes()[:-4])


def make_cut_in_header(path: Path) -> None:
    path.write_bytes(wav_bytes(36, 0, 0)[:30])


def make_without_samples(path: Path) -> None:
    write_audio(path, noise(0))


def make_nan(path: Path) -> None:
    write_audio(path, np.array([0, np.nan, 0], np.float32), subtype="FLOAT")


def make_infinite(path: Path) -> None:
    write_audio(path, np.array([0, np.inf, 0], np.float32), subtype="FLOAT")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_flac_of_unknown_length(path: Path) -> None:
    content = bytearray(write_audio(path, noise(RATE_HZ)).read_bytes())
    content[21] &= 0xF0  # the count of samples is the last 36 bits of bytes 18 to 25
    content[22:26] = bytes(4)
    path.write_bytes(content)


def make_damaged_flac(path: Path) -> None:
    whole = write_audio(path, noise(3 * RATE_HZ)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@both_readers
@pytest.mark.parametrize(
    ("name", "make", "part"),
    [
        ("missing.wav", lambda path: None, "no such file"),
        ("folder.wav", make_folder, "got a folder"),
        ("empty.wav", make_empty, "an empty file"),
        ("text.wav", make_text, "not readable as audio"),
        ("headerless.raw", make_text, "not readable as audio"),
        ("truncated.wav", make_truncated, "truncated: 64030 of 96036 bytes are missing"),
        ("two_samples_short.wav", make_without_its_end, "truncated"),
        ("header.wav", make_cut_in_header, "not readable as audio"),
        ("nothing.wav", make_without_samples, "no samples"),
        ("nan.wav", make_nan, "finite"),
        ("infinite.wav", make_infinite, "finite"),
        ("damaged.flac", make_damaged_flac, "damaged"),
        ("endless.flac", make_flac_of_unknown_length, "does not say how long it is"),
        ("pipe.wav", make_pipe, "listen --source -"),
    ],
)
def test_unusable_audio_is_one_line_that_names_the_file(
    read_file: Read, name: str, make: Callable[[Path], None], part: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(AudioError) as caught:
        read_file(tmp_path / name, RATE_HZ)
    assert_one_line(caught.value, str(tmp_path / name), part)


NAMED = ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX")
"""The formats of AUDIO_SUFFIXES, as libsndfile calls them."""
WRITTEN = [
    (name, subtype)
    for name in NAMED
    for subtype in sorted(soundfile.available_subtypes(name))
    if not subtype.startswith(("DWVW", "MPEG")) or (name, subtype) == ("MP3", "MPEG_LAYER_III")  # others it only lists
]


@pytest.mark.parametrize(("name", "subtype"), WRITTEN)
def test_every_kind_that_is_written_is_read_whole(name: str, subtype: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "whole", noise(2 * RATE_HZ), RATE_HZ, format=name, subtype=subtype)
    assert 2 * RATE_HZ <= len(read(tmp_path / "whole", RATE_HZ)) <= 2.3 * RATE_HZ  # some write whole packets only


@pytest.mark.parametrize("n_missing", [100, 5000])
@pytest.mark.parametrize(("name", "subtype"), WRITTEN)
def test_every_kind_is_refused_when_truncated(name: str, subtype: str, n_missing: int, tmp_path: Path) -> None:
    path = tmp_path / "truncated"
    soundfile.write(path, noise(2 * RATE_HZ), RATE_HZ, format=name, subtype=subtype)
    path.write_bytes(path.read_bytes()[:-n_missing])
    with pytest.raises(AudioError) as caught:
        read_by_blocks(path, RATE_HZ)
    assert_one_line(caught.value, str(path))


def test_an_mp3_that_does_not_say_its_length_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bare.mp3"
    content = write_audio(path, sine(440, 2.0)).read_bytes().replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
    path.write_bytes(content[:-1000])
    assert len(read(path, RATE_HZ)) > 0


def test_the_length_that_an_mp3_states_is_found_behind_its_tag(tmp_path: Path) -> None:
    path = tmp_path / "tagged.mp3"
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 44]) + b"\x00" * 300
    content = tag + write_audio(path, noise(2 * RATE_HZ)).read_bytes()
    path.write_bytes(content)
    assert len(read(path, RATE_HZ)) == 2 * RATE_HZ
    path.write_bytes(content[:-1000])
    with pytest.raises(AudioError, match=r"truncated: its last \d\.\d\d s"):
        read(path, RATE_HZ)


@both_readers
@pytest.mark.parametrize(
    ("suffix", "rate_hz", "n_channels", "subtype", "duration_s"),
    [
        (".wav", 16000, 1, "PCM_16", 1.0),
        (".wav", 16000, 8, "PCM_16", 1.0),
        (".wav", 8000, 1, "PCM_16", 1.0),
        (".wav", 192000, 2, "PCM_16", 1.0),
        (".wav", 44100, 2, "PCM_24", 2.3),
        (".wav", 16000, 1, "PCM_U8", 1.0),
        (".wav", 48000, 1, "FLOAT", 1.0),
        (".wav", 48000, 1, "DOUBLE", 1.0),
        (".wav", 16000, 1, "PCM_16", 0.05),
        (".wav", 44100, 1, "PCM_16", 0.05),
        (".flac", 44100, 2, "PCM_16", 1.0),
        (".ogg", 48000, 2, "VORBIS", 1.0),
    ],
)
def test_a_tone_is_read_from_every_kind_of_file(
    read_file: Read, suffix: str, rate_hz: int, n_channels: int, subtype: str, duration_s: float, tmp_path: Path
) -> None:
    levels = np.linspace(0.5, 1.5, n_channels) if n_channels > 1 else np.ones(1)  # their mean is 1
    samples = (sine(1000, duration_s, rate_hz)[:, None] * levels).astype(np.float32)
    found = read_file(write_audio(tmp_path / f"tone{suffix}", samples, rate_hz, subtype), RATE_HZ)
    expected = sine(1000, duration_s)
    assert found.dtype == np.float32
    assert abs(len(found) - len(expected)) <= 1
    middle = slice(200, len(expected) - 200)  # the edges ring where a rate was changed
    np.testing.assert_allclose(found[middle], expected[middle], atol=0.05 if subtype == "VORBIS" else 0.01)


@both_readers
@pytest.mark.parametrize("riff_size", PIPE_SIZES)
@pytest.mark.parametrize("data_size", [*PIPE_SIZES, 0x7FFFFFFF - 36])
def test_a_wav_that_went_through_a_pipe_is_read_whole(
    read_file: Read, riff_size: int, data_size: int, tmp_path: Path
) -> None:
    path = tmp_path / "pipe.wav"
    path.write_bytes(wav_bytes(riff_size, data_size, 12345))
    np.testing.assert_array_equal(read_file(path, RATE_HZ), from_int16(to_int16(noise(12345))))


def test_find_audio_takes_a_file_or_all_below_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b.wav", "deep/er/a.FLAC", "c.txt", "a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert find_audio(tmp_path) == [tmp_path / name for name in ("a.wav", "b.wav", "deep/er/a.FLAC")]
    assert find_audio(tmp_path / "c.txt") == [tmp_path / "c.txt"]


def test_find_audio_refuses_a_folder_without_audio(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(AudioError) as caught:
        find_audio(tmp_path)
    assert_one_line(caught.value, str(tmp_path), "no audio")


def resample(blocks: list[Samples], from_hz: int) -> Samples:
    resampler = Resampler(from_hz, RATE_HZ)
    parts = [resampler.push(block) for block in blocks]
    return np.concatenate([*parts, resampler.push(noise(0), last=True)])


@given(rate_hz=st.sampled_from([8000, 16000, 44100, 48000, 192000]), places=cuts(30000))
def test_resampling_does_not_depend_on_the_blocks(rate_hz: int, places: list[int]) -> None:
    samples = noise(30000)
    np.testing.assert_array_equal(resample(cut(samples, places), rate_hz), resample([samples], rate_hz))


@pytest.mark.parametrize("n_samples", [1, 100, 44100, 100001])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000, 192000])
def test_resampling_keeps_the_duration(rate_hz: int, n_samples: int) -> None:
    assert abs(len(resample([noise(n_samples)], rate_hz)) - n_samples * RATE_HZ / rate_hz) <= 1


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000, 192000])
def test_a_resampled_tone_keeps_its_frequency_level_and_place(rate_hz: int) -> None:
    found = resample(every(1000, sine(1000, 1.0, rate_hz)), rate_hz)
    np.testing.assert_allclose(found[200:-200], sine(1000, 1.0)[200:-200], atol=1e-4)


def test_a_tone_above_the_new_range_is_removed_not_folded() -> None:
    assert np.abs(resample([sine(9500, 1.0, 48000)], 48000)[200:-200]).max() < 1e-3


@pytest.mark.parametrize(("amplitude", "expected_db"), [(1.0, 0.0), (0.1, -20.0), (0.0, -120.0)])
def test_the_level_is_in_db_of_full_scale(amplitude: float, expected_db: float) -> None:
    assert rms_db(np.full(100, amplitude, dtype=np.float32)) == pytest.approx(expected_db, abs=1e-3)
    assert rms_db(np.zeros(0, dtype=np.float32)) == -120
