"""Own words from few recordings: how many are detected, what is taken for them, and whether the report foretells it.

    python -m pipelines.studies.own_words WORDS --data data --output scores.json

WORDS is a folder of real recordings, WORD/SPEAKER_nohash_N.wav, of words that the model was not trained on. For each
word, number of recordings and draw a model is taught, from many speakers or from one, and measured on speakers that it
did not learn from: hits at 1 and 5 % false acceptance of the official test clips of Speech Commands; false alarms per
hour of `speech/test` at the threshold that misses one in ten; misses and false alarms at the operating point `balanced`
beside those that the report of `teach` foretold. `--together` teaches all words at once instead, and also tells how
often the ten commands are right before and after.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.make_negatives import embed_stream, embed_word
from speechrnn.cli.console import note, run_program
from speechrnn.data.speech_commands import speaker_of
from speechrnn.decoding import read
from speechrnn.evaluation.tables import Table
from speechrnn.files import write_json
from speechrnn.folders import find_audio
from speechrnn.recognizer import Recognizer, load, softmax
from speechrnn.spec import DEFAULT_MODEL
from speechrnn.teaching.lesson import Taught, taught
from speechrnn.teaching.measuring import (
    LEVELS,
    SpeechPosteriors,
    contexts_around,
    detect_takes,
    options_at,
)
from speechrnn.teaching.model_file import base_scores
from speechrnn.teaching.negatives import embed_all
from speechrnn.teaching.recordings import takes_of
from speechrnn.teaching.report import CHOSEN

_COUNTS, _N_DRAWS, _N_TESTED, _N_OTHERS = (3, 5, 10, 30), 3, 60, 1000
_MISSED = 0.1

Array = NDArray[np.float32]
Scores = Callable[[Array], Array]


class Tested(NamedTuple):
    """A recording of a word as the network has it."""

    speaker: str
    as_word: Array
    stream: Array


class Material(NamedTuple):
    """What all models are measured on, as embeddings."""

    words: dict[str, dict[Path, Tested]]
    others: list[tuple[str, Array]]
    speech: list[Array]
    hours: float


class Outcome(msgspec.Struct):
    """What one model gave for one word."""

    word: str
    n_takes: int
    speakers: str
    draw: int
    hits_at_1: float
    hits_at_5: float
    same_speaker_at_1: float | None
    false_alarms_at_10_missed: float | None
    missed: float
    false_alarms_per_hour: float
    foretold_missed: float
    foretold_false_alarms_per_hour: float
    foretold_bound: float


class Together(msgspec.Struct):
    """What several words at once cost the ten commands."""

    words: list[str]
    commands_right_before: float
    commands_right_after: float


class Study(msgspec.Struct):
    """All outcomes."""

    model: str
    hours: float
    n_others: int
    outcomes: list[Outcome] = []
    together: list[Together] = []


def embed_material(recognizer: Recognizer, folder: Path, data: Path, speech_folder: str) -> Material:
    """Embed the words, the official test clips and the test speech, once for all models."""
    words = {path.name: embed_words(recognizer, path) for path in sorted(folder.iterdir()) if path.is_dir()}
    clips = find_audio(data / "speech_commands_test_set_v0.02")
    clips = [clip for clip in clips if clip.parent.name != "_silence_"]
    rate_hz = recognizer.info.spec.sample_rate_hz
    others = [
        (clip.parent.name, rows)
        for clip in clips[:: -(-len(clips) // _N_OTHERS)]
        if (rows := embed_word(recognizer, read(clip, rate_hz))) is not None
    ]
    speech = [embed_stream(recognizer, read(file, rate_hz)) for file in find_audio(data / speech_folder)]
    return Material(words, others, speech, sum(map(len, speech)) / 36000)


def embed_words(recognizer: Recognizer, folder: Path) -> dict[Path, Tested]:
    """Embed the recordings of a word that hold one word."""
    spec, found = recognizer.info.spec, {}
    for file in find_audio(folder):
        takes = takes_of(file, spec.sample_rate_hz)
        rows = embed_word(recognizer, takes[0].samples)
        if len(takes) == 1 and rows is not None:
            around = contexts_around(takes[0].samples, (takes[0].start, takes[0].end), recognizer.info.options, spec)
            found[file] = Tested(speaker_of(file.name), rows, embed_all(recognizer, around))
    return found


def choose(recordings: dict[Path, Tested], n: int, *, one_speaker: bool, draw: int) -> list[Path]:
    """Recordings to learn from: each of another speaker as far as there are any, or all of one who has enough."""
    order = sorted(recordings)
    random.Random(draw).shuffle(order)
    if one_speaker:
        speakers = [recordings[file].speaker for file in order]
        speaker = next(one for one in speakers if speakers.count(one) > n)
        return [file for file in order if recordings[file].speaker == speaker][:n]
    seen: dict[str, int] = {}
    ranks = {file: seen.setdefault(recordings[file].speaker, 0) for file in order}
    for file in order:
        ranks[file] = seen[recordings[file].speaker]
        seen[recordings[file].speaker] += 1
    return sorted(order, key=lambda file: ranks[file])[:n]


def teach_words(chosen: dict[str, list[Path]], output: Path) -> Taught:
    """Teach these recordings as they would lie in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        for word, files in chosen.items():
            (Path(folder) / word).mkdir()
            for file in files:
                (Path(folder) / word / file.name).symlink_to(file.resolve())
        return taught(folder, output=output)


