"""Augmentation: what is drawn is what is applied, what is off changes nothing, and words lie where they should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speechrnn import audio
from speechrnn.config import Augment
from speechrnn.training import augment
from speechrnn.training.augment import (
    Draws,
    draw,
    filter_gains,
    mask_frames,
    n_uniform,
    reverberate,
    shift_and_resample,
)

RATE_HZ = 16000
N = 16000  # samples of a context
NO_NOISE = torch.zeros(0)
NO_ROOMS = torch.zeros(0, N)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n_samples: int, level: float = 0.05, seed: int = 9) -> Tensor:
    return level * torch.randn(n_samples, generator=generator(seed))


def draws(n: int, **changes: Tensor) -> Draws:
    """Draws that change nothing, but for `changes`."""
    nothing = {
        "shift": torch.zeros(n),
        "rate": torch.ones(n),
        "room": torch.full((n,), -1),
        "gain": torch.ones(n),
        "noise_start": torch.full((n,), -1),
        "noise_snr_db": torch.zeros(n),
        "cut": torch.zeros(n, dtype=torch.bool),
        "partner": torch.arange(n),
        "weight": torch.ones(n),
        "filter_db": torch.zeros(n, 5),
        "masks": torch.zeros(n, 0),
    }
    return Draws(**(nothing | changes))


def drawn(
    config: Augment,
    start: Tensor,
    end: Tensor,
    *,
    seed: int = 0,
    n_noise: int = 0,
    n_rooms: int = 0,
    **changes: Tensor,
) -> Draws:
    """Draws for contexts whose words lie from `start` to `end` [B]."""
    arguments: dict[str, Any] = {"is_silence": torch.zeros(len(start), dtype=torch.bool)} | changes
    return draw(
        config,
        torch.rand(len(start), n_uniform(config), generator=generator(seed)),
        word_start=start,
        word_end=end,
        context_samples=N,
        n_noise_samples=n_noise,
        n_rooms=n_rooms,
        sample_rate_hz=RATE_HZ,
        **arguments,
    )


def apply(samples: Tensor, table: Draws, background: Tensor, rooms: Tensor = NO_ROOMS) -> Tensor:
    return augment.apply(samples, table, background, rooms, RATE_HZ)


def words(n: int, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts [n, N] that are 0.1 within a word of drawn place and length and 0 around it, with start and end."""
    start = torch.randint(2000, 7000, (n,), generator=generator(seed))
    end = start + torch.randint(2000, 8000, (n,), generator=generator(seed + 1))
    time = torch.arange(N)
    inside = (time >= start.unsqueeze(1)) & (time < end.unsqueeze(1))
    return 0.1 * inside.float(), start, end


# Shift and resampling


@pytest.mark.parametrize("shift", [0, 1, -1, 160, -7999, 15999, 16000, -20000])
def test_a_shift_moves_samples_exactly_and_leaves_zeros(shift: int) -> None:
    samples = noise(N)[None]
    moved = shift_and_resample(samples, torch.tensor([float(shift)]), torch.ones(1))
    expected = torch.zeros(1, N)
    if 0 <= shift < N:
        expected[:, shift:] = samples[:, : N - shift]
    elif -N < shift < 0:
        expected[:, :shift] = samples[:, -shift:]
    assert torch.equal(moved, expected)


def test_each_row_moves_by_its_own_shift() -> None:
    samples = noise(2 * N).view(2, N)
    moved = shift_and_resample(samples, torch.tensor([100.0, -50.0]), torch.ones(2))
    assert torch.equal(moved[0, 100:], samples[0, :-100])
    assert torch.equal(moved[1, :-50], samples[1, 50:])


@pytest.mark.parametrize("rate", [0.8, 0.95, 1.0, 1.1, 1.25])
def test_the_rate_multiplies_the_frequency(rate: float) -> None:
    sine = torch.sin(2 * math.pi * 500 * torch.arange(N) / RATE_HZ)[None]
    faster = shift_and_resample(sine, torch.zeros(1), torch.tensor([rate]))
    spectrum = torch.fft.rfft(faster[0, 2000:14000] * torch.hann_window(12000), n=16 * N).abs()
    assert float(spectrum.argmax()) / 16 == pytest.approx(500 * rate, abs=0.5)


