"""Listening without a device: pipes, real time, slow consumers, programs run at detections, and what is kept."""

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from speechrnn import listening, sources
from speechrnn.audio import Samples, to_int16
from speechrnn.decoding import read
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, DeviceError
from speechrnn.listening import BackgroundListener, listen, transcribe
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import ArraySource, FileSource, Microphone, PipeSource, RealTimeSource
from speechrnn.spec import Options
from tests.helpers import PATIENCE_S, assert_one_line, run, sine

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "audio" / "commands.wav"
WORD = Detection("yes", 0.9, 1.3, 0.95, 1.6)
NOTHING = np.zeros(0, dtype=np.float32)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load("commands10")


def example() -> Samples:
    return read(EXAMPLE, 16000)


def pcm(samples: Samples) -> bytes:
    return to_int16(samples).tobytes()


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (44100, 2), (48000, 1)])
def test_a_pipe_is_mixed_and_resampled(rate_hz: int, channels: int) -> None:
    time_s = np.arange(rate_hz) / rate_hz
    tone = np.repeat(0.5 * np.sin(2 * np.pi * 440 * time_s)[:, None], channels, axis=1).astype(np.float32)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb") as target:
        data = pcm(tone)
        threading.Thread(target=_write_in_odd_pieces, args=(target, data)).start()
        samples = np.concatenate(list(PipeSource(pipe, rate_hz, channels=channels).blocks(16000)))
    assert len(samples) == pytest.approx(16000, abs=2)
    assert np.abs(np.fft.rfft(samples)).argmax() == pytest.approx(440, abs=1)


def _write_in_odd_pieces(target: io.BufferedWriter, data: bytes) -> None:
    with target:
        for start in range(0, len(data), 4099):
            target.write(data[start : start + 4099])
            target.flush()


def test_a_real_time_source_keeps_the_time_of_the_sound() -> None:
    source = RealTimeSource(ArraySource(np.zeros(8000, dtype=np.float32), 16000))
    started = time.monotonic()
    assert sum(map(len, source.blocks(16000))) == 8000
    assert 0.45 < time.monotonic() - started < PATIENCE_S


@pytest.mark.slow
@pytest.mark.parametrize("name", ["commands.wav", "drive.flac", "menu.ogg"])
def test_transcribe_listen_the_background_and_the_command_line_find_the_same(name: str, recognizer: Recognizer) -> None:
    path = EXAMPLE.with_name(name)
    found = transcribe(path)
    assert found == transcribe(str(path), model=recognizer) == transcribe(FileSource(path)) != []
    assert found == list(listen(path)) == list(listen(str(path))) == list(listen(FileSource(path)))
    called: list[Detection] = []
    BackgroundListener(called.append, path).wait()
    assert called == found
    printed = json.loads(run("transcribe", path, "--format", "json").stdout)["detections"]
    assert [Detection(**item) for item in printed] == found


@pytest.mark.parametrize(
    ("choice", "arguments"),
    [
        ({"threshold": 0.99}, ["--threshold", "0.99"]),
        ({"threshold": {"yes": 1.0, "go": 0.99}}, ["--threshold", "yes=1", "--threshold", "go=0.99"]),
        ({"operating_point": "strict"}, ["--operating-point", "strict"]),
        ({"keywords": ["left", "stop"]}, ["--keywords", "left,stop"]),
        ({"operating_point": "sensitive", "keywords": ["go"], "threshold": 0.5}, ["--operating-point", "sensitive"]),
    ],
)
@pytest.mark.slow
def test_a_choice_means_in_python_what_it_means_on_the_command_line(
    choice: dict[str, Any], arguments: list[str], recognizer: Recognizer
) -> None:
    if len(choice) > 1:
        arguments = [*arguments, "--keywords", "go", "--threshold", "0.5"]
    lines = run("listen", "--source", EXAMPLE, "--jsonl", *arguments).stdout.splitlines()
    assert [Detection(**json.loads(line)) for line in lines] == transcribe(EXAMPLE, model=recognizer, **choice) != []


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"keywords": ["maybe"]}, "maybe: no keyword of this model"),
        ({"threshold": {"maybe": 0.5}}, "maybe: no keyword of this model"),
        ({"threshold": 2}, "got threshold = 2"),
        ({"operating_point": "lax"}, "lax: no operating point of this model"),
        ({"operating_point": "strict", "options": Options()}, "expected it or options, got both"),
    ],
)
def test_a_choice_that_does_not_fit_is_one_line(choice: dict[str, Any], expected: str, recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError) as caught:
        transcribe(EXAMPLE, model=recognizer, **choice)
    assert_one_line(caught.value, expected)


