r"""Final evaluation on held-out test data: clips, synthetic streams of them, and running speech.

    python -m pipelines.evaluate_held_out configs/commands10.toml commands10 --data data \
        --clips data/speech_commands_test_set_v0.02 --speech data/speech/test

Streams are made of the test clips by the recipes of TensorFlow and MLPerf Tiny, whose rules count there, and without
noise (speechrnn.evaluation.synthetic_streams), with three seeds each; whatever is no keyword is another word. Their
noise alone is not new: it is of the parts of recordings that training does not have, on which operating points are
chosen. Running speech is scored by its transcripts, all of it at every operating point.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.inputs import open_inputs, parse_inputs
from speechrnn.cli.console import run_program
from speechrnn.data.clips import Pack
from speechrnn.decoding import read
from speechrnn.errors import ConfigError
from speechrnn.evaluation import clips as evaluation
from speechrnn.evaluation.clips import Evaluation
from speechrnn.evaluation.ground_truth import GroundTruth, find_ground_truth, read_ground_truth
from speechrnn.evaluation.plots import check_curve, write_curve
from speechrnn.evaluation.streams import (
    THRESHOLDS,
    Score,
    StreamCurve,
    StreamResult,
    curve_point,
    score,
    spot_with_truth,
    sweep_thresholds,
)
from speechrnn.evaluation.synthetic_streams import PRESETS, Material, make_stream, of_folders, of_pack
from speechrnn.evaluation.tables import Table, number, percent
from speechrnn.folders import find_audio
from speechrnn.labels import FOLDER_LABELS, SILENCE, UNKNOWN, Labels
from speechrnn.recognizer import Recognizer
from speechrnn.spec import ModelInfo, Options

SEEDS = (1, 2, 3)
RULES = {"clean": "default", "tensorflow": "tensorflow", "mlperf": "mlperf"}
"""The rule of each preset."""


class Figure(NamedTuple):
    """A part of the clips: its name, their number, and the percentage of them that is right."""

    name: str
    n_clips: int
    percent: float


def clip_figures(test: Evaluation, labels: Labels) -> list[Figure]:
    """Accuracy by part of the test clips; folders that are no class of the official test are their own part."""

    def of(name: str, folders: Iterable[str]) -> Figure:
        scores = [test.per_folder[folder] for folder in folders if folder in test.per_folder]
        n_clips, n_correct = sum(s.n for s in scores), sum(s.correct for s in scores)
        return Figure(name, n_clips, 100 * n_correct / max(1, n_clips))

    official = [*labels.keywords, *FOLDER_LABELS]
    others = [folder for folder in test.per_folder if folder not in official]
    figures = [
        of("all classes", official),
        of("keywords", labels.keywords),
        of("unknown words", [folder for folder, label in FOLDER_LABELS.items() if label == UNKNOWN]),
        *(of(f'"{folder}" taken for unknown', [folder]) for folder in others),
        of("silence", [folder for folder, label in FOLDER_LABELS.items() if label == SILENCE]),
    ]
    n_keywords = sum(test.per_class[word].n for word in labels.keywords)
    for moved in test.shift:
        if moved.shift_ms:
            name = f"keywords {abs(moved.shift_ms)} ms {'later' if moved.shift_ms > 0 else 'earlier'}"
            figures.append(Figure(name, n_keywords, 100 * moved.keyword_accuracy))
    return [figure for figure in figures if figure.n_clips]


def clip_table(per_seed: Mapping[str, Sequence[Figure]], shipped: str) -> Table:
    """A row for each figure, a column for each seed, and the mean with its standard deviation."""
    several = len(per_seed) > 1
    seeds = [f"seed {seed}, ships" if seed == shipped and several else f"seed {seed}" for seed in per_seed]
    rows = []
    for row in zip(*per_seed.values(), strict=True):
        percents = [figure.percent for figure in row]
        cells = [row[0].name, f"{row[0].n_clips:,}", *(f"{percent:.1f} %" for percent in percents)]
        cells += [f"{np.mean(percents):.1f} % ({np.std(percents, ddof=1):.1f})"] if several else []
        rows.append(tuple(cells))
    head = ("", "clips", *seeds, *(["mean (standard deviation)"] if several else []))
    return Table(head, "<" + ">" * (len(head) - 1), rows)


def choices_of(info: ModelInfo) -> dict[str, Options]:
    """The options of every operating point; those of the model where it has none."""
    return {name: info.options_at(name) for name in info.operating_points} or {"default": info.options}


def score_streams(recognizer: Recognizer, material: Material) -> dict[str, dict[str, Score]]:
    """For each preset what each operating point gives, over all seeds."""
    results = {}
    for preset, rule in RULES.items():
        results[preset] = _score_each(_spot_in_streams(recognizer, material, preset), recognizer.info, rule)
        print(f"{preset}: done", flush=True)
    return results


def _spot_in_streams(recognizer: Recognizer, material: Material, preset: str) -> list[StreamResult]:
    found = []
    for seed in SEEDS:
        stream, words = make_stream(material, PRESETS[preset], seed)
        found.append(spot_with_truth(recognizer, [stream], words, choices_of(recognizer.info), f"{preset} {seed}"))
    return found


def read_speech(folder: Path) -> dict[Path, GroundTruth]:
    """The recordings below a folder with what is spoken in them. Raises DataError if that is not known of one."""
    return {file: read_ground_truth(find_ground_truth(file, None), file.stem) for file in find_audio(folder)}


def by_folder(recordings: Mapping[Path, GroundTruth]) -> dict[str, dict[Path, GroundTruth]]:
    """Recordings by the name of the folder that each is in."""
    found: dict[str, dict[Path, GroundTruth]] = {}
    for file, truth in recordings.items():
        found.setdefault(file.parent.name, {})[file] = truth
    return found


def score_speech(recognizer: Recognizer, recordings: Mapping[Path, GroundTruth]) -> dict[str, Score]:
    """What each operating point gives in recordings with transcripts, each on its own."""
    return _score_each(_spot_in_speech(recognizer, recordings), recognizer.info, "default")


def _spot_in_speech(recognizer: Recognizer, recordings: Mapping[Path, GroundTruth]) -> list[StreamResult]:
    choices, rate_hz = choices_of(recognizer.info), recognizer.info.spec.sample_rate_hz
    return [
        spot_with_truth(recognizer, [read(file, rate_hz)], truth, choices, str(file))
        for file, truth in recordings.items()
    ]


def _score_each(found: Sequence[StreamResult], info: ModelInfo, rule: str) -> dict[str, Score]:
    keywords = info.spec.labels.keywords
    return {name: score([one.scored(name) for one in found], keywords, rule) for name in choices_of(info)}


def draw_misses(recognizer: Recognizer, material: Material, speech: Mapping[Path, GroundTruth], target: Path) -> None:
    """Draw misses in the clean streams against false alarms in running speech, over all thresholds; JSON beside it."""
    info, choices = recognizer.info, choices_of(recognizer.info)
    labels, options = info.spec.labels, next(iter(choices.values()))
    in_streams, in_speech = _spot_in_streams(recognizer, material, "clean"), _spot_in_speech(recognizer, speech)

    swept = [sweep_thresholds(part, labels, options, "default") for part in (in_streams, in_speech)]
    given = [_score_each(part, info, "default") for part in (in_streams, in_speech)]
    curve = StreamCurve(
        "default",
        [curve_point(Options(threshold=level), *both) for level, *both in zip(THRESHOLDS, *swept, strict=True)],
        {name: curve_point(one, given[0][name], given[1][name]) for name, one in choices.items()},
    )
    write_curve(curve, target)


def stream_table(results: Mapping[str, Mapping[str, Score]]) -> Table:
    """A row for each preset and operating point."""
    rows = [
        (
            preset,
            name,
            f"{one.n_hits} of {one.n_spoken} ({percent(one.hit_rate)})",
            f"{one.n_misses} ({percent(one.miss_rate)})",
            f"{one.n_wrong} ({percent(one.wrong_rate)})",
            f"{one.n_false_alarms} ({percent(one.false_alarm_rate)})",
            f"{number(one.delay_p95_ms, '.0f')} ms",
        )
        for preset, scores in results.items()
        for name, one in scores.items()
    ]
    head = ("stream", "operating point", "found", "missed", "wrong", "false alarms", "p95 delay")
    return Table(head, "<<>>>>>", rows)


def speech_table(results: Mapping[str, Mapping[str, Score]]) -> Table:
    """A row for each folder of recordings and operating point."""
    rows = [
        (
            folder,
            name,
            f"{one.n_false_alarms} in {one.hours:.2f} h",
            number(one.false_alarms_per_hour, ".1f"),
            f"{one.n_hits} of {one.n_spoken} found",
        )
        for folder, scores in results.items()
        for name, one in scores.items()
    ]
    head = ("speech", "operating point", "false alarms", "per hour", "keywords that were spoken in it")
    return Table(head, "<<>>>", rows)


def mistaken(scores: Iterable[Score]) -> str:
    """What was taken for which keyword, most frequent first."""
    pairs = Counter((a.spoken or "no known word", a.label) for one in scores for a in one.alarms)
    return ", ".join(f"{spoken} for {label} ({n})" for (spoken, label), n in pairs.most_common(12)) or "nothing"


def open_streams(clips: Path, pack: Pack, keywords: Sequence[str]) -> Material:
    """What streams are made of: test clips as LABEL/*.wav, and the noise of a pack.

    Raises AudioError if the folder has no audio, DataError if a preset lacks something.
    """
    material = of_folders(keywords, clips)._replace(noise=of_pack(pack, keywords).noise)
    for preset in RULES:
        make_stream(material, PRESETS[preset], SEEDS[0])
    return material


def live_lines(recognizer: Recognizer, material: Material, speech: Mapping[Path, GroundTruth]) -> list[str]:
    """Markdown: what the model does when it is left switched on."""
    streams, shown = score_streams(recognizer, material), _shown(recognizer.info)
    lines = [
        f"Streams made of test clips, {len(SEEDS)} seeds: `clean` and `tensorflow` 10 minutes each, a word every 3 s, "
        "30 % of them no keyword; `mlperf` 20 minutes each, 50 keywords among 150 other words, at 10 dB. `tensorflow` "
        "and `mlperf` are judged by the rules of that name, where misses and false alarms are as they count them.",
        "",
        *stream_table(streams).to_markdown(),
        "",
        f"Taken for keywords in them at `{shown}`: {mistaken(scores[shown] for scores in streams.values())}.",
        "",
    ]
    if speech:
        results = {name: score_speech(recognizer, part) for name, part in by_folder(speech).items()}
        alarms = Counter[str]()
        for scores in results.values():
            alarms.update({word: one.n_false_alarms for word, one in scores[shown].per_keyword.items()})
        by_word = ", ".join(f"{n} {word}" for word, n in alarms.most_common() if n) or "none"
        lines += ["Held-out running speech, scored by its transcripts:", "", *speech_table(results).to_markdown(), ""]
        lines += [f"False alarms in it at `{shown}`: {by_word}.", ""]
    return lines


def _shown(info: ModelInfo) -> str:
    """The operating point whose mistakes are listed."""
    names = list(choices_of(info))
    return "balanced" if "balanced" in names else names[0]


def main() -> None:
    """Score clips, streams and speech, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="test clips as LABEL/*.wav")
    parser.add_argument("--speech", type=Path, help="folder of running speech with transcripts.txt")
    parser.add_argument("--curve", type=Path, help="only draw misses against false alarms in speech; JSON beside it")
    arguments = parse_inputs(parser)
    if arguments.curve:
        if not arguments.speech:
            raise ConfigError(f"--curve {arguments.curve}: needs --speech, in which false alarms are counted")
        check_curve(arguments.curve)
    recognizer, pack = open_inputs(arguments)
    labels = recognizer.info.spec.labels
    material = open_streams(arguments.clips, pack, labels.keywords)
    speech = read_speech(arguments.speech) if arguments.speech else {}
    if arguments.curve:
        draw_misses(recognizer, material, speech, arguments.curve)
        return
    figures = clip_figures(evaluation.evaluate(recognizer, arguments.clips), labels)
    seed = str(recognizer.info.provenance.config.get("train", {}).get("seed", "?"))
    print("\n".join([*clip_table({seed: figures}, seed).to_markdown(), "", *live_lines(recognizer, material, speech)]))


if __name__ == "__main__":
    run_program(main)
