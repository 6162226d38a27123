"""What `listen` does at each block: it ends on time, records what was heard, and runs programs at detections."""

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechrnn.cli.sinks import CommandRunner, Recorder, run
from speechrnn.decoding import read
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, OutputError
from speechrnn.listening import listen
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import ArraySource, FileSource
from speechrnn.spotter import KeywordSpotter, Step

EXAMPLE = Path(__file__).parents[2] / "examples" / "audio" / "commands.wav"
WORD = Detection("yes", 0.9, 1.3, 0.95, 1.6)


def step(*found: Detection) -> Step:
    return Step(np.zeros(0, dtype=np.float32), None, list(found), 0.0)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load("commands8")


def test_duration_ends_it_on_the_sample_clock(recognizer: Recognizer, tmp_path: Path) -> None:
    spotter = KeywordSpotter(recognizer)
    recorder = Recorder(tmp_path / "heard.wav", 16000)
    run(ArraySource(read(EXAMPLE, 16000), 16000, block_samples=7001), spotter, [recorder], duration_s=2.5)
    assert soundfile.info(tmp_path / "heard.wav").frames == 40000


def test_the_saved_file_gives_the_same_words(recognizer: Recognizer, tmp_path: Path) -> None:
    saved = tmp_path / "heard.flac"
    run(FileSource(EXAMPLE), KeywordSpotter(recognizer), [Recorder(saved, 16000)])
    again = [found.label for found in listen(FileSource(saved), model=recognizer)]
    labels = saved.with_suffix(".labels.txt").read_text().splitlines()
    assert [line.split("\t")[2] for line in labels] == again != []


@pytest.mark.parametrize("name", ["no/such/\0folder.wav", "heard.xyz"])
def test_a_place_that_cannot_be_recorded_to_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        Recorder(tmp_path / name, 16000)


def test_a_program_is_run_without_a_shell(tmp_path: Path) -> None:
    target = tmp_path / "a file; with $HOME in {braces}"
    reports: list[str] = []
    runner = CommandRunner(f"touch '{tmp_path}/{{label}} {{score}}; $HOME'", reports.append)
    runner.write(step(WORD))
    runner.close()
    assert (tmp_path / "yes 0.95; $HOME").exists()
    assert not target.exists()
    assert reports == []


def test_programs_that_hang_or_fail_are_reported_and_never_waited_for() -> None:
    reports: list[str] = []
    hanging = CommandRunner("sleep 60", reports.append)
    started = time.monotonic()
    hanging.write(step(*[WORD] * 9))
    assert time.monotonic() - started < 5
    assert len(reports) == 1
    assert "skipped one for yes" in reports[0]
    hanging.close(patience_s=0.1)
    assert sum("was stopped" in line for line in reports) == 8
    failing = CommandRunner("false", reports.append)
    failing.write(step(WORD))
    failing.close()
    assert "exit code 1" in reports[-1]
    CommandRunner("/no/such/program", reports.append).write(step(WORD))
    assert "cannot start" in reports[-1]


@pytest.mark.parametrize("command", ["", "echo 'half", "echo {word}", "echo {0}"])
def test_a_command_that_makes_no_sense_is_refused(command: str) -> None:
    with pytest.raises(ConfigError, match="--run"):
        CommandRunner(command, print)
