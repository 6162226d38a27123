"""Channel transfer: spectrum, level and background of a speaker, and nothing else changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from speechrnn.audio import Samples, from_int16, to_int16
from speechrnn.config import Data
from speechrnn.data.channel_transfer import ChannelTransfer
from speechrnn.data.clips import Clip, ClipKind, Pack, Source, Split
from speechrnn.data.cutting import PlannedContext
from speechrnn.data.examples import Examples
from speechrnn.labels import Labels
from speechrnn.spec import Spec

RATE_HZ = 16000
START, END = 6000, 11000
HUM_HZ = 100


def burst(random: np.random.Generator, loudness: float, cut_hz: float = RATE_HZ) -> Samples:
    """A second with noise from START to END; what lies above `cut_hz` is 30 dB weaker."""
    samples = np.zeros(RATE_HZ)
    samples[START:END] = loudness * random.standard_normal(END - START)
    spectrum = np.fft.rfft(samples)
    spectrum[np.fft.rfftfreq(RATE_HZ, 1 / RATE_HZ) > cut_hz] *= 10 ** (-30 / 20)
    return np.fft.irfft(spectrum).astype(np.float32)


def pack_of(*recordings: tuple[str, ClipKind, Split, Samples]) -> Pack:
    """Recordings of a second with a word from START to END."""
    clips = [
        Clip(Source(path, 1, 1, kind, split, path.split("/")[0]), i * RATE_HZ, RATE_HZ, START, END)
        for i, (path, kind, split, _) in enumerate(recordings)
    ]
    return Pack(clips, np.concatenate([to_int16(samples) for *_, samples in recordings]), [])


@pytest.fixture
def pack() -> Pack:
    """Four clips of a speaker with a dull microphone beside something that hums, and five of a synthesiser."""
    random = np.random.default_rng(0)
    hum = 0.01 * np.sin(2 * np.pi * HUM_HZ * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    dull = [
        (f"{word}/a_nohash_{i}.wav", "command", "training", burst(random, 0.02, 2000) + hum)
        for word in ("yes", "no")
        for i in range(2)
    ]
    checked = [(f"{word}/b_nohash_0.wav", "command", "validation", burst(random, 0.1)) for word in ("yes", "no")]
    bright = [(f"house/voice_{i}.wav", "tts", "training", burst(random, 0.1)) for i in range(4)]
    noise = [(f"_background_noise_/{i}.wav", "noise", "training", burst(random, 0.1)) for i in range(2)]
    new = ("house/voice_9.wav", "tts", "validation", burst(random, 0.1))
    recordings: list[Any] = [*dull, *checked, *bright, *noise, new]
    return pack_of(*recordings)


def transferred(pack: Pack, seed: int = 0, kind: ClipKind = "tts") -> tuple[Samples, Samples]:
    """A word of the synthesiser [T], and what it becomes [T]."""
    clip = next(clip for clip in pack.clips if clip.kind == "tts")
    context = from_int16(pack.samples[clip.offset : clip.offset + RATE_HZ])
    channels = ChannelTransfer(pack, pack.clips)
    return context, channels.apply(context, START, END, kind, np.random.default_rng(seed))


def level_db(samples: Samples) -> float:
    return float(10 * np.log10((samples.astype(np.float64) ** 2).mean()))


def tilt_db(samples: Samples) -> float:
    """Power from 3 kHz on, against that below 1.5 kHz."""
    power, hz = np.abs(np.fft.rfft(samples[START:END])) ** 2, np.fft.rfftfreq(END - START, 1 / RATE_HZ)
    return float(10 * np.log10(power[hz > 3000].mean() / power[(hz < 1500) & (hz > 200)].mean()))


def test_a_word_sounds_as_through_the_microphone_of_the_speaker(pack: Pack) -> None:
    context, filtered = transferred(pack)
    assert tilt_db(context) == pytest.approx(0, abs=1)
    assert tilt_db(filtered) < -18  # 20 dB is the largest change of a band, and the curve is smooth
    speaker = from_int16(pack.samples[:RATE_HZ])
    assert level_db(filtered[START:END]) == pytest.approx(level_db(speaker[START:END]), abs=1.5)


def test_the_background_fills_what_was_silent(pack: Pack) -> None:
    context, filtered = transferred(pack)
    assert not context[:5000].any()
    assert level_db(filtered[:5000]) == pytest.approx(20 * np.log10(0.01 / np.sqrt(2)), abs=1)
    spectrum = np.abs(np.fft.rfft(filtered[:5000] * np.hanning(5000)))
    assert np.argmax(spectrum) * RATE_HZ / 5000 == pytest.approx(HUM_HZ, abs=5)


def test_the_word_keeps_its_position_and_what_tells_it_from_others(pack: Pack) -> None:
    """The envelope of a word with a gap in it is that of the original."""
    clip = next(clip for clip in pack.clips if clip.kind == "tts")
    context = from_int16(pack.samples[clip.offset : clip.offset + RATE_HZ])
    context[8000:9000] = 0
    filtered = ChannelTransfer(pack, pack.clips).apply(context, START, END, "tts", np.random.default_rng(0))
    assert filtered.shape == context.shape
    assert filtered.dtype == np.float32
    inside, gap, outside = level_db(filtered[7000:7900]), level_db(filtered[8100:8900]), level_db(filtered[12000:])
    assert inside - gap > 6
    assert gap == pytest.approx(outside, abs=3)


def test_the_channel_follows_from_the_random_numbers(pack: Pack) -> None:
    assert np.array_equal(transferred(pack, 1)[1], transferred(pack, 1)[1])


def test_speakers_of_few_clips_and_unknown_kinds_and_silence_change_nothing(pack: Pack) -> None:
    context, filtered = transferred(pack._replace(clips=pack.clips[2:]))
    assert np.array_equal(context, filtered)
    context, filtered = transferred(pack, kind="aligned")
    assert np.array_equal(context, filtered)
    silence = np.zeros(RATE_HZ, dtype=np.float32)
    assert not (ChannelTransfer(pack, pack.clips).apply(silence, START, END, "tts", np.random.default_rng(0)).any())


@pytest.mark.parametrize(("rate", "low", "high"), [(0.0, 0, 0), (0.5, 40, 80), (1.0, 120, 120)])
def test_a_fraction_of_the_synthesised_words_and_no_other_is_changed(
    pack: Pack, rate: float, low: int, high: int
) -> None:
    spec = Spec(labels=Labels(("yes", "no"), silence=False))
    examples = Examples(pack, spec, Data(channel_transfer_rate=rate), "training")
    for kind, n_low, n_high in (("tts", low, high), ("command", 0, 0)):
        clip = next(clip for clip in pack.clips if clip.kind == kind)
        batch = examples.batch([PlannedContext(0, clip)] * 120, seed=3)
        plain = pack.samples[clip.offset : clip.offset + RATE_HZ]
        assert n_low <= sum(not np.array_equal(row, plain) for row in batch.samples) <= n_high


def test_validation_has_words_as_they_are(pack: Pack) -> None:
    spec, clip = Spec(labels=Labels(("yes", "no"), silence=False)), pack.clips[-1]
    validation = Examples(pack, spec, Data(channel_transfer_rate=1.0), "validation")
    assert clip.split == "validation"
    assert np.array_equal(validation.batch([PlannedContext(2, clip)], seed=0).samples[0], pack.samples[-RATE_HZ:])


def test_a_made_word_gets_no_channel(pack: Pack) -> None:
    spec = Spec(labels=Labels(("yes", "no"), silence=False))
    clip = next(clip for clip in pack.clips if clip.kind == "tts")
    reversed_word = [PlannedContext(2, clip, "reversed")]
    with_rate, without = (Examples(pack, spec, Data(channel_transfer_rate=rate), "training") for rate in (1.0, 0.0))
    assert np.array_equal(with_rate.batch(reversed_word, 0).samples, without.batch(reversed_word, 0).samples)
