r"""Words in natural voices: sentences by Kokoro, cut by forced alignment, kept where a recogniser agrees.

    python -m pipelines.natural_voices KOKORO-DIR configs/commands10.toml --data data

Each sentence is a list of words or puts some into a carrier. They are spoken into natural_voices/sentences below the
data folder, and cut into natural_voices/training/WORD and natural_voices/validation/WORD, for `data.natural_words` and
`data.words_validation`. Six voices are for validation alone, and no blend has a part of them. An interrupted run is
resumed. `words.csv` beside them lists what was cut, with its length and level and what PocketSphinx, asked to
tell it from the keywords and some other words, takes it for; only what it takes for the right word is kept.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from pipelines.align_words import normalised, open_decoder, words_of
from speechrnn.audio import Samples, to_int16
from speechrnn.cli.console import run_program, track
from speechrnn.config import TRAINING_RATE_HZ, Data, load_experiment
from speechrnn.data.clips import Split
from speechrnn.data.kokoro import Kokoro, Voice
from speechrnn.data.lexicon import Excluded, words
from speechrnn.decoding import read

FOLDER = "natural_voices"
VALIDATION_VOICES = ("af_nova", "af_sky", "am_eric", "am_onyx", "bf_lily", "bm_daniel")
NEAR_MISSES = {
    "yes": "yet yell less guess chess dress guest this us",
    "no": "low snow nose note row so show nor now",
    "up": "cup pup us cut hub shop hop put app",
    "down": "town dawn done gown brown noun dine don",
    "left": "lift let loft theft laughed less leaf chef",
    "right": "ride rate rise light night bright rye wide",
    "on": "own gone dawn ann aunt in won arm don",
    "off": "cough odd loft oath awe office ought offer",
    "stop": "shop top step stock start soap spot stuff",
    "go": "goat gold grow goal glow ghost dough cold gone",
}
"""Real words that are a keyword but for a sound or two."""
_CARRIERS = (
    "Now say {}, then {}, and then {}.",
    "She said {}, and he said {}, and they said {}.",
    "The word is {}. The word is {}. The word is {}.",
    "I heard {}; then I heard {}; at last I heard {}.",
    "First, {}! Then, {}! Then, {}!",
    "Was it {}? Or was it {}? Maybe {}.",
)
_N_CARRIED, _N_LISTED = 3, 6
_PAUSES = (".", ".", "!", "?", ",")
_LISTED_RATE, _BLENDED_RATE = 0.6, 0.5
_KEYWORD_RATE, _NEAR_RATE = 0.5, 0.2
_SPEEDS = (0.8, 1.2)
_SHORTEST_S, _LONGEST_S = 0.12, 0.9
_MARGIN_S, _FADE_S = 0.04, 0.01
_AROUND_S = 0.25
_N_ALTERNATIVES = 40


class Sentence(NamedTuple):
    """What is said by whom, how fast, and which of its words are wanted, in order."""

    name: str
    split: Split
    text: str
    voice: Voice
    speed: float
    wanted: tuple[str, ...]


class CutWord(NamedTuple):
    """A word that was cut: its file below the folder, its length and level, and what it was taken for."""

    path: str
    label: str
    duration_s: float
    level_db: float
    taken_for: str


class Lexicon(NamedTuple):
    """What is said: keywords, words that are nearly one of them by keyword, and other words."""

    keywords: tuple[str, ...]
    near: dict[str, list[str]]
    others: list[str]

    @classmethod
    def of(cls, data: Data, keywords: tuple[str, ...]) -> Lexicon:
        """The words that may be trained on with these keywords."""
        excluded = Excluded.of(data, keywords)
        near = {w: [near for near in NEAR_MISSES.get(w, "").split() if near not in excluded] for w in keywords}
        return cls(keywords, near, [word for word in words() if word not in excluded])


def plan(voices: list[str], lexicon: Lexicon, n_training: int, n_validation: int) -> list[Sentence]:
    """The sentences of both splits; each follows from its number and split alone."""
    others = [voice for voice in voices if voice not in VALIDATION_VOICES]
    known = [voice for voice in voices if voice in VALIDATION_VOICES]
    return [_draw("validation", number, known, lexicon, 0.0) for number in range(n_validation)] + [
        _draw("training", number, others, lexicon, _BLENDED_RATE) for number in range(n_training)
    ]


def _draw(split: Split, number: int, voices: list[str], lexicon: Lexicon, blended_rate: float) -> Sentence:
    name = f"{split}{number:05d}"
    random = np.random.default_rng(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))
    voice = Voice(voices[number % len(voices)])
    if random.random() < blended_rate:
        other = voices[random.integers(len(voices))]
        voice = Voice(voice.name, other, round(float(random.uniform(0.2, 0.5)), 2))
    is_list = random.random() < _LISTED_RATE
    wanted = tuple(_word(random, lexicon) for _ in range(_N_LISTED if is_list else _N_CARRIED))
    if is_list:
        text = " ".join(word.capitalize() + _PAUSES[random.integers(len(_PAUSES))] for word in wanted)
    else:
        text = _CARRIERS[random.integers(len(_CARRIERS))].format(*wanted)
    return Sentence(name, split, text, voice, round(float(random.uniform(*_SPEEDS)), 2), wanted)


def _word(random: np.random.Generator, lexicon: Lexicon) -> str:
    keyword = lexicon.keywords[random.integers(len(lexicon.keywords))]
    kind = random.random()
    if kind < _KEYWORD_RATE:
        return keyword
    near = lexicon.near[keyword] if kind < _KEYWORD_RATE + _NEAR_RATE else []
    others = near or lexicon.others
    return others[random.integers(len(others))]


def speaker_of(voice: Voice) -> str:
    """A name of a voice without what separates names of speakers from the rest."""
    return "".join(f"{name}" for name in (voice.name, voice.other)).replace("_", "")


class Cutter:
    """Finds the wanted words of sentences, and asks what each is taken for."""

    def __init__(self, lexicon: Lexicon) -> None:
        why = "pocketsphinx: not found, and nothing else tells where words begin"
        self._aligner, self._judge = open_decoder(why, lm=None), open_decoder(why, lm=None)
        self._choices = (*lexicon.keywords, *lexicon.others[:: max(1, len(lexicon.others) // _N_ALTERNATIVES)])

    def extents(self, sentence: Sentence, samples: Samples) -> list[tuple[str, float, float]]:
        """The wanted words with their start and end in seconds; none if the alignment fails."""
        text = normalised(sentence.text)
        if not all(self._aligner.lookup_word(word) for word in text.split()):
            return []
        self._aligner.set_align_text(text)
        found = words_of("", _decoded(self._aligner, samples))
        if [word.label for word in found] != text.split():
            return []
        order, wanted = iter(found), []
        for label in sentence.wanted:
            extent = next(word for word in order if word.label == label)
            wanted.append((label, extent.start_s, extent.end_s))
        return wanted

    def taken_for(self, label: str, samples: Samples) -> str:
        """Which of the keywords and some other words a word alone is taken for, it being one of them."""
        choices = [word for word in dict.fromkeys([label, *self._choices]) if self._judge.lookup_word(word)]
        if label not in choices:
            return ""
        self._judge.add_jsgf_string("words", f"#JSGF V1.0; grammar words; public <word> = {' | '.join(choices)};")
        self._judge.activate_search("words")
        quiet = np.zeros(round(_AROUND_S * TRAINING_RATE_HZ), dtype=np.float32)
        found = words_of("", _decoded(self._judge, np.concatenate([quiet, samples, quiet])))
        return found[0].label if found else ""


def _decoded(decoder: Any, samples: Samples) -> list[tuple[str, int, int]]:
    decoder.start_utt()
    decoder.process_raw(to_int16(samples).tobytes(), full_utt=True)
    decoder.end_utt()
    return [(one.word, one.start_frame, one.end_frame) for one in decoder.seg() or []]


def cut_words(sentence: Sentence, samples: Samples, cutter: Cutter, folder: Path) -> Iterator[CutWord]:
    """Cut the wanted words of a sentence, judge each, and write those that are taken for what they are."""
    for number, (label, start_s, end_s) in enumerate(cutter.extents(sentence, samples)):
        if not _SHORTEST_S <= end_s - start_s <= _LONGEST_S:
            continue
        word = cut(samples, start_s, end_s)
        path = Path(sentence.split, label, f"{speaker_of(sentence.voice)}-{sentence.name}-{number}.wav")
        taken_for = cutter.taken_for(label, word)
        level_db = round(20 * float(np.log10(np.sqrt((word**2).mean()) + 1e-6)), 1)
        if taken_for == label:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / path, to_int16(word), TRAINING_RATE_HZ)
        yield CutWord(str(path), label, round(end_s - start_s, 2), level_db, taken_for)


def cut(samples: Samples, start_s: float, end_s: float) -> Samples:
    """A part of a sentence with a margin at both ends, where it is faded."""
    first = max(0, round((start_s - _MARGIN_S) * TRAINING_RATE_HZ))
    part = samples[first : round((end_s + _MARGIN_S) * TRAINING_RATE_HZ)]
    fade = np.minimum(np.arange(len(part), dtype=np.float32) / (_FADE_S * TRAINING_RATE_HZ), 1)
    return np.asarray(part * fade * fade[::-1])


def speak(kokoro: Kokoro, sentence: Sentence, folder: Path) -> Samples:
    """A sentence, from its file if it was spoken before."""
    path = folder / "sentences" / f"{sentence.name}.wav"
    if path.exists():
        return read(path, TRAINING_RATE_HZ)
    samples = kokoro.say(sentence.text, sentence.voice, sentence.speed, TRAINING_RATE_HZ)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    soundfile.write(part, to_int16(samples), TRAINING_RATE_HZ, format="WAV")
    part.replace(path)
    return samples


def main() -> None:
    """Speak and cut what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kokoro", type=Path, help="the folder with Kokoro's files")
    parser.add_argument("config", type=Path, help="the experiment whose keywords are spoken")
    parser.add_argument("--data", help="where its data lies, in place of data.dir")
    parser.add_argument("--training", type=int, default=420, help="sentences to train on (%(default)s)")
    parser.add_argument("--validation", type=int, default=60, help="sentences to validate with (%(default)s)")
    arguments = parser.parse_args()
    experiment = load_experiment(arguments.config, data_dir=arguments.data)
    lexicon = Lexicon.of(experiment.data, experiment.model.labels.keywords)
    folder = Path(experiment.data.dir) / FOLDER
    kokoro, cutter = Kokoro(arguments.kokoro), Cutter(lexicon)
    sentences = plan(kokoro.voices(), lexicon, arguments.training, arguments.validation)
    rows: list[CutWord] = []
    for sentence in track(sentences, len(sentences), "speaking"):
        rows += cut_words(sentence, speak(kokoro, sentence, folder), cutter, folder)
    with (folder / "words.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([CutWord._fields, *rows])
    n_kept = sum(row.taken_for == row.label for row in rows)
    print(f"{folder}: {len(sentences)} sentences, {len(rows)} words cut, {n_kept} kept")


if __name__ == "__main__":
    run_program(main)
