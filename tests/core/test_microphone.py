"""Listening to a real PortAudio microphone: the same words as in the file, and the hard days."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread

import pytest
import soundfile

from tests import virtual_microphone
from tests.helpers import COMMAND, PATIENCE_S, wait_until
from tests.virtual_microphone import VirtualMicrophone

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "audio" / "commands.wav"
_LACKING = virtual_microphone.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(_LACKING), reason=f"no virtual microphone: {_LACKING} missing")]


class Listening:
    """A `speechrnn listen` process whose lines can be waited for."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "listen", "--jsonl", *arguments],
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.found: list[dict[str, object]] = []
        self._notes: Queue[str] = Queue()
        self._threads = [Thread(target=self._read_found), Thread(target=self._read_notes)]
        for thread in self._threads:
            thread.start()

    def _read_found(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.found.append(json.loads(line))

    def _read_notes(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._notes.put(line)

    def wait_for(self, text: str, timeout_s: float = PATIENCE_S) -> str:
        """The next note with this text."""
        end = time.monotonic() + timeout_s
        seen = []
        while time.monotonic() < end:
            try:
                seen.append(self._notes.get(timeout=0.1))
            except Empty:
                continue
            if text in seen[-1]:
                return seen[-1]
        raise TimeoutError(f"{text!r} did not come, but {seen}")

    def labels(self) -> list[object]:
        return [found["label"] for found in self.found]

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal and wait; its exit code."""
        self.process.send_signal(by)
        code = self.process.wait(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code


@pytest.fixture
def microphone(tmp_path: Path) -> Iterator[VirtualMicrophone]:
    folder = tmp_path / "sound"
    folder.mkdir()
    with VirtualMicrophone(folder) as server:
        yield server


@pytest.fixture
def excerpt(tmp_path: Path) -> Path:
    """The first four words of an example."""
    samples, rate_hz = soundfile.read(EXAMPLE, dtype="int16")
    path = tmp_path / "excerpt.wav"
    soundfile.write(path, samples[: 6 * rate_hz], rate_hz)
    return path


def of_file(path: Path) -> list[dict[str, object]]:
    """What `transcribe` finds in a file."""
    command = [*COMMAND, "transcribe", str(path), "--format", "json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found: list[dict[str, object]] = json.loads(output)["detections"]
    return found


def after_first_s(found: list[dict[str, object]]) -> list[float]:
    """When each word ended, counted from the first."""
    ends_s = [float(str(item["end_s"])) for item in found]
    return [end_s - ends_s[0] for end_s in ends_s]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_the_microphone_gives_what_the_file_gives(
    microphone: VirtualMicrophone, excerpt: Path, tmp_path: Path, by: signal.Signals
) -> None:
    saved = tmp_path / "heard.wav"
    listening = Listening(microphone.environment, "--save", str(saved))
    listening.wait_for("listening")
    microphone.play(excerpt)
    expected = of_file(excerpt)
    wait_until(lambda: len(listening.found) >= len(expected))
    assert listening.end(by) == 0
    assert listening.labels() == [item["label"] for item in expected]
    assert after_first_s(listening.found) == pytest.approx(after_first_s(expected), abs=0.101)
    assert [item["label"] for item in of_file(saved)] == listening.labels()
    labels = saved.with_suffix(".labels.txt").read_text().splitlines()
    assert [line.split("\t")[2] for line in labels] == listening.labels()


def test_a_microphone_that_goes_away_is_opened_again_when_it_is_back(
    microphone: VirtualMicrophone, excerpt: Path
) -> None:
    listening = Listening(microphone.environment)
    listening.wait_for("listening")
    microphone.kill()
    listening.wait_for("gone")
    microphone.start()
    listening.wait_for("is back")
    microphone.play(excerpt)
    expected = of_file(excerpt)
    wait_until(lambda: len(listening.found) >= len(expected))
    assert listening.end() == 0
    assert listening.labels() == [item["label"] for item in expected]


def test_no_sound_server_is_one_clear_line(microphone: VirtualMicrophone) -> None:
    microphone.kill()
    command = [*COMMAND, "listen", "--duration", "1"]
    environment = {**microphone.environment, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=PATIENCE_S)
    assert result.returncode == 2
    assert "no microphone found" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_devices_and_doctor_know_the_microphone(microphone: VirtualMicrophone, excerpt: Path) -> None:
    environment = {**microphone.environment, "PYTHONPATH": str(ROOT)}

    def run(verb: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, verb], capture_output=True, text=True, env=environment, check=False)

    assert any(line.startswith("*") and "default" in line for line in run("devices").stdout.splitlines())
    silent = run("doctor")
    assert silent.returncode == 2
    assert "nothing but silence" in silent.stdout
    ended = Event()

    def play() -> None:
        while not ended.is_set():
            microphone.play(excerpt)

    player = Thread(target=play)
    player.start()
    result = run("doctor")
    ended.set()
    player.join()
    assert result.returncode == 0, result.stdout
    assert "opened at 44100 Hz" in result.stdout
