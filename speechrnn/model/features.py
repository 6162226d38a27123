"""Front-ends: waveform [B, T] to frames [B, N, F], each frame a function of its own samples alone.

Knows nothing of labels, networks or files. torchaudio's defaults would make a frame depend on its neighbours
(`center=True` reflects samples at the edges) and on the loudest value of the batch (a dB floor relative to it);
`center=False` and `log_mels=True` remove both.
"""

from __future__ import annotations

import copy
import math

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


class PowerSpectrogram(torchaudio.transforms.Spectrogram):  # type: ignore[misc]
    """torchaudio's, with the power from both parts directly; by the absolute value it takes half as long again."""

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [B, T] to powers [B, n_fft / 2 + 1, N]."""
        spectrum = super().forward(samples)
        power: Tensor = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        return power


def _use_power_spectrogram(mel: torchaudio.transforms.MelSpectrogram) -> None:
    n_fft, length, hop = mel.spectrogram.n_fft, mel.spectrogram.win_length, mel.spectrogram.hop_length
    mel.spectrogram = PowerSpectrogram(n_fft, length, hop, power=None, center=False)


class MfccFrames(nn.Module):
    """Mel-frequency cepstral coefficients by `torchaudio.transforms.MFCC`, with an absolute floor in the logarithm."""

    def __init__(self, spec: Mfcc, sample_rate_hz: int) -> None:
        super().__init__()
        self.mfcc = torchaudio.transforms.MFCC(
            sample_rate_hz, spec.n_coefficients, log_mels=True, melkwargs=_mel_options(spec, sample_rate_hz)
        )
        _use_power_spectrogram(self.mfcc.MelSpectrogram)

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [B, T] in [-1, 1] to coefficients [B, N, n_coefficients]."""
        coefficients: Tensor = self.mfcc(samples)
        return coefficients.transpose(1, 2)

    def from_log_mel(self, log_mels: Tensor) -> Tensor:
        """Logarithms of mel powers [..., n_mels] as they are in frames [..., F]."""
        coefficients: Tensor = log_mels @ self.mfcc.dct_mat
        return coefficients


class LogMelFrames(nn.Module):
    """Natural logarithm of the mel power spectrum, with the floor that torchaudio's MFCC adds under its logarithm."""

    def __init__(self, spec: LogMel, sample_rate_hz: int) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(sample_rate_hz, **_mel_options(spec, sample_rate_hz))
        _use_power_spectrogram(self.mel)

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [B, T] in [-1, 1] to log powers [B, N, n_mels]."""
        mel: Tensor = self.mel(samples)
        return torch.log(mel + LOG_FLOOR).transpose(1, 2)

    def from_log_mel(self, log_mels: Tensor) -> Tensor:
        """Logarithms of mel powers [..., n_mels] as they are in frames [..., F]."""
        return log_mels


def build_front_end(spec: Mfcc | LogMel, sample_rate_hz: int) -> MfccFrames | LogMelFrames:
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


class FoldedSpectrogram(nn.Module):
    """The power spectrum of `torchaudio.transforms.Spectrogram` by matrix products: the form for export.

    About the centre of a periodic Hann window the real part of the spectrum is the cosine transform of the frame's
    even part, the imaginary part the sine transform of its odd part: half the products of a plain DFT, and several
    times faster than the STFT operator of ONNX Runtime. The tables are computed in the graph, not stored.
    """

    window: Tensor

    def __init__(self, spectrogram: torchaudio.transforms.Spectrogram) -> None:
        super().__init__()
        self.n_fft: int = spectrogram.n_fft
        self.hop: int = spectrogram.hop_length
        self.half_window: int = spectrogram.win_length // 2
        self.register_buffer("window", spectrogram.window[self.half_window :].clone())

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [B, T] to powers [B, n_fft / 2 + 1, N]."""
        n_frames = 1 + (samples.shape[1] - self.n_fft) // self.hop
        centre = self.n_fft // 2
        after = _frames(samples[:, centre:], self.half_window, self.hop, n_frames)
        before = _frames(samples[:, centre - self.half_window + 1 :], self.half_window, self.hop, n_frames).flip(2)
        offset, bin_ = torch.arange(self.half_window), torch.arange(self.n_fft // 2 + 1)
        phase = offset.unsqueeze(1) * bin_ % self.n_fft * (2 * torch.pi / self.n_fft)
        weight = (self.window * torch.where(offset == 0, 0.5, 1.0)).unsqueeze(1)  # the centre is in both halves
        real, imaginary = (after + before) @ (phase.cos() * weight), (after - before) @ (phase.sin() * weight)
        power: Tensor = real * real + imaginary * imaginary
        return power.transpose(1, 2)


def fold_spectrograms(net: nn.Module) -> nn.Module:
    """A copy of a network in which every spectrogram with a window of even length is in its form for export."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, torchaudio.transforms.MelSpectrogram) and module.spectrogram.win_length % 2 == 0:
            module.spectrogram = FoldedSpectrogram(module.spectrogram)
    return net


def _frames(samples: Tensor, length: int, hop: int, n_frames: int) -> Tensor:
    """Overlapping frames [B, N, length] of samples [B, T], from blocks that divide both length and hop."""
    block = math.gcd(length, hop)
    step = hop // block
    n_blocks = length // block + (n_frames - 1) * step
    blocks = samples[:, : n_blocks * block].reshape(samples.shape[0], n_blocks, block)
    return torch.cat([blocks[:, i : i + (n_frames - 1) * step + 1 : step] for i in range(length // block)], dim=2)