@pytest.mark.parametrize("rate", [0.8, 1.25])
@pytest.mark.parametrize("shift", [0.0, 600.0])
def test_time_is_stretched_about_the_middle_before_it_is_shifted(rate: float, shift: float) -> None:
    samples = torch.zeros(1, N)
    samples[0, 9998:10003] = 1.0
    moved = shift_and_resample(samples, torch.tensor([shift]), torch.tensor([rate]))[0]
    centre = float((moved * torch.arange(N)).sum() / moved.sum())
    assert centre == pytest.approx(N / 2 + 2000 / rate + shift, abs=1)


# Applying what was drawn


@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_the_signal_to_noise_ratio_is_as_drawn(level: float) -> None:
    samples = level * words(4)[0]
    snr_db = torch.tensor([-5.0, 0.0, 10.0, 30.0])
    table = draws(4, noise_start=torch.tensor([0, 5, 1000, 3999]), noise_snr_db=snr_db, shift=torch.full((4,), 2000.0))
    clean = apply(samples, table._replace(noise_start=torch.full((4,), -1)), noise(20000))
    added = apply(samples, table, noise(20000)) - clean
    speech = torch.tensor([audio.speech_power(row.numpy(), RATE_HZ) for row in clean])
    measured_db = 10 * torch.log10(speech / added.square().mean(1))
    torch.testing.assert_close(measured_db, snr_db, rtol=0, atol=0.01)


def test_the_speech_power_of_a_batch_is_that_of_each_clip() -> None:
    samples, levels = words(6)[0], torch.tensor([1.0, 0.3, 0.11, 0.09, 1e-3, 0.0])
    samples += levels.unsqueeze(1) * noise(6 * N).view(6, N)
    samples[:, 1000:3000] *= 0.1
    expected = [audio.speech_power(row.numpy(), RATE_HZ) for row in samples]
    np.testing.assert_allclose(augment.speech_power(samples, RATE_HZ), expected, rtol=1e-5)
    half = torch.zeros(1, N)
    half[:, :3200] = 0.2  # ten whole frames
    assert float(augment.speech_power(half, RATE_HZ)) == pytest.approx(0.04)


