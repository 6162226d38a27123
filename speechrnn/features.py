"""Front-ends: waveform [B, T] to frames [B, N, F], each frame a function of its own samples alone.

Knows nothing of labels, networks or files. torchaudio's defaults would make a frame depend on its neighbours
(`center=True` reflects samples at the edges) and on the loudest value of the batch (a dB floor relative to it);
`center=False` and `log_mels=True` remove both.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from speechrnn.spec import LogMel, Mfcc

LOG_FLOOR = 1e-6


def _mel_options(spec: Mfcc | LogMel, sample_rate_hz: int) -> dict[str, object]:
    return {
        "n_fft": spec.n_fft(sample_rate_hz),
        "win_length": spec.frame_samples(sample_rate_hz),
        "hop_length": spec.hop_samples(sample_rate_hz),
        "f_min": spec.f_min_hz,
        "f_max": spec.f_max_hz,
        "n_mels": spec.n_mels,
        "center": False,
        "mel_scale": "slaney",
    }


class MfccFrames(nn.Module):
    """Mel-frequency cepstral coefficients by `torchaudio.transforms.MFCC`, with an absolute floor in the logarithm."""

    def __init__(self, spec: Mfcc, sample_rate_hz: int) -> None:
        super().__init__()
        self.mfcc = torchaudio.transforms.MFCC(
            sample_rate_hz, spec.n_coefficients, log_mels=True, melkwargs=_mel_options(spec, sample_rate_hz)
        )

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [B, T] in [-1, 1] to coefficients [B, N, n_coefficients]."""
        coefficients: Tensor = self.mfcc(samples)
        return coefficients.transpose(1, 2)


class LogMelFrames(nn.Module):
    """Natural logarithm of the mel power spectrum, with the floor that torchaudio's MFCC adds under its logarithm."""

    def __init__(self, spec: LogMel, sample_rate_hz: int) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(sample_rate_hz, **_mel_options(spec, sample_rate_hz))

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [B, T] in [-1, 1] to log powers [B, N, n_mels]."""
        mel: Tensor = self.mel(samples)
        return torch.log(mel + LOG_FLOOR).transpose(1, 2)


def build_front_end(spec: Mfcc | LogMel, sample_rate_hz: int) -> nn.Module:
    """The front-end that a spec describes: a module from samples [B, T] to frames [B, N, F]."""
    if isinstance(spec, Mfcc):
        return MfccFrames(spec, sample_rate_hz)
    return LogMelFrames(spec, sample_rate_hz)


class FeatureNorm(nn.Module):
    """Scales each feature by the mean and standard deviation of the training data, kept as buffers."""

    mean: Tensor
    std: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B, N, F] to frames of zero mean and unit variance over the training data."""
        return (frames - self.mean) / self.std

    @torch.no_grad()
    def fit(self, frames: Tensor) -> None:
        """Set the statistics from frames [..., F] of training data."""
        flat = frames.reshape(-1, frames.shape[-1])
        self.mean.copy_(flat.mean(0))
        self.std.copy_(flat.std(0).clamp(min=1e-3))
