"""Mixing, checking and resampling of audio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechrnn.audio import LiveMixer, Mixer, Resampler, Samples, check_samples, from_int16, rms_db, to_int16, to_mono
from speechrnn.errors import AudioError
from tests.helpers import RATE_HZ, assert_one_line, cut, cuts, every, noise, sine


def stereo(degrees: float, n_samples: int) -> NDArray[np.float32]:
    """Noise [T, 2] whose channels correlate as the cosine of an angle."""
    one, other = noise(n_samples), noise(2 * n_samples)[n_samples:]
    angle = np.radians(degrees)
    return np.stack([one, np.float32(np.cos(angle)) * one + np.float32(np.sin(angle)) * other], axis=1)


def mixed(blocks: list[NDArray[np.float32]]) -> Samples:
    mixer = Mixer(1000, 2)
    return np.concatenate([*map(mixer.push, blocks), mixer.finish()])


@given(places=cuts(5500))
def test_mixing_does_not_depend_on_the_blocks(places: list[int]) -> None:
    samples = np.concatenate([stereo(degrees, 1100) for degrees in (0, 180, 90, 180, 30)])
    np.testing.assert_array_equal(mixed(np.split(samples, places)), mixed([samples]))


@pytest.mark.parametrize(("degrees", "is_mean"), [(0, True), (90, True), (120, True), (160, False), (180, False)])
def test_the_mean_is_taken_unless_the_channels_cancel_each_other(degrees: float, is_mean: bool) -> None:
    samples = stereo(degrees, 2500)
    np.testing.assert_array_equal(mixed([samples]), to_mono(samples) if is_mean else samples[:, 0])


@given(places=cuts(5000))
def test_live_each_second_is_mixed_as_the_one_before_asks_for_however_it_is_cut(places: list[int]) -> None:
    samples = np.concatenate([stereo(degrees, 1000) for degrees in (0, 180, 180, 0, 0)])
    mixer = LiveMixer(1000)
    live = np.concatenate([mixer.push(block) for block in np.split(samples, places)])
    expected = [to_mono(samples[:2000]), samples[2000:4000, 0], to_mono(samples[4000:])]
    np.testing.assert_array_equal(live, np.concatenate(expected))
    assert mixer.has_cancelled


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