def measure(
    result: Taught, material: Material, chosen: dict[str, list[Path]], draw: int, speakers: str
) -> list[Outcome]:
    """What a model gives for each of its own words on speakers that it has not learned from."""
    scores = base_scores(result.recognizer)
    labels, options = result.recognizer.info.spec.labels, result.recognizer.info.options
    posteriors = [softmax(scores(rows)) for rows in material.speech]
    words = list(chosen)
    nothing = {word: [np.zeros(len(rows), dtype=bool) for rows in posteriors] for word in words}
    speech = SpeechPosteriors(posteriors, nothing, material.hours)
    by_level = [*speech.false_alarms(labels, options, words)]
    outcomes = []
    for report in result.report.words:
        word, column = report.word, labels.names.index(report.word)
        known = {material.words[word][file].speaker for file in chosen[word]}
        new = [one for one in material.words[word].values() if one.speaker not in known]
        new = new[:: max(1, len(new) // _N_TESTED)][:_N_TESTED]
        same = [one for file, one in material.words[word].items() if one.speaker in known and file not in chosen[word]]
        bars = np.quantile([word_score(scores, rows, column) for _, rows in material.others], [0.99, 0.95])
        rows = [softmax(scores(one.stream)) for one in new]
        missed = [_missed(rows, word, labels, options_at(options, [word], level)) for level in LEVELS]
        reachable = [at for at, rate in enumerate(missed) if rate <= _MISSED]
        point = report.points[CHOSEN]
        balanced = LEVELS.index(point.threshold)
        hits = np.array([word_score(scores, one.as_word, column) for one in new])
        outcomes.append(
            Outcome(
                word,
                len(chosen[word]),
                speakers,
                draw,
                float(np.mean(hits >= bars[0])),
                float(np.mean(hits >= bars[1])),
                float(np.mean([word_score(scores, one.as_word, column) >= bars[0] for one in same])) if same else None,
                by_level[reachable[-1]][word] / material.hours if reachable else None,
                missed[balanced],
                by_level[balanced][word] / material.hours,
                report.miss_rate,
                point.false_alarms_per_hour,
                point.bound,
            )
        )
    return outcomes


def word_score(scores: Scores, rows: Array, column: int) -> float:
    """Mean posterior of a word as it leaves the context."""
    return float(softmax(scores(rows))[:, column].mean())


def _missed(rows: Sequence[Array], word: str, labels: object, options: object) -> float:
    found = detect_takes(rows, labels, options)  # type: ignore[arg-type]
    return sum(word not in one for one in found) / len(found)


def right(recognizer: Recognizer, material: Material) -> float:
    """The fraction of the test clips of the ten commands that are right, by the mean over four contexts."""
    scores, names = base_scores(recognizer), recognizer.labels
    commands = [(word, rows) for word, rows in material.others if word in names]
    return float(np.mean([names[softmax(scores(rows)).mean(axis=0).argmax()] == word for word, rows in commands]))


def outcomes_of(material: Material, counts: Sequence[int], n_draws: int, output: Path) -> Iterator[list[Outcome]]:
    """Teach and measure every word alone: of many speakers, and five recordings of one."""
    plans = [(n, False) for n in counts] + [(5, True)]
    for draw in range(n_draws):
        for word, recordings in material.words.items():
            for n, one_speaker in plans:
                chosen = {word: choose(recordings, n, one_speaker=one_speaker, draw=draw)}
                found = measure(teach_words(chosen, output), material, chosen, draw, "one" if one_speaker else "many")
                note(f"{word}, {n} recordings, draw {draw}: {found[0].hits_at_1:.0%} at 1 %")
                yield found


def together_of(material: Material, n: int, draw: int, output: Path) -> tuple[list[Outcome], Together]:
    """Teach all words at once, and measure also what it costs the ten commands."""
    chosen = {word: choose(some, n, one_speaker=False, draw=draw) for word, some in material.words.items()}
    result = teach_words(chosen, output)
    before = right(load(DEFAULT_MODEL), material)
    outcomes = measure(result, material, chosen, draw, "many, together")
    return outcomes, Together(list(chosen), before, right(result.recognizer, material))


def to_table(study: Study) -> Table:
    """Means over words and draws, with the deviation of a draw."""
    groups = sorted({(one.speakers, one.word, one.n_takes) for one in study.outcomes})
    rows = []
    for speakers, word, n in groups:
        some = [one for one in study.outcomes if (one.speakers, one.word, one.n_takes) == (speakers, word, n)]
        rows.append(
            (
                f"{word}, {speakers}",
                str(n),
                _mean([100 * one.hits_at_1 for one in some]),
                _mean([100 * one.hits_at_5 for one in some]),
                _mean([100 * one.same_speaker_at_1 for one in some if one.same_speaker_at_1 is not None]),
                _mean([one.false_alarms_at_10_missed for one in some if one.false_alarms_at_10_missed is not None]),
                _mean([100 * one.foretold_missed for one in some]),
                _mean([100 * one.missed for one in some]),
                _mean([one.foretold_false_alarms_per_hour for one in some]),
                _mean([one.false_alarms_per_hour for one in some]),
            )
        )
    head = (
        "word, speakers",
        "recordings",
        "hits at 1 %",
        "at 5 %",
        "same speaker at 1 %",
        "false alarms/h at 10 % missed",
    )
    return Table(
        (*head, "missed, foretold", "missed", "false alarms/h, foretold", "false alarms/h"), "<>>>>>>>>>", rows
    )


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if values else "-"


def main() -> None:
    """Teach, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--speech", default="speech/test", help="folder of running speech below that of the data")
    parser.add_argument("--counts", type=int, nargs="+", default=_COUNTS)
    parser.add_argument("--draws", type=int, default=_N_DRAWS)
    parser.add_argument(
        "--together", type=int, default=0, metavar="N", help="all words at once instead, N recordings each"
    )
    parser.add_argument("--output", type=Path, default=Path("scores.json"))
    arguments = parser.parse_args()
    recognizer = load(DEFAULT_MODEL)
    material = embed_material(recognizer, arguments.words, arguments.data, arguments.speech)
    note(f"{sum(map(len, material.words.values()))} recordings, {material.hours:.2f} hours of speech")
    study = Study(DEFAULT_MODEL, material.hours, len(material.others))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "own.onnx"
        if arguments.together:
            for draw in range(arguments.draws):
                outcomes, together = together_of(material, arguments.together, draw, output)
                study.outcomes += outcomes
                study.together.append(together)
        else:
            for found in outcomes_of(material, arguments.counts, arguments.draws, output):
                study.outcomes += found
                write_json(arguments.output, study)
    write_json(arguments.output, study)
    print("\n".join(to_table(study).to_markdown()))
    for one in study.together:
        print(f"commands right before {one.commands_right_before:.1%}, after {one.commands_right_after:.1%}")


if __name__ == "__main__":
    run_program(main)
