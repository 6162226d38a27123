"""Make a shipped model again, from audio to model file and card, in one command.

    python -m pipelines.speech_commands configs/commands8.toml --data data --test data/speech_commands_test_set_v0.02

Prepares the audio, trains (and goes on where an interrupted run stopped), exports with the options that the
configuration has now, scores the test clips once and writes NAME.onnx and NAME.md. A finished run is not trained
again, so a change of options alone takes a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np

from speechrnn import evaluation, report
from speechrnn.audio import from_int16
from speechrnn.config import Experiment, load_experiment
from speechrnn.dataset import NOISE_FOLDER, Examples, Pack, prepare, validation_batch
from speechrnn.evaluation import Evaluation
from speechrnn.export import export
from speechrnn.labels import SILENCE
from speechrnn.models import summarise
from speechrnn.recognizer import load_checkpoint
from speechrnn.runtime import Recognizer, load
from speechrnn.spec import ModelInfo
from speechrnn.training import Progress, fit

_N_CHECKED = 64

_SOURCES = """\
Trained on a part of [Speech Commands](https://arxiv.org/abs/1804.03209) v0.01/v0.02 (Pete Warden, Google, CC BY 4.0);
other words from DSPSpeech-20 (MIT) and Picovoice's wake-word-benchmark (Apache 2.0); read English from LibriSpeech
(CC BY 4.0, Vassil Panayotov) and LJ Speech (public domain); noise from Speech Commands, ESC-10 (CC BY 3.0,
Karol Piczak) and berlin_noise (CC BY 4.0, Thomas Rosen). No test clip and no test speaker took part.
"""


def train(experiment: Experiment, pack: Pack, run_dir: Path) -> Path:
    """Train, or go on, or leave a finished run as it is; the best checkpoint."""

    def show(progress: Progress) -> None:
        if progress.step % 500 == 0:
            print(f"step {progress.step}/{progress.n_steps}, loss {progress.loss:.3f}, {progress.left_s:.0f} s left")

    fit(experiment, pack, run_dir, resume=(run_dir / "last.pt").exists(), on_progress=show)
    return run_dir / "best.pt"


def export_with_options(checkpoint: Path, experiment: Experiment, pack: Pack, target: Path) -> ModelInfo:
    """Export a checkpoint with the options of the configuration, checked on validation contexts."""
    net, info = load_checkpoint(checkpoint)
    info = msgspec.structs.replace(info, options=experiment.options)
    batch = validation_batch(Examples(pack, info.spec, experiment.data, "validation"))
    contexts = from_int16(batch.samples[:: max(1, len(batch.samples) // _N_CHECKED)])
    print(f"{target}: at most {export(net, info, contexts, target):.1e} from torch")
    n_frames = info.spec.features.n_frames(info.spec.context_samples, info.spec.sample_rate_hz)
    layers = summarise(net.classifier, n_frames)
    print(f"{sum(row.n_parameters for row in layers):,} parameters, {sum(row.n_macs for row in layers):,} MACs")
    return info


def score_validation(recognizer: Recognizer, experiment: Experiment, pack: Pack) -> list[tuple[str, int, float]]:
    """Number and share of validation contexts that the exported model labels right, by class."""
    batch = validation_batch(Examples(pack, recognizer.info.spec, experiment.data, "validation"))
    rows = [recognizer.logits(from_int16(row[None])) for row in batch.samples]
    correct = np.concatenate(rows).argmax(axis=1) == batch.labels
    classes = [(name, batch.labels == index) for index, name in enumerate(recognizer.labels)]
    return [("all", len(correct), float(correct.mean()))] + [
        (name, int(chosen.sum()), float(correct[chosen].mean())) for name, chosen in classes
    ]


def score_other_sounds(recognizer: Recognizer, pack: Pack) -> tuple[int, int, int]:
    """Number of noise recordings from elsewhere, and how many of them are called silence, and a keyword.

    Each is judged by its last context, which training did not have.
    """
    length = recognizer.info.spec.context_samples
    sounds = [clip for clip in pack.clips if clip.kind == "noise" and clip.word != NOISE_FOLDER]
    ends = [clip.offset + clip.n_samples for clip in sounds if clip.n_samples >= length]
    contexts = [from_int16(pack.samples[end - length : end])[None] for end in ends]
    labels = [recognizer.labels[int(recognizer.logits(context).argmax())] for context in contexts]
    n_keywords = sum(label in recognizer.info.spec.labels.keywords for label in labels)
    return len(labels), labels.count(SILENCE), n_keywords


def write_card(
    path: Path,
    info: ModelInfo,
    command: str,
    validation: list[tuple[str, int, float]],
    other_sounds: tuple[int, int, int],
    test: Evaluation | None,
) -> None:
    """The model card, every figure of which was measured in this run."""
    spec, provenance = info.spec, info.provenance
    labels = spec.labels
    classes = ", ".join(["**" + "**, **".join(labels.keywords) + "**", *labels.names[len(labels.keywords) :]])
    lines = [
        f"# {path.stem}",
        "",
        f"Recognises {classes}, in one second of 16 kHz audio.",
        "",
        "## How it was made",
        "",
        f"`{command}`, {provenance.created}, seed {provenance.config['train']['seed']} (one run), "
        f"{provenance.scores['training contexts seen']:,.0f} augmented contexts on a CPU.",
        "",
        _SOURCES,
        "| training clips | " + " | ".join(labels.names) + " |",
        "|---" * (len(labels.names) + 1) + "|",
        "| | " + " | ".join(f"{provenance.data[f'training {name}']:,}" for name in labels.names) + " |",
        "",
        "## What it scores",
        "",
        "Validation: the validation split of the same words, with other words, and silence cut from the ends of the "
        "background noise of Speech Commands; nothing of it was trained on. The epoch that ships was chosen by it.",
        "",
        "| class | contexts | right |",
        "|---|---|---|",
        *(f"| {name} | {n} | {100 * share:.1f} % |" for name, n, share in validation),
        "",
    ]
    n_sounds, n_silent, n_keywords = other_sounds
    if n_sounds:
        lines += [
            f"Of the last second of {n_sounds} other noise recordings, among them dogs, roosters, crying babies and "
            f"chainsaws, {n_silent} were called silence and {n_keywords} a keyword, the rest unknown.",
            "",
        ]
    if test is not None:
        lines += [
            f"Test, scored once and used for no choice: {test.n} clips of the official 12-class test archive of v0.02, "
            "half of its speakers; words that are no keyword count as unknown. "
            f"**{100 * test.accuracy:.2f} %** are right.",
            "",
            "| folder | clips | right |",
            "|---|---|---|",
            *(f"| {name} | {s.n} | {100 * s.correct / s.n:.1f} % |" for name, s in sorted(test.per_label.items())),
            "",
        ]
    lines += [
        "## What it is not for",
        "",
        "It knows eight words of English, mostly from adults at close range. Words that sound like a keyword, and long "
        "stretches of ordinary speech, set off false alarms. It identifies nobody and is no safety switch.",
        "",
    ]
    path.write_text("\n".join(lines))


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", help="folder that the paths in [data] start from")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--target", type=Path, default=Path("speechrnn/pretrained"), help="folder of model and card")
    parser.add_argument("--test", type=Path, help="test clips as LABEL/*.wav, to be scored once")
    arguments = parser.parse_args()
    experiment = load_experiment(arguments.config, data_dir=arguments.data)
    name = arguments.config.stem
    pack = prepare(experiment.data)
    checkpoint = train(experiment, pack, arguments.run_dir or Path("runs") / name)
    target = arguments.target / f"{name}.onnx"
    info = export_with_options(checkpoint, experiment, pack, target)
    recognizer = load(target)
    test = evaluation.evaluate(recognizer, arguments.test) if arguments.test else None
    if test is not None:
        print(report.to_table(test))
    command = f"python -m pipelines.speech_commands {arguments.config}"
    validation = score_validation(recognizer, experiment, pack)
    write_card(target.with_suffix(".md"), info, command, validation, score_other_sounds(recognizer, pack), test)


if __name__ == "__main__":
    main()
