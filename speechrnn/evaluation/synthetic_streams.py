"""Long recordings made of labelled clips, with their ground truth.

A recipe cuts the recording into slots of equal length. Each holds a keyword, another word, running speech or nothing,
in drawn order and at a drawn position; background noise lies under all of them. The same material, recipe and seed make
the same recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples, from_int16, speech_power, to_int16
from speechrnn.config import TRAINING_RATE_HZ, Range
from speechrnn.data.clips import Clip, Pack, Split, word_extent
from speechrnn.decoding import read
from speechrnn.errors import DataError
from speechrnn.evaluation.ground_truth import Word, count_words, find_ground_truth, read_ground_truth
from speechrnn.folders import find_audio

SPEECH = "_speech_"
"""Label in the ground truth of a stretch of running speech, whose words are not known."""
_UNSEEN_NOISE = 0.8  # training has the first part of every noise recording
_FADE_S = 0.5
_SPEECH_FADE_S = 0.02


class Sound(NamedTuple):
    """A recording that is read when it is drawn."""

    label: str
    """What is spoken in it."""
    read: Callable[[], Samples]
    """Reads its samples [T] at the training rate."""


class Material(NamedTuple):
    """What streams are made of."""

    keywords: dict[str, list[Sound]]
    """Clips of each keyword."""
    others: list[Sound]
    """Clips of other words."""
    speech: list[Sound]
    """Recordings of running speech."""
    noise: list[Samples]
    """Recordings of noise [T]."""


class Recipe(NamedTuple):
    """How a stream is made. The slots that the fractions leave are silent; what exceeds full scale is clipped."""

    duration_s: float = 600.0
    """Length of the stream in s."""
    slot_s: float = 3.0
    """Length of a slot in s."""
    keyword_fraction: float = 0.7
    """Fraction in [0, 1] of the slots that hold a keyword."""
    unknown_fraction: float = 0.3
    """Fraction of the slots that hold another word."""
    speech_fraction: float = 0.0
    """Fraction of the slots that hold running speech."""
    level_db: float | None = None
    """Level in dB of full scale, over the frames that hold speech, to which words are brought; None leaves them as they
    are."""
    noise_gain: Range | None = None
    """Range of the factor on noise recordings; None without."""
    snr_db: Range | None = None
    """Range of the ratio in dB of the word of a slot to the noise under it; None without."""
    noise_piece_s: float = 3.0
    """Length in s of the pieces of noise, which are faded into each other."""


PRESETS = {
    "clean": Recipe(),
    "tensorflow": Recipe(noise_gain=(0.0, 0.1), noise_piece_s=1.0),
    "mlperf": Recipe(duration_s=1200.0, keyword_fraction=0.125, unknown_fraction=0.375, snr_db=(10.0, 10.0)),
    "mixed": Recipe(
        duration_s=1800.0, keyword_fraction=0.3, unknown_fraction=0.2, speech_fraction=0.25, snr_db=(0.0, 30.0)
    ),
}
"""Words alone; TensorFlow's recipe for its streaming accuracy; 50 keywords among other
words at 10 dB after MLPerf Tiny, which has speech and music there, where keywords of everyday language would occur;
and a bit of everything."""


def validation_clips(pack: Pack) -> list[Clip]:
    """All words of the validation split."""
    return [clip for clip in pack.clips if clip.split == "validation" and clip.kind != "noise"]


def recordings_of(pack: Pack, split: Split) -> list[Clip]:
    """The recordings of running speech of a split."""
    return [clip for clip in pack.clips if clip.kind == "speech" and clip.split == split]


def speech_of(pack: Pack, split: Split) -> list[Sound]:
    """All running speech of a split, recording by recording."""
    return [_packed(pack, clip) for clip in recordings_of(pack, split)]


def of_pack(pack: Pack, keywords: Sequence[str], clips: Iterable[Clip] | None = None) -> Material:
    """Validation words, or these clips, running speech of the training data, and the parts of noise not trained on."""
    words = [_packed(pack, clip) for clip in (validation_clips(pack) if clips is None else clips)]
    noise = [from_int16(pack.samples_of(clip)) for clip in pack.clips if clip.kind == "noise"]
    return Material(
        *_by_keyword(words, keywords),
        [_packed(pack, clip) for clip in pack.clips if clip.kind == "speech"],
        [samples[int(_UNSEEN_NOISE * len(samples)) :] for samples in noise],
    )


def of_folders(keywords: Sequence[str], clips: Path, noise: Path | None = None, speech: Path | None = None) -> Material:
    """Words laid out as LABEL/*.wav, and folders of noise and of running speech, as `of_files` takes them.

    Raises AudioError if a folder has no audio, DataError if transcripts have no line for a recording.
    """
    others = ([] if folder is None else find_audio(folder) for folder in (noise, speech))
    return of_files(keywords, find_audio(clips), *others)


def of_files(
    keywords: Sequence[str], clips: Iterable[Path], noise: Iterable[Path] = (), speech: Iterable[Path] = ()
) -> Material:
    """Files of words, each in the folder of its label, of noise and of running speech.

    Where speech has transcripts, recordings in which a keyword is spoken are left out, for it is not known when.
    Raises AudioError if noise cannot be read, DataError if transcripts have no line for a recording.
    """
    words = [
        Sound(file.parent.name, partial(read, file, TRAINING_RATE_HZ))
        for file in clips
        if file.parent.name not in ("_background_noise_", "_silence_")
    ]
    return Material(
        *_by_keyword(words, keywords),
        [Sound(SPEECH, partial(read, file, TRAINING_RATE_HZ)) for file in speech if not _has_keyword(file, keywords)],
        [read(file, TRAINING_RATE_HZ) for file in noise],
    )


def without_keywords(pack: Pack, base: Path, keywords: Sequence[str]) -> Pack:
    """A pack without the running speech that is known, from transcripts below `base`, to have a keyword in it."""
    return pack._replace(
        clips=[
            clip for clip in pack.clips if clip.kind != "speech" or not _is_known_to_have(base / clip.path, keywords)
        ]
    )


def _is_known_to_have(file: Path, keywords: Sequence[str]) -> bool:
    try:
        return _has_keyword(file, keywords)
    except DataError:
        return False


def _has_keyword(file: Path, keywords: Sequence[str]) -> bool:
    try:
        truth = find_ground_truth(file, None)
    except DataError:
        return False
    spoken = count_words(read_ground_truth(truth, file.stem))
    return any(word.casefold() in spoken for word in keywords)


def _by_keyword(words: list[Sound], keywords: Sequence[str]) -> tuple[dict[str, list[Sound]], list[Sound]]:
    known = {keyword: [word for word in words if word.label == keyword] for keyword in keywords}
    return {word: clips for word, clips in known.items() if clips}, [w for w in words if w.label not in keywords]


def _packed(pack: Pack, clip: Clip) -> Sound:
    return Sound(clip.word, lambda: from_int16(pack.samples_of(clip)))


def n_slots_of(recipe: Recipe) -> int:
    """How many slots a stream has."""
    return int(recipe.duration_s / recipe.slot_s)


def words_of(recipe: Recipe) -> dict[str, int]:
    """How many of the slots hold a keyword, another word and running speech."""
    fractions = {"keyword": recipe.keyword_fraction, "other": recipe.unknown_fraction, "speech": recipe.speech_fraction}
    return {what: round(fraction * n_slots_of(recipe)) for what, fraction in fractions.items()}


def make_stream(material: Material, recipe: Recipe, seed: int) -> tuple[Samples, list[Word]]:
    """A recording [T] at the training rate, and what is spoken in it: words, and stretches of `SPEECH`.

    Raises DataError if the recipe wants what the material does not have.
    """
    n_slots, wants = n_slots_of(recipe), words_of(recipe)
    has = {"keyword": material.keywords, "other": material.others, "speech": material.speech}
    lacking = [what for what, n in wants.items() if n and not has[what]]
    if (recipe.noise_gain or recipe.snr_db) and not material.noise:
        lacking.append("noise")
    if lacking:
        raise DataError(f"no {' and no '.join(lacking)} to make a stream of; give keywords, other words, speech, noise")
    random = np.random.default_rng(seed)
    kinds = [what for what, n in wants.items() for _ in range(n)]
    kinds = list(random.permutation(kinds + ["nothing"] * (n_slots - len(kinds))))
    slot = round(recipe.slot_s * TRAINING_RATE_HZ)
    stream, words, powers = np.zeros(n_slots * slot, dtype=np.float32), [], []
    for number, kind in enumerate(kinds):
        if kind == "nothing":
            powers.append(np.nan)
            continue
        sound = _draw(material, kind, random)
        samples = _cut_speech(sound.read(), slot, random) if kind == "speech" else sound.read()[:slot]
        power = max(speech_power(samples, TRAINING_RATE_HZ), 1e-10)
        if recipe.level_db is not None:
            samples = samples * np.float32(10 ** (recipe.level_db / 20) / np.sqrt(power))
            power = 10 ** (recipe.level_db / 10)
        start, end = (0, len(samples)) if kind == "speech" else word_extent(to_int16(samples))
        at = number * slot + int(random.uniform(0, slot - len(samples) + 1))
        stream[at : at + len(samples)] += samples
        label = SPEECH if kind == "speech" else sound.label
        words.append(Word(label, (at + start) / TRAINING_RATE_HZ, (at + end) / TRAINING_RATE_HZ))
        powers.append(power)
    if recipe.noise_gain or recipe.snr_db:
        stream += _background(material.noise, recipe, np.array(powers), len(stream), random)
    return np.clip(stream, -1, 1), words


def _draw(material: Material, kind: str, random: np.random.Generator) -> Sound:
    """A clip of a keyword, each keyword as likely as any other, or any clip of another kind."""
    if kind == "keyword":
        names = list(material.keywords)
        clips = material.keywords[names[random.integers(len(names))]]
    else:
        clips = material.others if kind == "other" else material.speech
    return clips[random.integers(len(clips))]


def _cut_speech(samples: Samples, n_samples: int, random: np.random.Generator) -> Samples:
    """A stretch of running speech [at most n_samples], faded at both ends."""
    at = int(random.integers(max(1, len(samples) - n_samples + 1)))
    piece = samples[at : at + n_samples].copy()
    ramp = np.linspace(0, 1, min(len(piece), round(_SPEECH_FADE_S * TRAINING_RATE_HZ)), dtype=np.float32)
    piece[: len(ramp)] *= ramp
    piece[len(piece) - len(ramp) :] *= ramp[::-1]
    return piece


def _background(
    noises: list[Samples], recipe: Recipe, powers: NDArray[np.float64], n_samples: int, random: np.random.Generator
) -> Samples:
    """Noise [T], faded from piece to piece; where a slot has no speech, as loud as beside the median of its power."""
    fade = round(_FADE_S * TRAINING_RATE_HZ)
    length = round(recipe.noise_piece_s * TRAINING_RATE_HZ)
    envelope = np.concatenate([np.linspace(0, 1, fade), np.ones(length - fade), np.linspace(1, 0, fade)])
    long_enough = [noise for noise in noises if len(noise) >= len(envelope)] or noises
    background = np.zeros(n_samples + 2 * len(envelope), dtype=np.float32)
    for at in range(0, n_samples + fade, length):
        noise = long_enough[random.integers(len(long_enough))]
        start = int(random.integers(max(1, len(noise) - len(envelope) + 1)))
        piece = np.resize(noise[start:], len(envelope))
        background[at : at + len(envelope)] += envelope * piece * _gain(recipe, piece, at, powers, random)
    return background[fade // 2 :][:n_samples]


def _gain(recipe: Recipe, piece: Samples, at: int, powers: NDArray[np.float64], random: np.random.Generator) -> float:
    if recipe.noise_gain is not None:
        return float(random.uniform(*recipe.noise_gain))
    middle_s = at / TRAINING_RATE_HZ + recipe.noise_piece_s / 2
    power = powers[min(int(middle_s / recipe.slot_s), len(powers) - 1)]
    if np.isnan(power):
        power = float(np.nanmedian(powers))
    snr_db = random.uniform(*recipe.snr_db) if recipe.snr_db else np.inf
    return float(np.sqrt(power / max(float(np.square(piece).mean()), 1e-10)) * 10 ** (-snr_db / 20))
