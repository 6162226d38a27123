"""Channel augmentation: words recorded elsewhere get the channel of a speaker of the commands.

A network trained on keywords from telephones and laptops, and on other words from a studio or a synthesiser, may tell
them apart by that. A speaker's channel is the smooth mean spectrum of their words, as in cepstral mean normalisation
(Atal, 1974); a word gets it in place of the mean spectrum of its kind, and the speaker's level and background noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, from_int16, rms
from speechrnn.config import TRAINING_RATE_HZ
from speechrnn.data.clips import Clip, ClipKind, Int16, Pack
from speechrnn.data.speech_commands import speaker_of

OUT_OF_DOMAIN_KINDS: tuple[ClipKind, ...] = ("aligned", "tts", "natural", "confusable")

_N_FFT = 512
_N_COSINES = 10
_N_CLIPS = 3  # at least, of a speaker whose words have all kinds of sounds
_N_CLIPS_OF_KIND = 2000  # at most
_MAX_GAIN = 10.0
_MIN_RMS = 1e-6
_BEFORE_SAMPLES, _AFTER_SAMPLES = TRAINING_RATE_HZ // 20, TRAINING_RATE_HZ // 10  # about a word, where it may linger
_MIN_BACKGROUND_SAMPLES = TRAINING_RATE_HZ // 10
_MIN_WORD_SAMPLES = 2 * _N_FFT


@cache
def _cosines(n_fft: int) -> NDArray[np.float64]:
    """Cosines over the mel scale, at the frequencies of a spectrum [n_fft / 2 + 1, _N_COSINES]."""
    mel = np.log1p(np.fft.rfftfreq(n_fft, 1 / TRAINING_RATE_HZ) / 700)
    cosines: NDArray[np.float64] = np.cos(np.pi * np.outer(mel / mel[-1], np.arange(_N_COSINES)))
    return cosines


_DENSITY = 1 / (700 + np.fft.rfftfreq(_N_FFT, 1 / TRAINING_RATE_HZ))  # mel per Hz
_FIT = np.linalg.pinv(_cosines(_N_FFT) * np.sqrt(_DENSITY)[:, None]) * np.sqrt(_DENSITY)


class ChannelTransfer:
    """The channels of the speakers in a split of a pack, and the mean spectra of words of other kinds."""

    def __init__(self, pack: Pack, clips: Iterable[Clip]) -> None:
        self._pack = pack
        of_speaker: dict[str, list[Clip]] = defaultdict(list)
        of_kind: dict[ClipKind, list[Clip]] = defaultdict(list)
        for clip in clips:
            if clip.word_end - clip.word_start < _MIN_WORD_SAMPLES:
                continue
            if clip.kind == "command":
                of_speaker[speaker_of(clip.path)].append(clip)
            elif clip.kind in OUT_OF_DOMAIN_KINDS:
                of_kind[clip.kind].append(clip)
        self._speakers = [
            (self._curve(clips), clips) for _, clips in sorted(of_speaker.items()) if len(clips) >= _N_CLIPS
        ]
        self._of_kind = {k: self._curve(clips[:: -(-len(clips) // _N_CLIPS_OF_KIND)]) for k, clips in of_kind.items()}

    def _curve(self, clips: list[Clip]) -> NDArray[np.float64]:
        """The mean power of words, each of the same power, as cosines of its logarithm [_N_COSINES]."""
        powers = [_spectrum(from_int16(self._word(clip))) for clip in clips]
        curve: NDArray[np.float64] = _FIT @ np.log(np.mean(powers, axis=0) + 1e-8)
        return curve

    def _word(self, clip: Clip) -> Int16:
        return self._pack.samples_of(clip)[clip.word_start : clip.word_end]

    def apply(self, context: Samples, start: int, end: int, kind: ClipKind, random: np.random.Generator) -> Samples:
        """A context [T] with a word in [start, end), through the channel of a drawn speaker.

        It stays as it is where there are no speakers, or no sound.
        """
        if not self._speakers or kind not in self._of_kind or not context[start:end].any():
            return context
        curve, clips = self._speakers[random.integers(len(self._speakers))]
        clip = clips[random.integers(len(clips))]
        gains = np.exp(_cosines(len(context)) @ (curve - self._of_kind[kind]) / 2)
        gains = gains.clip(1 / _MAX_GAIN, _MAX_GAIN)
        filtered = np.fft.irfft(np.fft.rfft(context) * gains, len(context))
        filtered *= (rms(from_int16(self._word(clip))) + _MIN_RMS) / (rms(filtered[start:end]) + _MIN_RMS)
        filtered += self._background(clip, len(context), random)
        return np.asarray(filtered / max(1.0, np.abs(filtered).max()), dtype=np.float32)

    def _background(self, clip: Clip, n_samples: int, random: np.random.Generator) -> Samples:
        """The background before or after the word of a clip, there and back as often as needed [n_samples]."""
        samples = from_int16(self._pack.samples_of(clip))
        around = samples[: max(0, clip.word_start - _BEFORE_SAMPLES)], samples[clip.word_end + _AFTER_SAMPLES :]
        parts = [part for part in around if len(part) >= _MIN_BACKGROUND_SAMPLES]
        if not parts:
            return np.zeros(n_samples, dtype=np.float32)
        part = parts[random.integers(len(parts))]
        filled: Samples = np.resize(np.concatenate([part, part[::-1]]), n_samples)
        return filled


def _spectrum(word: Samples) -> NDArray[np.float64]:
    """Mean power of the spectra in a word [T], divided by its own mean [_N_FFT / 2 + 1]."""
    frames = np.lib.stride_tricks.sliding_window_view(word, _N_FFT)[:: _N_FFT // 2] * np.hanning(_N_FFT)
    power = (np.abs(np.fft.rfft(frames)) ** 2).mean(0) + 1e-12
    spectrum: NDArray[np.float64] = power / power.mean()
    return spectrum
