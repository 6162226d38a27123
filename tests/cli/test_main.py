"""The command line as a whole: its help, its arguments, and one clear line for every kind of bad input."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import soundfile

from speechrnn.cli.console import name_of
from speechrnn.cli.main import VERBS
from tests.helpers import COMMAND, EXAMPLE, PATIENCE_S, assert_one_line, run

NOT_DONE_BY_DEFAULT = {
    "overrides",
    "noise",
    "json_path",
    "plots",
    "report_path",
    "curve_path",
    "command",
    "save",
    "review",
}


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
            assert option.required or option.show_default or option.is_flag or option.name in NOT_DONE_BY_DEFAULT


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
    assert_one_line(run("train", "configs/commands10.toml", "--set", setting), *expected)


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
        ["evaluate", "commands10", "examples/audio", "--json", "examples/audio"],
        ["listn"],
        ["train", "configs/none.toml"],
        ["prepare", "configs/commands10.toml", "--data", "no/such/folder"],
        ["evaluate", "commands10", "no/such/folder"],
        ["evaluate", "commands10", EXAMPLE],
        ["evaluate", "commands10", "examples/audio", "--noise", "no/such/folder"],
        ["evaluate", "commands10", "examples/audio", "--report", "/proc/none/report.html"],
        ["evaluate", "commands10", "examples/audio", "--plots", "README.md"],
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


def program(redirections: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, its streams as a shell's redirections say."""
    words = ["sh", "-c", f'"$@" {redirections}', "sh", *COMMAND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, check=False, timeout=PATIENCE_S, env=os.environ | environment)


@pytest.mark.parametrize(
    ("redirections", "arguments", "code", "said"),
    [
        (">&-", ["transcribe", EXAMPLE], 2, "standard output is closed"),
        (">&-", ["listen", "--source", EXAMPLE], 2, "standard output is closed"),
        ("<&-", ["listen", "--source", "-"], 2, "standard input is closed"),
        (">/dev/full", ["transcribe", EXAMPLE], 2, "No space left on device"),
        ("<&-", ["transcribe", EXAMPLE], 0, ""),
        ("2>&-", ["transcribe", EXAMPLE], 0, ""),
    ],
)
@pytest.mark.slow
def test_a_standard_stream_that_is_closed_or_full_is_one_line_where_it_is_needed(
    redirections: str, arguments: list[str | Path], code: int, said: str
) -> None:
    result = program(redirections, *arguments)
    assert result.returncode == code
    assert said in result.stderr.decode()
    assert result.stderr.count(b"\n") == (1 if code else 0)
    assert (b"go" in result.stdout) == (code == 0)


def test_a_pipe_that_does_not_block_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    command = [*COMMAND, "listen", "--source", "-"]
    with subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listening:
        os.close(reading)
        assert listening.stderr is not None
        assert listening.stderr.readline().startswith(b"listening")
        samples, _ = soundfile.read(EXAMPLE, dtype="int16")
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(samples.tobytes())
        found, said = listening.communicate(timeout=PATIENCE_S)
    assert (listening.returncode, said) == (0, b"")
    expected = [b"yes", b"no", b"up", b"down", b"left", b"right", b"stop", b"go"]
    assert [line.split()[2] for line in found.splitlines()] == expected


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.slow
def test_names_that_standard_output_cannot_hold_lose_no_results(encoding: str, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.wav", "日本.wav", "🙂.wav")]
    for path in paths:
        shutil.copy(EXAMPLE, path)
    result = program("", "transcribe", *paths, "--format", "json", PYTHONIOENCODING=encoding)
    assert (result.returncode, result.stderr) == (0, b"")
    transcripts = json.loads(result.stdout)
    assert [Path(transcript["audio"]) for transcript in transcripts] == paths
    table = program("", "classify", *paths, PYTHONIOENCODING=encoding)
    assert (table.returncode, table.stdout.count(b"\n")) == (0, 3)


def test_warnings_of_libraries_are_shown_to_those_who_ask() -> None:
    code = (
        "import warnings; from speechrnn.cli import main; main.cli.callback = lambda: warnings.warn('oh'); main.main()"
    )
    for options, said in (((), b""), (("-W", "default"), b"oh")):
        result = subprocess.run(
            [sys.executable, *options, "-c", code], capture_output=True, check=False, timeout=PATIENCE_S
        )
        assert (said in result.stderr) and (bool(said) == bool(result.stderr))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("commands10", "commands10"),
        ("out/my-words.onnx", "my-words"),
        ("runs/a.b/best.pt", "best"),
        ("folders/my.words", "my.words"),
        ("owner/name@v1.2", "name@v1.2"),
    ],
)
def test_a_model_is_called_what_its_file_or_folder_is(model: str, expected: str) -> None:
    assert name_of(model) == expected
