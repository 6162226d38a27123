"""What `listen` does at each block: it ends on time, records the audio, and runs programs at detections."""

import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechrnn.audio import to_int16
from speechrnn.containers import WavWriter
from speechrnn.decoding import open_audio, read, read_recording
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, OutputError
from speechrnn.listening import listen
from speechrnn.recognizer import Recognizer, load
from speechrnn.sinks.command import CommandRunner
from speechrnn.sinks.recorder import Recorder
from speechrnn.sinks.running import run
from speechrnn.sources import ArraySource, FileSource
from speechrnn.spotter import KeywordSpotter, Step
from tests.helpers import PATIENCE_S, noise, write_audio

EXAMPLE = Path(__file__).parents[2] / "examples" / "audio" / "commands.wav"
WORD = Detection("yes", 0.9, 1.3, 0.95, 1.6)


def step(*found: Detection) -> Step:
    return Step(np.zeros(0, dtype=np.float32), None, list(found), 0.0)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load("commands10")


def test_duration_ends_it_on_the_sample_clock(recognizer: Recognizer, tmp_path: Path) -> None:
    spotter = KeywordSpotter(recognizer)
    recorder = Recorder(tmp_path / "heard.wav", 16000)
    run(ArraySource(read(EXAMPLE, 16000), 16000, block_samples=7001), spotter, [recorder], duration_s=2.5)
    assert soundfile.info(tmp_path / "heard.wav").frames == 40000


@pytest.mark.slow
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


RECORDED = (".wav", ".flac", ".ogg", ".mp3")


def recorded_s(path: Path) -> float:
    """How much can be read of a recording, in seconds."""
    return len(read_recording(path, 16000).samples) / 16000


@pytest.mark.parametrize("suffix", RECORDED)
@pytest.mark.slow
def test_a_recording_is_whole_up_to_where_the_disk_was_full(suffix: str, tmp_path: Path) -> None:
    saved, source = tmp_path / f"heard{suffix}", write_audio(tmp_path / "noise.wav", noise(60 * 16000))
    limit = 40_000 if suffix in (".ogg", ".mp3") else 300_000
    done = subprocess.run(
        [sys.executable, "-m", "speechrnn", "listen", "--source", str(source), "--jsonl", "--save", str(saved)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    kept = re.search(r"heard\.\w+: cannot be written on \(.+\); the first ([\d.]+) s are kept\n$", done.stderr)
    assert kept, done.stderr
    assert done.returncode == 2
    assert recorded_s(saved) >= float(kept[1]) - 3.5 > 0  # what an encoder had not written yet is lost


@pytest.mark.parametrize("suffix", RECORDED)
@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_a_recording_that_was_ended_by_force_can_be_read(how: signal.Signals, suffix: str, tmp_path: Path) -> None:
    saved = tmp_path / f"heard{suffix}"
    command = [sys.executable, "-m", "speechrnn", "listen", "--source", "-", "--jsonl", "--save", str(saved)]
    samples = read(EXAMPLE, 16000)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin and process.stdout
        process.stdin.write(to_int16(samples).tobytes())
        process.stdin.flush()
        for _ in range(7):  # of 8 words
            process.stdout.readline()
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):  # a signal just before a read is seen at the next block
            process.wait(30)
        process.stdin.close()
        process.wait(PATIENCE_S)
    missing_s = len(samples) / 16000 - recorded_s(saved)
    assert missing_s < (2.5 if suffix == ".wav" or how is not signal.SIGKILL else 8)
    if suffix == ".wav" or how is not signal.SIGKILL:
        assert read_recording(saved, 16000).problem == ""


@pytest.mark.slow
def test_a_wav_beyond_four_gib_is_an_rf64_that_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    writer = WavWriter(path, 16000)
    writer.write(to_int16(noise(16000)))
    writer._file.truncate(2**32)  # a hole takes no room
    writer._n_bytes = 2**32 - 80
    writer._file.seek(0, 2)
    writer.write(to_int16(noise(16000)))
    writer.close()
    assert path.read_bytes()[:4] == b"RF64"
    with open_audio(path) as file:
        assert file.duration_s == (2**31 - 40 + 16000) / 16000
        assert file.problem == ""
    with path.open("rb") as file:
        file.seek(-32000, 2)
        np.testing.assert_array_equal(np.frombuffer(file.read(), "<i2"), to_int16(noise(16000)))


def test_a_wav_is_an_ordinary_one_that_others_read(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / "a.wav", 16000)
    for block in np.split(noise(16000), [1, 700]):
        writer.write(to_int16(block))
    samples, rate_hz = soundfile.read(tmp_path / "a.wav", dtype="int16")  # it is whole before it is closed
    writer.close()
    assert rate_hz == 16000
    np.testing.assert_array_equal(samples, to_int16(noise(16000)))


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
    assert time.monotonic() - started < 30
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


def test_what_a_program_gets_is_the_label_whatever_its_characters_are(tmp_path: Path) -> None:
    runner = CommandRunner(f"touch '{tmp_path}/{{{{{{label}}}}}}'", print)
    for label in ("はい {score}", "-rf $HOME"):
        runner.write(step(Detection(label, 0.9, 1.3, 0.95, 1.6)))
    runner.close()
    assert {path.name for path in tmp_path.iterdir()} == {"{はい {score}}", "{-rf $HOME}"}


UNPLAIN = ["echo {label.x}", "echo {label[x]}", "echo {score!r}", "echo {score:9999999999}", 'say {"word":"{label}"}']


@pytest.mark.parametrize("command", ["", "echo 'half", "echo {word}", "echo {0}", *UNPLAIN])
def test_a_command_that_makes_no_sense_is_refused(command: str) -> None:
    with pytest.raises(ConfigError, match="--run"):
        CommandRunner(command, print)
