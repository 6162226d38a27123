"""Front-ends: their shape, that they depend on their own samples alone, and two oracles for their numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from numpy.typing import NDArray

from speechrnn.model.features import LOG_FLOOR, FeatureNorm, build_front_end
from speechrnn.spec import LogMel, Mfcc
from tests import made_data

RATE_HZ = 16000
Floats = NDArray[np.float64]
Oracle = Callable[[Mfcc | LogMel, NDArray[np.float32]], Floats]
FRONT_ENDS = {
    "mfcc": Mfcc(),
    "mfcc_small": Mfcc(n_mels=40, n_coefficients=13, frame_ms=25.0, hop_ms=12.5, f_min_hz=60.0, f_max_hz=4000.0),
    "log_mel": LogMel(),
    "log_mel_small": LogMel(n_mels=40, frame_ms=32.0, hop_ms=20.0, f_min_hz=0.0, f_max_hz=8000.0),
}
every_front_end = pytest.mark.parametrize("spec", FRONT_ENDS.values(), ids=FRONT_ENDS)


def frames(spec: Mfcc | LogMel, samples: torch.Tensor) -> torch.Tensor:
    """Frames [B, N, F] of samples [B, T]."""
    result: torch.Tensor = build_front_end(spec, RATE_HZ)(samples)
    return result


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """Equality but for rounding: matrix products of other sizes sum in another order."""
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-5)


def speech(n_samples: int = RATE_HZ, seed: int = 0) -> torch.Tensor:
    """Made words and hiss [1, n_samples]."""
    samples, _ = made_data.stream(["yes", "zero", "no"], 0.1, np.random.default_rng(seed))
    return torch.from_numpy(np.resize(samples, n_samples))[None]


@every_front_end
@pytest.mark.parametrize("n_samples", [512, 513, 671, 672, 16000, 23457])
def test_the_shape_is_what_the_spec_says(spec: Mfcc | LogMel, n_samples: int) -> None:
    shape = frames(spec, torch.zeros(3, n_samples)).shape
    assert shape == (3, spec.n_frames(n_samples, RATE_HZ), spec.n_features)


@pytest.mark.parametrize(
    ("spec", "n_samples", "expected"),
    [
        (Mfcc(), 16000, 97),  # 1 + (16000 - 512) // 160
        (Mfcc(), 512, 1),
        (Mfcc(), 511, 0),
        (Mfcc(), 0, 0),
        (LogMel(frame_ms=32.0, hop_ms=20.0), 16000, 49),  # 1 + (16000 - 512) // 320
        (LogMel(frame_ms=33.0), 1183, 1),  # 528 samples, a transform of 1024
        (LogMel(frame_ms=33.0), 1184, 2),
    ],
)
def test_the_number_of_frames_by_hand(spec: Mfcc | LogMel, n_samples: int, expected: int) -> None:
    assert spec.n_frames(n_samples, RATE_HZ) == expected


@every_front_end
@pytest.mark.parametrize("n_samples", [512, 3000, 9999])
def test_frames_of_a_prefix_are_the_prefix_of_the_frames(spec: Mfcc | LogMel, n_samples: int) -> None:
    prefix = frames(spec, speech()[:, :n_samples])
    assert_same(frames(spec, speech())[:, : prefix.shape[1]], prefix)


@every_front_end
def test_a_frame_reads_its_own_samples_only(spec: Mfcc | LogMel) -> None:
    n_fft, hop = spec.n_fft(RATE_HZ), spec.hop_samples(RATE_HZ)
    samples = speech()
    noisy = torch.ones_like(samples)
    noisy[:, 10 * hop : 10 * hop + n_fft] = samples[:, 10 * hop : 10 * hop + n_fft]
    assert_same(frames(spec, noisy)[:, 10], frames(spec, samples)[:, 10])


@every_front_end
def test_a_loud_batch_mate_changes_nothing(spec: Mfcc | LogMel) -> None:
    faint = 1e-3 * speech()
    loud = speech(seed=1) / speech(seed=1).abs().max()
    assert_same(frames(spec, torch.cat([faint, loud]))[:1], frames(spec, faint))


FULL_SCALE = {
    "silence": torch.zeros(1, RATE_HZ),
    "highest": torch.ones(1, RATE_HZ),
    "lowest": -torch.ones(1, RATE_HZ),
    "square": torch.tensor([1.0, -1.0]).repeat(RATE_HZ // 2)[None],
    "noise": torch.rand(1, RATE_HZ, generator=torch.Generator().manual_seed(0)) * 2 - 1,
}


@every_front_end
@pytest.mark.parametrize("samples", FULL_SCALE.values(), ids=FULL_SCALE)
def test_frames_are_finite_float32_at_either_end_of_the_scale(spec: Mfcc | LogMel, samples: torch.Tensor) -> None:
    result = frames(spec, samples)
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert result.abs().max() < 200


def test_silence_lies_on_the_floor() -> None:
    floor = np.log(LOG_FLOOR)
    torch.testing.assert_close(frames(LogMel(), FULL_SCALE["silence"]), torch.full((1, 97, 80), floor))
    mfcc = frames(Mfcc(), FULL_SCALE["silence"])
    torch.testing.assert_close(mfcc[..., 0], torch.full((1, 97), floor * np.sqrt(80)))
    torch.testing.assert_close(mfcc[..., 1:], torch.zeros(1, 97, 39), rtol=0, atol=1e-4)


@every_front_end
@pytest.mark.parametrize("n_samples", [0, 1, 511])
def test_audio_without_one_whole_frame_is_refused_not_padded(spec: Mfcc | LogMel, n_samples: int) -> None:
    with pytest.raises(RuntimeError, match=r"n_fft|0 elements"):
        frames(spec, torch.zeros(1, n_samples))


def test_louder_audio_raises_every_log_power_alike() -> None:
    quiet = frames(LogMel(), 0.1 * FULL_SCALE["noise"])
    loud = frames(LogMel(), FULL_SCALE["noise"])
    torch.testing.assert_close(loud - quiet, torch.full_like(loud, 2 * np.log(10)), rtol=0, atol=1e-2)


@every_front_end
def test_gains_of_bands_are_added_to_frames_as_their_cosine_transform(spec: Mfcc | LogMel) -> None:
    gains = np.random.default_rng(0).normal(0, 1, (3, spec.n_mels)).astype(np.float32)
    expected = scipy.fft.dct(gains, norm="ortho")[:, : spec.n_features] if isinstance(spec, Mfcc) else gains
    found = build_front_end(spec, RATE_HZ).from_log_mel(torch.from_numpy(gains)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Oracle 1: librosa


def librosa_frames(spec: Mfcc | LogMel, samples: NDArray[np.float32]) -> Floats:
    """The same frames [N, F] by librosa."""
    import librosa

    power = librosa.feature.melspectrogram(
        y=samples,
        sr=RATE_HZ,
        n_fft=spec.n_fft(RATE_HZ),
        win_length=spec.frame_samples(RATE_HZ),
        hop_length=spec.hop_samples(RATE_HZ),
        n_mels=spec.n_mels,
        fmin=spec.f_min_hz,
        fmax=spec.f_max_hz,
        center=False,
        power=2.0,
        htk=False,
        norm=None,
    )
    log_power = np.log(power + LOG_FLOOR)
    if isinstance(spec, Mfcc):
        log_power = librosa.feature.mfcc(S=log_power, n_mfcc=spec.n_coefficients, dct_type=2, norm="ortho")
    return np.asarray(log_power.T, dtype=np.float64)


# Oracle 2: from the definitions, with SciPy's transforms only


def slaney_mel(frequency_hz: Floats) -> Floats:
    """The Auditory Toolbox scale: 200/3 Hz per mel up to 1 kHz, then 27 mels per factor of 6.4."""
    above = 15 + 27 * np.log(np.maximum(frequency_hz, 1000) / 1000) / np.log(6.4)
    return np.where(frequency_hz < 1000, frequency_hz * 3 / 200, above)


def triangles(spec: Mfcc | LogMel) -> Floats:
    """Mel bands [n_mels, n_fft / 2 + 1], each rising from the middle of the last to 1 and falling to the next."""
    fine_hz = np.linspace(0, RATE_HZ / 2, 2_000_001)
    low, high = slaney_mel(np.array([spec.f_min_hz, spec.f_max_hz]))
    edges_hz = np.interp(np.linspace(low, high, spec.n_mels + 2), slaney_mel(fine_hz), fine_hz)
    bins_hz = np.arange(spec.n_fft(RATE_HZ) // 2 + 1) * RATE_HZ / spec.n_fft(RATE_HZ)
    return np.array([np.interp(bins_hz, edges_hz[i : i + 3], [0, 1, 0]) for i in range(spec.n_mels)])


def scipy_frames(spec: Mfcc | LogMel, samples: NDArray[np.float32]) -> Floats:
    """The same frames [N, F] by a transform of each stretch of samples in turn."""
    n_fft, length = spec.n_fft(RATE_HZ), spec.frame_samples(RATE_HZ)
    window = np.zeros(n_fft)
    start = (n_fft - length) // 2
    window[start : start + length] = scipy.signal.get_window("hann", length)
    stretches = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), n_fft)
    spectrum = scipy.fft.rfft(stretches[:: spec.hop_samples(RATE_HZ)] * window)
    log_power = np.log(np.abs(spectrum) ** 2 @ triangles(spec).T + LOG_FLOOR)
    if isinstance(spec, Mfcc):
        return np.asarray(scipy.fft.dct(log_power, type=2, norm="ortho")[:, : spec.n_coefficients])
    return log_power


@every_front_end
@pytest.mark.parametrize("oracle", [librosa_frames, scipy_frames])
@pytest.mark.parametrize("level", [1.0, 1e-3])
@pytest.mark.slow
def test_two_other_programs_compute_the_same_numbers(spec: Mfcc | LogMel, oracle: Oracle, level: float) -> None:
    samples = level * speech()
    expected = oracle(spec, samples[0].numpy())
    np.testing.assert_allclose(frames(spec, samples)[0].numpy(), expected, rtol=1e-4, atol=1e-3)


# Normalisation


def test_normalised_training_data_has_zero_mean_and_unit_variance() -> None:
    data = torch.randn(20, 50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.1, 3.0])
    data = data + torch.tensor([0.0, 100.0, -5.0, 1.0])
    norm = FeatureNorm(4)
    norm.fit(data)
    flat = norm(data).reshape(-1, 4)
    torch.testing.assert_close(flat.mean(0), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(flat.std(0), torch.ones(4), rtol=1e-4, atol=0)


def test_a_constant_feature_becomes_zero_and_stays_finite_when_it_moves() -> None:
    norm = FeatureNorm(2)
    norm.fit(torch.full((3, 10, 2), 7.0))
    torch.testing.assert_close(norm(torch.full((1, 5, 2), 7.0)), torch.zeros(1, 5, 2))
    assert torch.isfinite(norm(torch.full((1, 5, 2), 9.0))).all()


def test_the_statistics_are_kept_with_the_weights_and_not_trained() -> None:
    norm = FeatureNorm(3)
    norm.fit(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))
    other = FeatureNorm(3)
    other.load_state_dict(norm.state_dict())
    torch.testing.assert_close(other(torch.ones(1, 1, 3)), norm(torch.ones(1, 1, 3)))
    assert list(norm.parameters()) == []
