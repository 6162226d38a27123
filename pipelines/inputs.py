"""What most pipelines are given on their command line: a configuration, a model, and the folder of the audio."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from speechrnn.cli.console import pack_audio
from speechrnn.config import Experiment, load_experiment
from speechrnn.data.clips import Pack
from speechrnn.evaluation.synthetic_streams import without_keywords
from speechrnn.recognizer import Recognizer, load


def parse_inputs(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, to which configuration, model and data folder are added."""
    parser.add_argument("config", type=Path)
    parser.add_argument("model")
    parser.add_argument("--data", help="folder that the paths in [data] start from")
    return parser.parse_args()


def open_inputs(arguments: argparse.Namespace) -> tuple[Recognizer, Pack]:
    """The model and the packed audio that such a command line names, as `open_pack` gives it."""
    recognizer = load(arguments.model)
    experiment = load_experiment(arguments.config, data_dir=arguments.data)
    return recognizer, open_pack(experiment, recognizer.info.spec.labels.keywords)


def open_pack(experiment: Experiment, keywords: Sequence[str]) -> Pack:
    """The packed audio of an experiment, with running speech whole but without recordings known to have a keyword."""
    data = experiment.data.without_lists()  # which cut running speech up
    pack = pack_audio(msgspec.structs.replace(experiment, data=data))
    return without_keywords(pack, Path(data.dir), keywords)
