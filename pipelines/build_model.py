r"""Make a shipped model again, from audio to model file and card, in one command.

    python -m pipelines.build_model configs/commands10.toml --seeds 1 2 3 --data data \
        --test data/speech_commands_test_set_v0.02 --test-speech data/speech/test

Prepares the audio, trains once with each seed (the same command goes on after Ctrl-C), exports and calibrates the model
of the best validation accuracy, and writes it as NAME.onnx with its card, NAME.md. Operating points are chosen on
streams of validation words and on the running speech of the data, that of speakers held out where there are any, for
the targets in [calibration]. Test clips are
scored once where they are given, of a Speech Commands tree with `--split testing` those of that split; with running
speech that has transcripts also streams that are made of them. A run is kept in RUN-DIR/seed-N; a finished one is not
trained again, so to calibrate anew takes minutes.

Where the configuration names lists that are not there yet: pipelines.align_words makes that of words in running speech;
for that of hard negatives, train without it first, mine with pipelines.mine_hard_negatives, and run this again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from pipelines.evaluate_held_out import live_lines, open_streams, read_speech
from pipelines.inputs import open_pack
from pipelines.model_card import Candidate, CardData, ClassFigure, OtherSounds, to_markdown
from pipelines.validate_model import to_lines, validate
from speechrnn.audio import from_int16
from speechrnn.cli.console import pack_audio, run_program
from speechrnn.config import Experiment, load_experiment
from speechrnn.data.clips import Pack, Split
from speechrnn.data.examples import Examples, validation_set
from speechrnn.errors import ConfigError, DataError
from speechrnn.evaluation import clips as evaluation
from speechrnn.evaluation import operating_points, report
from speechrnn.evaluation.synthetic_streams import of_pack, speech_of
from speechrnn.evaluation.tables import Table
from speechrnn.files import check_place, write_whole
from speechrnn.labels import FOLDER_LABELS, SILENCE
from speechrnn.model.classifier import summarise
from speechrnn.model.network import load_checkpoint
from speechrnn.recognizer import Recognizer, load, save_info
from speechrnn.spec import ModelInfo
from speechrnn.training.export import export
from speechrnn.training.loop import Progress, fit, keep_freed_memory

_N_CHECKED = 64

_UNSEEN_CONTEXTS = 5  # the last fifth of a noise recording is not trained on: a whole context, if it has this many


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
    info = export_checked(train(experiment, pack, run_dir), experiment, pack, model)
    scores = evaluation.evaluate(load(model), test, split=split) if test else None
    if scores:
        print(report.to_table(scores))
    return Candidate(experiment.train.seed, model, info, scores)


def export_checked(checkpoint: Path, experiment: Experiment, pack: Pack, target: Path) -> ModelInfo:
    """Export a checkpoint, checked on validation contexts."""
    net, info = load_checkpoint(checkpoint)
    batch = validation_set(Examples(pack, info.spec, experiment.data, "validation"), ()).batch
    contexts = from_int16(batch.samples[:: max(1, len(batch.samples) // _N_CHECKED)])
    print(f"{target}: at most {export(net, info, contexts, target):.1e} from torch")
    n_frames = info.spec.features.n_frames(info.spec.context_samples, info.spec.sample_rate_hz)
    layers = summarise(net.classifier, n_frames)
    print(f"{sum(row.n_parameters for row in layers):,} parameters, {sum(row.n_macs for row in layers):,} MACs")
    return info


def calibrate(model: Path, experiment: Experiment) -> Table | None:
    """Write operating points into an exported model, and give them as a table; None without running speech."""
    recognizer = load(model)
    pack = open_pack(experiment, recognizer.info.spec.labels.keywords)
    speech = speech_of(pack, "validation") or speech_of(pack, "training")
    if not speech:
        print("no running speech to calibrate on: the model has the options of the configuration")
        return None
    material, targets = of_pack(pack, recognizer.info.spec.labels.keywords), experiment.calibration
    points = operating_points.calibrate(recognizer, material, speech, targets=targets, note=print)
    save_info(model, model, operating_points.calibrated(recognizer.info, points))
    table = operating_points.to_table(points, targets)
    print("\n".join(table.to_lines()))
    return table


def score_validation(recognizer: Recognizer, experiment: Experiment, pack: Pack) -> list[ClassFigure]:
    """Validation contexts that the exported model labels right, by class."""
    batch = validation_set(Examples(pack, recognizer.info.spec, experiment.data, "validation"), ()).batch
    rows = [recognizer.logits(from_int16(row[None])) for row in batch.samples]
    correct = np.concatenate(rows).argmax(axis=1) == batch.labels
    classes = [(name, batch.labels == index) for index, name in enumerate(recognizer.labels)]
    return [ClassFigure("all", len(correct), float(correct.mean()))] + [
        ClassFigure(name, int(chosen.sum()), float(correct[chosen].mean())) for name, chosen in classes
    ]


def score_other_sounds(recognizer: Recognizer, pack: Pack) -> OtherSounds:
    """What noise recordings from elsewhere are taken for.

    Each is judged by its last context; those so short that training had a part of that are left out.
    """
    length = recognizer.info.spec.context_samples
    sounds = [clip for clip in pack.clips if clip.kind == "noise" and clip.word not in FOLDER_LABELS]
    ends = [clip.offset + clip.n_samples for clip in sounds if clip.n_samples >= _UNSEEN_CONTEXTS * length]
    contexts = [from_int16(pack.samples[end - length : end])[None] for end in ends]
    labels = [recognizer.labels[int(recognizer.logits(context).argmax())] for context in contexts]
    n_keywords = sum(label in recognizer.info.spec.labels.keywords for label in labels)
    return OtherSounds(len(labels), labels.count(SILENCE), n_keywords)


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
    model = candidates[0].model
    points = calibrate(model, experiment)
    recognizer = load(model)
    text = to_markdown(
        CardData(
            name,
            " ".join(["python -m pipelines.build_model", str(arguments.config), *_seeds_option(arguments.seeds)]),
            experiment.data,
            candidates,
            score_validation(recognizer, experiment, pack),
            score_other_sounds(recognizer, pack),
            _name_of_test(arguments.test, arguments.split),
            points,
            live_lines(recognizer, material, speech) if material else [],
            to_lines(validate(recognizer, name, experiment)) if speech_of(pack, "validation") else [],
        )
    )
    shutil.copyfile(model, target)
    write_whole(target.with_suffix(".md"), text)


def _name_of_test(folder: Path | None, split: Split | None) -> str:
    name = f"`{folder.resolve().name}`" if folder else ""
    return f"the {split} split of {name}" if split else name


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """The same experiment with another seed."""
    return msgspec.structs.replace(experiment, train=msgspec.structs.replace(experiment.train, seed=seed))


def _seeds_option(seeds: Sequence[int] | None) -> list[str]:
    return ["--seeds", *map(str, seeds)] if seeds else []


if __name__ == "__main__":
    run_program(main)