@pytest.mark.slow
def test_listen_yields_and_the_background_calls(recognizer: Recognizer) -> None:
    yielded = list(listen(FileSource(EXAMPLE), model=recognizer))
    called: list[Detection] = []
    BackgroundListener(called.append, FileSource(EXAMPLE), model=recognizer).wait()
    assert called == yielded != []


@pytest.mark.parametrize("rate_hz", [16000, 22050, 44100, 48000])
@pytest.mark.slow
def test_the_words_do_not_depend_on_the_rate_of_the_source(recognizer: Recognizer, rate_hz: int) -> None:
    found = list(listen(ArraySource(read(EXAMPLE, rate_hz), rate_hz), model=recognizer))
    assert [detection.label for detection in found] == ["yes", "no", "up", "down", "left", "right", "stop", "go"]


def test_an_error_of_the_callback_comes_back(recognizer: Recognizer) -> None:
    def fail(found: Detection) -> None:
        raise ZeroDivisionError(found.label)

    with pytest.raises(ZeroDivisionError):
        BackgroundListener(fail, FileSource(EXAMPLE), model=recognizer).wait()


class Watched(ArraySource):
    """An array that notes which thread reads it and which closes it."""

    def __init__(self) -> None:
        super().__init__(example(), 16000, block_samples=1600)
        self.threads: list[str] = []

    def native_blocks(self) -> Iterator[Samples]:
        self.threads.append(threading.current_thread().name)
        yield from super().native_blocks()

    def close(self) -> None:
        self.threads.append(threading.current_thread().name)


def test_a_callback_may_stop_the_listening(recognizer: Recognizer) -> None:
    called: list[Detection] = []
    ready = threading.Event()

    def once(found: Detection) -> None:
        called.append(found)
        ready.wait(PATIENCE_S)
        listener.stop()

    source = Watched()
    with BackgroundListener(once, source, model=recognizer) as listener:
        ready.set()
        listener.wait()
    assert [found.label for found in called] == ["yes"]
    assert source.threads == ["speechrnn", "speechrnn"]


@pytest.mark.slow
def test_stopping_waits_for_the_thread_and_reports_no_more(recognizer: Recognizer) -> None:
    called: list[Detection] = []
    detected = threading.Event()

    def note(found: Detection) -> None:
        called.append(found)
        detected.set()

    source = Watched()
    listener = BackgroundListener(note, RealTimeSource(source), model=recognizer)
    assert detected.wait(PATIENCE_S)
    listener.stop()
    assert source.threads == ["speechrnn", "speechrnn"]
    assert 1 <= len(called) < 8  # those that came before it was stopped
    listener.stop()


def test_a_blocked_pipe_is_left_to_its_thread(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_PATIENCE_S", 0.1)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb") as target:
        listener = BackgroundListener(print, PipeSource(pipe, 16000), model=recognizer)
        listener.stop()
        target.write(b"..")
        target.flush()
        listener.wait()


def test_options_that_do_not_fit_open_no_source(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "Microphone", lambda **options: pytest.fail("the microphone was opened"))
    with pytest.raises(ConfigError, match="maybe"):
        BackgroundListener(print, model=recognizer, options=Options(keywords=("maybe",)))


