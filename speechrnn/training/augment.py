"""Waveform to waveform and frames to frames, whole batches at once on the training device.

Drawing and applying are apart: `draw` turns random numbers into one small table, `apply` is a pure function of
samples and table. No generator is needed here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from speechrnn.audio import SPEECH_FRAME_MS, SPEECH_RANGE_DB
from speechrnn.config import Augment

_DRAWN = (
    "rate", "shift", "position", "hidden", "edge", "kind", "silence_gain", "gain",
    "room", "which_room", "noise", "noise_start", "noise_snr", "mixup", "mixup_weight",
)  # fmt: skip
"""The random numbers of a context, without its filter and its masks; their order is a part of what a seed means."""
_N_COSINES = 5  # that a filter is made of


class Draws(NamedTuple):
    """The augmentation of each context of a batch."""

    shift: Tensor
    """Samples by which a context is moved later [B]."""
    rate: Tensor
    """Factor of its speed [B]."""
    room: Tensor
    """Index of its room [B]; -1 for none."""
    gain: Tensor
    """Factor of its samples [B]."""
    noise_start: Tensor
    """First sample of its noise [B]; -1 for none."""
    noise_snr_db: Tensor
    """Ratio of speech to that noise in dB [B]."""
    cut: Tensor
    """Whether more than half of its word lies outside [B]."""
    partner: Tensor
    """Index of the context that it is mixed with [B]."""
    weight: Tensor
    """Its own part in that mixture [B]; 1 without."""
    filter_db: Tensor
    """Amplitudes in dB of the cosines of its filter [B, cosines]."""
    masks: Tensor
    """Random numbers in [0, 1) of `mask_frames` [B, 2 x masks]."""


def n_uniform(config: Augment) -> int:
    """How many random numbers each context takes."""
    return len(_DRAWN) + _N_COSINES + 2 * (config.n_time_masks + config.n_feature_masks)


def draw(
    config: Augment,
    uniform: Tensor,
    *,
    word_start: Tensor,
    word_end: Tensor,
    is_silence: Tensor,
    context_samples: int,
    n_noise_samples: int,
    n_rooms: int,
    sample_rate_hz: int,
) -> Draws:
    """An augmentation for each context, from random numbers in [0, 1) [B, n_uniform] and the extent of its word [B].

    Each row is a function of its own numbers, so a part of a batch gets what it would have got in the whole.
    """
    u = dict(zip(_DRAWN, uniform[:, : len(_DRAWN)].unbind(1), strict=True))

    def between(name: str, low: float, high: float) -> Tensor:
        return low + (high - low) * u[name]

    rate = 1 + between("rate", -config.resample, config.resample)
    middle = context_samples / 2
    start = middle + (word_start - middle) / rate  # where the word stands once it is resampled about the middle
    end = middle + (word_end - middle) / rate
    shift = between("shift", -config.shift_ms, config.shift_ms) * sample_rate_hz / 1000
    anywhere = -start + u["position"] * (context_samples - end + start).clamp(min=0)
    hidden = between("hidden", 0.55, 0.9) * (end - start)
    off_edge = torch.where(u["edge"] < 0.5, -start - hidden, context_samples - end + hidden)
    has_word = ~is_silence & (word_end > word_start)
    cut = has_word & (u["kind"] < config.truncation_rate)
    placed = has_word & ~cut & (u["kind"] < config.truncation_rate + config.placement_rate)
    shift = torch.where(cut, off_edge, torch.where(placed, anywhere, shift))
    gain_db = torch.where(
        is_silence, between("silence_gain", *config.silence_gain_db), between("gain", *config.gain_db)
    )
    in_room = ~is_silence & (u["room"] < config.room_rate) & (n_rooms > 0)
    room = (u["which_room"] * n_rooms).long().clamp(max=max(0, n_rooms - 1))
    noisy = ~is_silence & (u["noise"] < config.noise_rate) & (n_noise_samples >= context_samples)
    noise_start = (u["noise_start"] * max(0, n_noise_samples - context_samples)).long()
    noise_snr_db = between("noise_snr", *config.noise_snr_db)
    mixed = u["mixup"] < config.mixup_rate
    neighbour = torch.arange(len(uniform)) ^ 1  # batches are shuffled: the row beside is as good as any
    return Draws(
        shift=shift.round(),
        rate=rate,
        room=torch.where(in_room, room, -1),
        gain=10 ** (gain_db / 20),
        noise_start=torch.where(noisy, noise_start, -1),
        noise_snr_db=noise_snr_db,
        cut=cut,
        partner=neighbour.clamp(max=len(uniform) - 1),
        weight=torch.where(mixed, between("mixup_weight", 0.5, 1), 1.0),
        filter_db=config.filter_db * (2 * uniform[:, len(_DRAWN) : len(_DRAWN) + _N_COSINES] - 1),
        masks=uniform[:, len(_DRAWN) + _N_COSINES :],
    )


def apply(samples: Tensor, draws: Draws, noise: Tensor, rooms: Tensor, sample_rate_hz: int) -> Tensor:
    """Samples [B, T] in [-1, 1] with all that was drawn done to them, in this order.

    They are resampled about their middle, shifted, put into one of the `rooms` [R, T''], mixed with noise [T'], scaled,
    mixed up with their partners (Zhang et al., 2018, arXiv 1710.09412) and clipped. The signal-to-noise ratio is that
    of the power of the speech frames and the mean power of the noise.
    """
    shifted = shift_and_resample(samples, draws.shift, draws.rate)
    rows = torch.nonzero(draws.room >= 0).squeeze(1)
    if len(rows):
        shifted[rows] = reverberate(shifted[rows], rooms[draws.room[rows]])
    rows = torch.nonzero(draws.noise_start >= 0).squeeze(1)
    if len(rows):
        cut = noise.unfold(0, samples.shape[1], 1)[draws.noise_start[rows]]
        speech_rms = speech_power(shifted[rows], sample_rate_hz).sqrt()
        noise_rms = cut.square().mean(1).sqrt().clamp(min=1e-6)
        gain = speech_rms / noise_rms * 10 ** (-draws.noise_snr_db[rows] / 20)
        shifted[rows] += cut * gain.unsqueeze(1)
    scaled = shifted.mul_(draws.gain.unsqueeze(1))
    rows = torch.nonzero(draws.weight < 1).squeeze(1)
    if len(rows):
        scaled[rows] = torch.lerp(scaled[draws.partner[rows]], scaled[rows], draws.weight[rows].unsqueeze(1))
    return scaled.clamp_(-1, 1)


def speech_power(samples: Tensor, sample_rate_hz: int) -> Tensor:
    """`audio.speech_power` of a batch: samples [B, T] to mean powers of their speech frames [B]."""
    size = SPEECH_FRAME_MS * sample_rate_hz // 1000
    frames = samples[:, : samples.shape[1] // size * size].reshape(len(samples), -1, size)
    powers = frames.square().mean(2)
    is_speech = powers >= powers.amax(1, keepdim=True) * 10 ** (-SPEECH_RANGE_DB / 10)
    power: Tensor = (powers * is_speech).sum(1) / is_speech.sum(1)
    return power


def reverberate(samples: Tensor, responses: Tensor) -> Tensor:
    """Samples [B, T] convolved with the response of a room [B, T''], their power kept."""
    size = samples.shape[1] + responses.shape[1]
    spectrum = torch.fft.rfft(samples, size).mul_(torch.fft.rfft(responses, size))
    wet: Tensor = torch.fft.irfft(spectrum, size)[:, : samples.shape[1]]
    power, wet_power = samples.square().mean(1, keepdim=True), wet.square().mean(1, keepdim=True)
    return wet.mul((power / wet_power.clamp(min=1e-12)).sqrt())


def shift_and_resample(samples: Tensor, shift: Tensor, rate: Tensor) -> Tensor:
    """Samples [B, T] moved later by `shift` samples [B] and read `rate` times as fast [B], zero outside.

    Between samples the value is interpolated linearly.
    """
    n_samples = samples.shape[1]
    time = torch.arange(n_samples, device=samples.device, dtype=torch.float32)
    middle = n_samples / 2
    source = (time - middle - shift.unsqueeze(1)).mul_(rate.unsqueeze(1)).add_(middle).clamp_(-1, n_samples)
    left = source.floor()
    fraction = source.sub_(left)
    padded = torch.nn.functional.pad(samples, (1, 2))
    index = left.long().add_(1)
    return torch.lerp(padded.gather(1, index), padded.gather(1, index.add_(1)), fraction)


def filter_gains(filter_db: Tensor, n_bands: int) -> Tensor:
    """Logarithms of the gain in power of each band [B, n_bands], as another microphone or room would give.

    They are smooth: the sum of cosines over the bands, the k-th of `filter_db[:, k - 1] / sqrt(k)` (dB). Added to
    frames, they move the floor of the logarithm, too, as no microphone would. The idea, not the form, is that of
    FilterAugment (Nam et al., 2022, arXiv 2110.03282).
    """
    orders = torch.arange(1, filter_db.shape[1] + 1, device=filter_db.device)
    positions = (torch.arange(n_bands, device=filter_db.device) + 0.5) / n_bands
    log_gains = filter_db * (math.log(10) / 10) / orders.sqrt()
    return log_gains @ torch.cos(math.pi * orders.unsqueeze(1) * positions)


def mask_frames(frames: Tensor, config: Augment, uniform: Tensor) -> Tensor:
    """SpecAugment (Park et al., 2019, arXiv 1904.08779) without warping: stretches of time and of features set to 0.

    Frames [B, N, F]; `uniform` in [0, 1) [B, 2 x masks] says where.
    """
    columns = iter(uniform.unsqueeze(2).unbind(1))
    for dimension, n_masks, max_length in (
        (1, config.n_time_masks, config.time_mask_frames),
        (2, config.n_feature_masks, config.feature_mask_size),
    ):
        size = frames.shape[dimension]
        index = torch.arange(size, device=frames.device)
        for _ in range(n_masks):
            length = next(columns) * max_length
            start = next(columns) * (size + length) - length  # over either edge, too
            masked = (index >= start) & (index < start + length)
            frames = frames.masked_fill(masked.unsqueeze(3 - dimension), 0.0)
    return frames
