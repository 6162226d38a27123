"""The command line as a whole: its help, its arguments, and one clear line for every kind of bad input."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import click
import pytest

from speechrnn.cli.main import VERBS
from tests.helpers import EXAMPLE, assert_one_line, run

NOT_DONE_BY_DEFAULT = {"overrides", "noise", "json_path", "plots", "report_path", "curve_path", "command", "save"}


def test_without_a_verb_it_shows_its_help_by_topic_at_80_columns() -> None:
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == run("--help").stdout
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) < 80
    assert [line for line in lines if line.endswith(":")] == ["Options:", *(f"{topic}:" for topic in VERBS)]
    for verb in itertools.chain(*VERBS.values()):
        assert f"  {verb.name:<10}  {verb.short_help}" in lines


@pytest.mark.parametrize("verb", [*itertools.chain(*VERBS.values())], ids=lambda verb: verb.name)
def test_every_verb_says_what_each_option_is_and_its_default(verb: click.Command) -> None:
    assert verb.short_help and verb.short_help.endswith(".")
    for option in verb.params:
        if isinstance(option, click.Option) and option.expose_value:
            assert option.help and option.help.endswith((".", "'."))
            assert option.show_default or option.is_flag or option.name in NOT_DONE_BY_DEFAULT


def test_an_option_that_no_verb_has_is_one_clear_line_with_what_to_do() -> None:
    assert_one_line(run("transcribe", EXAMPLE, "--treshold", "0.5"), "--treshold", "See: speechrnn transcribe --help")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.epoch=2", ["train", "epochs"]),
        ("train.epochs=many", ["int", "train.epochs"]),
        ("model.features.hop_ms=40", ["hop_ms <= frame_ms", "model.features"]),
        ("epochs=2", ["section.key=value"]),
    ],
)
def test_bad_settings_are_one_clear_line(setting: str, expected: list[str]) -> None:
    assert_one_line(run("train", "configs/commands8.toml", "--set", setting), *expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe"],
        ["transcribe", EXAMPLE, "--format", "morse"],
        ["transcribe", EXAMPLE, "--threshold", "loud"],
        ["transcribe", EXAMPLE, EXAMPLE, "--threshold", "maybe=0.5"],
        ["score", EXAMPLE, EXAMPLE, "--threshold", "maybe=0.5"],
        ["transcribe", EXAMPLE, "--threshold", "yes="],
        ["transcribe", EXAMPLE, "--threshold", "=0.5"],
        ["transcribe", EXAMPLE, "--threshold", "nan"],
        ["transcribe", EXAMPLE, "--threshold", "yes=2"],
        ["transcribe", b"no\xf6thing.wav"],
        ["listen", "--source", EXAMPLE, "--keywords", ","],
        ["listen", "--source", EXAMPLE, "--device", "1"],
        ["listen", "--source", EXAMPLE, "--rate", "8000"],
        ["listen", "--source", EXAMPLE, "--duration", "nan"],
        ["listen", "--source", "-", "--rate", "100000000000"],
        ["listen", "--realtime"],
        ["listen", "--run", "echo {word}"],
        ["export", "model.onnx", "again.onnx"],
        ["export", "best.pt", "model.pt"],
        ["evaluate", "commands8", "examples/audio", "--json", "examples/audio"],
        ["listn"],
        ["train", "configs/none.toml"],
        ["prepare", "configs/commands8.toml", "--data", "no/such/folder"],
        ["evaluate", "commands8", "no/such/folder"],
        ["evaluate", "commands8", EXAMPLE],
        ["evaluate", "commands8", "examples/audio", "--noise", "no/such/folder"],
        ["evaluate", "commands8", "examples/audio", "--report", "/proc/none/report.html"],
        ["evaluate", "commands8", "examples/audio", "--plots", "README.md"],
    ],
    ids=str,
)
def test_bad_arguments_are_one_clear_line(arguments: list[str | Path | bytes]) -> None:
    assert_one_line(run(*(os.fsdecode(argument) for argument in arguments)))


@pytest.mark.parametrize("verb", ["transcribe", "score", "listen"])
def test_an_operating_point_is_chosen_by_name(verb: str) -> None:
    audio = ["--source", EXAMPLE] if verb == "listen" else [EXAMPLE]
    assert run(verb, *audio, "--operating-point", "strict").returncode == 0
    assert_one_line(run(verb, *audio, "--operating-point", "lax"), "lax", "which has: strict")