class FakeSound:
    """Stands in for sounddevice: refuses one step of opening, plays when started; the test calls its callback."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.callback: Callable[..., None] = lambda *arguments: None
        self.refuses = ""
        self.rate_hz = 16000.0
        self.n_open = 0
        self.plays = np.zeros((0, 1), dtype=np.float32)

    def _step(self, name: str, n_opened: int) -> None:
        if name == self.refuses:
            raise self.PortAudioError(f"{name} failed [PaErrorCode -9985]")
        self.n_open += n_opened

    def query_devices(self, device: object, kind: str) -> dict[str, Any]:
        self._step("query", 0)
        return {"name": "fake", "default_samplerate": self.rate_hz, "max_input_channels": 1}

    def InputStream(self, callback: Callable[..., None], **options: object) -> SimpleNamespace:  # noqa: N802
        self._step("open", 1)
        self.callback = callback
        return SimpleNamespace(start=self._start, abort=lambda: None, close=lambda: self._step("close", -1))

    def _start(self) -> None:
        self._step("start", 0)
        if len(self.plays):
            self.callback(self.plays, len(self.plays), None, None)

    def _terminate(self) -> None:
        self._step("terminate", 0)

    def _initialize(self) -> None:
        self._step("initialize", 0)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> FakeSound:
    """A fake device, given up soon."""
    fake = FakeSound()
    monkeypatch.setattr(sources, "_import_sounddevice", lambda: fake)
    monkeypatch.setattr(sources, "_LOST_AFTER_S", 0.05)
    monkeypatch.setattr(sources, "_RETRY_EVERY_S", 0.01)
    return fake


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("query", "no microphone found (query failed)"),
        ("open", "microphone fake: cannot be opened (open failed); end the program that uses it"),
        ("start", "microphone fake: cannot be opened (start failed); end the program that uses it"),
    ],
)
def test_a_device_that_refuses_is_one_line_and_not_kept_open(sound: FakeSound, step: str, expected: str) -> None:
    sound.refuses = step
    with pytest.raises(DeviceError) as caught:
        Microphone()
    assert_one_line(caught.value, expected)
    assert sound.n_open == 0


@pytest.mark.parametrize("step", ["query", "open", "start", "initialize", "terminate"])
def test_a_device_that_went_away_is_waited_for_until_it_can_be_opened(sound: FakeSound, step: str) -> None:
    events: list[str] = []
    with Microphone(on_event=events.append) as microphone:
        blocks = microphone.blocks(16000)
        sound.refuses = step
        assert [len(next(blocks)) for _ in range(3)] == [0, 0, 0]
        sound.refuses, sound.plays = "", np.ones((320, 1), dtype=np.float32)
        assert len(next(blocks)) == 320
    assert ["gone" in events[0], "is back" in events[1]] == [True, True]
    assert sound.n_open == 0


def test_a_listener_whose_microphone_went_away_can_be_stopped(sound: FakeSound, recognizer: Recognizer) -> None:
    listener = BackgroundListener(print, model=recognizer)
    sound.refuses = "open"
    time.sleep(0.2)
    listener.stop()
    assert not listener._thread.is_alive()
    assert sound.n_open == 0


def test_a_slow_consumer_loses_blocks_but_not_the_time(sound: FakeSound) -> None:
    microphone = Microphone(queue_s=1.0)
    for number in range(80):  # 1.6 s, of which 1 s has room
        sound.callback(np.full((320, 1), number / 100, dtype=np.float32), 320, None, None)
    assert microphone.n_dropped_samples == 30 * 320
    blocks = microphone.blocks(16000)
    received = [next(blocks)]
    sound.callback(np.ones((320, 1), dtype=np.float32), 320, None, None)
    received += [next(blocks) for _ in range(51)]
    assert [len(block) for block in received] == [320] * 50 + [30 * 320, 320]
    assert not received[-2].any()
    assert received[-1].all()
    microphone.close()
    microphone.close()


def test_a_microphone_whose_channels_cancel_each_other_is_heard_after_a_second_and_told(sound: FakeSound) -> None:
    events: list[str] = []
    with Microphone(on_event=events.append) as microphone:
        blocks, stereo = microphone.native_blocks(), np.outer(sine(440, 0.02), [1, -1]).astype(np.float32)
        for _ in range(100):
            sound.callback(stereo, 320, None, None)
        received = np.concatenate([next(blocks) for _ in range(100)])
    assert not received[:16000].any()
    np.testing.assert_array_equal(received[16000:], np.tile(sine(440, 0.02), 50))
    assert events == ["fake: its channels cancel each other; from here on one alone is taken"]


def test_a_device_that_comes_back_at_another_rate_is_resampled_to_the_first(sound: FakeSound) -> None:
    with Microphone() as microphone:
        blocks = microphone.native_blocks()
        sound.rate_hz, sound.plays = 48000.0, np.zeros((48000, 1), dtype=np.float32)
        lengths = [len(next(blocks)) for _ in range(2)]
        assert microphone.sample_rate_hz == 16000
    assert lengths[0] == 0
    assert 15000 < lengths[1] <= 16000