def test_the_noise_begins_where_it_was_drawn() -> None:
    samples, background = words(1)[0], noise(20000)
    added = apply(samples, draws(1, noise_start=torch.tensor([1234])), background)[0] - samples[0]
    cut = background[1234 : 1234 + N]
    torch.testing.assert_close(added / added.norm(), cut / cut.norm(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("background", [torch.zeros(N), noise(N)], ids=["silent", "loud"])
@pytest.mark.parametrize("samples", [torch.zeros(1, N), noise(N)[None]], ids=["silent", "loud"])
def test_noise_stays_finite_where_either_side_is_silent(samples: Tensor, background: Tensor) -> None:
    table = draws(1, noise_start=torch.tensor([0]), noise_snr_db=torch.tensor([-20.0]))
    assert torch.isfinite(apply(samples, table, background)).all()


@pytest.mark.parametrize("gain_db", [-40.0, -6.0, 0.0, 6.0])
def test_the_gain_is_as_drawn(gain_db: float) -> None:
    samples, start, end = words(5)
    table = drawn(Augment(gain_db=(gain_db, gain_db)), start, end)
    power = apply(samples, table, NO_NOISE).square().mean(1) / samples.square().mean(1)
    torch.testing.assert_close(10 * power.log10(), torch.full((5,), gain_db), rtol=0, atol=1e-3)


def test_samples_are_clipped_to_full_scale() -> None:
    samples = noise(N, level=0.5)[None]
    result = apply(samples, draws(1, gain=torch.tensor([4.0])), NO_NOISE)
    assert torch.equal(result, (4 * samples).clamp(-1, 1))
    assert result.max() == 1
    assert result.min() == -1


def test_rows_that_get_no_noise_are_not_touched() -> None:
    samples = words(3)[0]
    table = draws(3, noise_start=torch.tensor([-1, 0, -1]))
    result = apply(samples, table, noise(N))
    assert torch.equal(result[::2], samples[::2])
    assert not torch.equal(result[1], samples[1])


def test_the_input_is_left_as_it_was() -> None:
    samples = words(3)[0]
    before = samples.clone()
    apply(samples, draws(3, noise_start=torch.zeros(3, dtype=torch.long), gain=torch.full((3,), 2.0)), noise(N))
    assert torch.equal(samples, before)


def test_everything_is_off_by_default() -> None:
    samples, start, end = words(20)
    samples += noise(20 * N).view(20, N)
    silent = torch.arange(20) % 4 == 0
    table = drawn(Augment(), start, end, n_noise=2 * N, n_rooms=3, is_silence=silent)
    assert torch.equal(apply(samples, table, noise(2 * N)), samples)
    assert not table.cut.any()
    assert (table.weight == 1).all()
    assert torch.equal(mask_frames(samples.view(20, 100, 160), Augment(), table.masks), samples.view(20, 100, 160))


# Rooms and mixing up


@pytest.mark.parametrize("delay", [0, 1, 4000])
def test_a_room_of_one_echo_delays_and_keeps_the_power(delay: int) -> None:
    samples, rooms = words(2)[0], torch.zeros(2, N)
    rooms[:, delay] = 0.3
    wet = reverberate(samples, rooms)
    expected = torch.zeros(2, N)
    expected[:, delay:] = samples[:, : N - delay]
    expected *= (samples.square().mean(1) / expected.square().mean(1)).sqrt().unsqueeze(1)
    torch.testing.assert_close(wet, expected, rtol=0, atol=1e-5)


def test_nothing_wraps_around_in_a_room() -> None:
    samples = torch.zeros(1, N)
    samples[0, -100:] = 0.1
    wet = reverberate(samples, noise(N)[None])
    assert wet[0, : N - 101].abs().max() < 1e-6


def test_only_rows_with_a_room_are_in_one() -> None:
    samples, rooms = words(3)[0], noise(2 * N).view(2, N)
    result = apply(samples, draws(3, room=torch.tensor([-1, 1, -1])), NO_NOISE, rooms)
    assert torch.equal(result[::2], samples[::2])
    torch.testing.assert_close(result[1:2], reverberate(samples[1:2], rooms[1:]))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_silent_samples_or_rooms_stay_finite(level: float) -> None:
    samples, rooms = level * words(1)[0], (1 - level) * noise(N)[None]
    assert torch.isfinite(reverberate(samples, rooms)).all()


def test_mixed_up_contexts_are_weighted_sums() -> None:
    samples = words(3)[0]
    table = draws(3, partner=torch.tensor([2, 0, 1]), weight=torch.tensor([1.0, 0.75, 0.5]))
    result = apply(samples, table, NO_NOISE)
    torch.testing.assert_close(result[0], samples[0])
    torch.testing.assert_close(result[1], 0.75 * samples[1] + 0.25 * samples[0])
    torch.testing.assert_close(result[2], 0.5 * samples[2] + 0.5 * samples[1])


def test_rooms_and_mixtures_are_drawn_in_their_rates() -> None:
    _, start, end = words(4000)
    silent = torch.arange(4000) % 4 == 0
    table = drawn(Augment(room_rate=0.3, mixup_rate=0.2), start, end, n_rooms=5, is_silence=silent)
    assert (table.room[silent] == -1).all()
    assert float((table.room[~silent] >= 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert set(table.room.tolist()) == {-1, 0, 1, 2, 3, 4}
    assert float((table.weight < 1).float().mean()) == pytest.approx(0.2, abs=0.03)
    assert table.weight.min() >= 0.5
    assert table.partner.tolist() == [row ^ 1 for row in range(4000)]


def test_the_last_of_an_odd_number_is_its_own_partner() -> None:
    _, start, end = words(3)
    assert drawn(Augment(mixup_rate=1.0), start, end).partner.tolist() == [1, 0, 2]


# Drawing


def visible(samples: Tensor, table: Draws) -> Tensor:
    """Fraction [B] of each word that is left in its context, in units of the word's length at its new rate."""
    n_before, n_after = ((rows > 0.05).sum(1) for rows in (samples, apply(samples, table, NO_NOISE)))
    return n_after * table.rate / n_before


@pytest.mark.parametrize("resample", [0.0, 0.2])
def test_cut_words_lie_mostly_outside_but_not_wholly(resample: float) -> None:
    samples, start, end = words(300)
    table = drawn(Augment(truncation_rate=1.0, resample=resample), start, end)
    assert table.cut.all()
    fraction = visible(samples, table)
    assert 0.09 < fraction.min() < 0.15
    assert 0.4 < fraction.max() < 0.46


def test_words_are_cut_off_at_either_edge() -> None:
    samples, start, end = words(300)
    result = apply(samples, drawn(Augment(truncation_rate=1.0), start, end), NO_NOISE)
    at_start, at_end = (result[:, 0] > 0.05), (result[:, -1] > 0.05)
    assert (at_start ^ at_end).all()
    assert 100 < at_start.sum() < 200


@pytest.mark.parametrize("resample", [0.0, 0.2])
def test_placed_words_lie_wholly_inside_and_everywhere(resample: float) -> None:
    samples, start, end = words(300)
    table = drawn(Augment(placement_rate=1.0, resample=resample, shift_ms=400), start, end)
    assert not table.cut.any()
    torch.testing.assert_close(visible(samples, table), torch.ones(300), rtol=0, atol=2e-3)
    result = apply(samples, table, NO_NOISE) > 0.05
    assert result[:, :1000].any(1).sum() > 10
    assert result[:, -1000:].any(1).sum() > 10


def test_rates_are_kept_and_words_that_are_not_cut_shift_a_little() -> None:
    _, start, end = words(4000)
    table = drawn(Augment(truncation_rate=0.2, placement_rate=0.3, shift_ms=10), start, end)
    assert float(table.cut.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert float((table.shift.abs() <= 160).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_contexts_without_a_word_are_neither_cut_nor_placed() -> None:
    nowhere = torch.zeros(50)
    table = drawn(Augment(truncation_rate=0.5, placement_rate=0.5, shift_ms=10), nowhere, nowhere)
    assert not table.cut.any()
    assert table.shift.abs().max() <= 160


def test_silence_is_never_cut_nor_mixed_and_has_a_gain_of_its_own() -> None:
    _, start, end = words(400)
    silent = torch.arange(400) % 2 == 0
    config = Augment(
        truncation_rate=0.5, placement_rate=0.5, noise_rate=1.0, gain_db=(-3.0, 3.0), silence_gain_db=(-60.0, -20.0)
    )
    table = drawn(config, start, end, n_noise=2 * N, is_silence=silent)
    gain_db = 20 * table.gain.log10()
    assert (table.noise_start[silent] == -1).all()
    assert (table.noise_start[~silent] >= 0).all()
    assert not table.cut[silent].any()
    assert (table.shift[silent] == 0).all()
    assert ((gain_db >= -60) & (gain_db <= -20))[silent].all()
    assert ((gain_db >= -3) & (gain_db <= 3))[~silent].all()


def test_draws_stay_in_their_ranges_and_use_them() -> None:
    _, start, end = words(4000)
    config = Augment(shift_ms=100, resample=0.15, gain_db=(-15.0, 5.0), noise_rate=0.5, noise_snr_db=(0.0, 35.0))
    table = drawn(config, start, end, n_noise=3 * N)
    noisy = table.noise_start[table.noise_start >= 0]
    for values, low, high in [
        (table.shift, -1600, 1600),
        (table.rate, 0.85, 1.15),
        (20 * table.gain.log10(), -15, 5),
        (table.noise_snr_db, 0, 35),
        (noisy, 0, 2 * N),
    ]:
        margin = (high - low) / 100
        assert low - 1e-4 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-4
    assert len(noisy) / 4000 == pytest.approx(0.5, abs=0.03)
    assert torch.equal(table.shift, table.shift.round())


@pytest.mark.parametrize(("n_noise", "expected"), [(0, False), (N - 1, False), (N, True)])
def test_noise_shorter_than_a_context_is_not_used(n_noise: int, expected: bool) -> None:
    samples, start, end = words(10)
    table = drawn(Augment(noise_rate=1.0), start, end, n_noise=n_noise)
    assert bool((table.noise_start >= 0).all()) is expected
    assert torch.isfinite(apply(samples, table, noise(n_noise))).all()


def test_the_same_seed_draws_the_same() -> None:
    _, start, end = words(50)
    config = Augment(shift_ms=100, resample=0.1, truncation_rate=0.2, gain_db=(-9.0, 9.0), noise_rate=0.5)
    first, again, other = (drawn(config, start, end, n_noise=2 * N, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.rate, other.rate)


def test_a_part_of_a_batch_gets_what_it_would_in_the_whole() -> None:
    _, start, end = words(8)
    config = Augment(shift_ms=100, resample=0.1, truncation_rate=0.2, noise_rate=0.5, room_rate=0.5, n_time_masks=2)
    uniform = torch.rand(8, n_uniform(config), generator=generator())

    def draw_rows(rows: slice) -> Draws:
        silent = torch.zeros(8, dtype=torch.bool)[rows]
        sizes: dict[str, Any] = {
            "context_samples": N,
            "n_noise_samples": 2 * N,
            "n_rooms": 3,
            "sample_rate_hz": RATE_HZ,
        }
        return draw(
            config, uniform[rows], word_start=start[rows], word_end=end[rows], is_silence=silent, **sizes
        )._replace(partner=torch.zeros(0))

    whole, part = draw_rows(slice(0, 8)), draw_rows(slice(4, 8))
    assert all(torch.equal(a[4:], b) for a, b in zip(whole, part, strict=True))


# Filters


def test_a_filter_is_the_sum_of_its_cosines() -> None:
    gains_db = 10 / math.log(10) * filter_gains(torch.tensor([[6.0, 0.0, 0.0], [0.0, 0.0, 3.0]]), n_bands=4)
    bands = [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    expected = [[6 * math.cos(math.pi * x) for x in bands], [3 / 3**0.5 * math.cos(3 * math.pi * x) for x in bands]]
    torch.testing.assert_close(gains_db, torch.tensor(expected))


def test_filters_are_drawn_within_their_bounds() -> None:
    start, end = torch.full((500,), 4000), torch.full((500,), 12000)
    table = drawn(Augment(filter_db=6.0), start, end)
    assert table.filter_db.abs().max() <= 6
    assert (table.filter_db.amin(0) < -5).all()
    assert (table.filter_db.amax(0) > 5).all()
    assert not drawn(Augment(), start, end).filter_db.any()


# Masks


def masked_by(frames: Tensor, config: Augment, seed: int = 0) -> Tensor:
    n_masks = config.n_time_masks + config.n_feature_masks
    return mask_frames(frames, config, torch.rand(len(frames), 2 * n_masks, generator=generator(seed)))


def runs(masked: Tensor) -> list[int]:
    """Lengths of the stretches of True in [N]."""
    text = "".join("x" if value else " " for value in masked.tolist())
    return [len(run) for run in text.split()]


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize(("n_masks", "longest"), [(1, 5), (2, 10), (3, 1), (1, 200)])
def test_masks_are_bounded_in_number_and_width(dimension: int, n_masks: int, longest: int) -> None:
    if dimension == 1:
        config = Augment(n_time_masks=n_masks, time_mask_frames=longest)
    else:
        config = Augment(n_feature_masks=n_masks, feature_mask_size=longest)
    frames = torch.ones(200, 60, 40)
    masked = masked_by(frames, config) == 0
    other = 3 - dimension
    assert torch.equal(masked.any(other), masked.all(other))  # whole frames or whole features
    stretches = [runs(row) for row in masked.any(other)]
    assert max(map(len, stretches)) <= n_masks
    assert max(map(sum, stretches)) <= n_masks * longest
    assert sum(map(sum, stretches)) > 0
    assert len({tuple(row) for row in masked.any(other).tolist()}) > 10  # each row has its own


def test_masks_come_from_their_numbers_and_leave_the_input_alone() -> None:
    frames, config = torch.ones(10, 60, 40), Augment(n_time_masks=2, n_feature_masks=2)
    first, again, other = (masked_by(frames, config, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert frames.min() == 1


def test_masks_fall_on_every_frame_alike() -> None:
    frames = torch.ones(2000, 20, 4)
    masked = (masked_by(frames, Augment(n_time_masks=1, time_mask_frames=5)) == 0).any(2)
    fraction = masked.float().mean(0)
    assert fraction.min() > 0.7 * fraction.max() > 0.05
