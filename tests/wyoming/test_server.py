"""The Wyoming server with wyoming's own client: it detects what `transcribe` does, for many, and outlives bad ones."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event, Eventable
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.wake import Detect

import speechrnn
from speechrnn.audio import Samples
from speechrnn.clients import admission
from speechrnn.decoding import read
from speechrnn.errors import ConfigError, DeviceError
from speechrnn.formats import to_object
from speechrnn.listening import spot
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import ArraySource
from speechrnn.spotter import KeywordSpotter
from speechrnn.wyoming import server, session
from tests.helpers import EXAMPLE, PATIENCE_S, ROOT, assert_one_line, fake_recognizer, run, silence, wait_until, word
from tests.wyoming.server import Serving, audio, converse, found_in

STREAM = np.concatenate([silence(0.5), word("yes"), silence(1), word("no"), silence(1)])
WORDS = ["yes", "no", "up", "down", "left", "right", "stop", "go"]
CHUNK = AudioChunk(rate=16000, width=2, channels=1, audio=bytes(3200))


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load("commands10")


@pytest.fixture(scope="module")
def real(recognizer: Recognizer) -> Iterator[Serving]:
    with Serving(recognizer) as running:
        yield running


def expected(recognizer: Recognizer, samples: Samples, rate_hz: int = 16000, **options: Any) -> list[dict[str, object]]:
    """What `transcribe` finds in samples, as JSON."""
    spotter = KeywordSpotter(recognizer, recognizer.info.options.with_choice(**options))
    source = ArraySource(samples, rate_hz)
    return [to_object(found) for step in spot(source.blocks(16000), spotter) for found in step.detections]


@pytest.mark.slow
@pytest.mark.parametrize("n_frames", [160, 1024, 30000])
def test_detections_are_those_of_transcribe_to_the_sample(real: Serving, n_frames: int) -> None:
    result = run("transcribe", EXAMPLE, "--model", "commands10", "--format", "json")
    answers = real.converse(*audio(read(EXAMPLE, 16000), n_frames=n_frames), until=["detection"], n=8)
    assert found_in(answers) == json.loads(result.stdout)["detections"]
    assert [event.data["name"] for event in answers] == WORDS
    assert [event.data["timestamp"] for event in answers] == [1450, 3050, 4550, 6150, 7850, 9450, 10850, 12550]


@pytest.mark.slow
@pytest.mark.parametrize(("rate_hz", "width", "n_channels"), [(8000, 4, 1), (22050, 3, 1), (48000, 2, 2)])
def test_audio_of_any_rate_width_and_channels_gives_what_a_file_of_it_does(
    real: Serving, recognizer: Recognizer, rate_hz: int, width: int, n_channels: int
) -> None:
    samples = read(EXAMPLE, rate_hz)
    samples = (np.rint(samples * 2**15) / 2**15).astype(np.float32).clip(-1, 1 - 2**-15)
    wanted = expected(recognizer, samples, rate_hz)
    sent = samples if n_channels == 1 else np.stack([samples] * n_channels, axis=1)
    answers = real.converse(*audio(sent, rate_hz, width), until=["detection"], n=len(wanted))
    assert found_in(answers) == wanted
    assert len(wanted) >= 5  # of eight; 8 kHz costs three


@pytest.mark.slow
def test_only_what_was_asked_for_is_detected_as_with_keywords(real: Serving, recognizer: Recognizer) -> None:
    samples = read(EXAMPLE, 16000)
    answers = real.converse(Detect(["stop", "go"]), *audio(samples), until=["detection"], n=2)
    assert found_in(answers) == expected(recognizer, samples, keywords=["stop", "go"])


@pytest.mark.slow
def test_speech_to_text_gives_the_words_in_their_order(real: Serving) -> None:
    (answer,) = real.converse(Transcribe(language="en", context={"a": 1}), *audio(read(EXAMPLE, 16000)))
    assert (answer.type, answer.data) == ("transcript", {"text": " ".join(WORDS), "context": {"a": 1}})


@pytest.mark.slow
def test_forty_clients_at_once_get_what_one_alone_gets(
    real: Serving, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission.Admission, "capacity", 64)  # they speak faster than in real time
    samples = read(EXAMPLE, 16000)[: 5 * 16000]

    async def ask_all() -> list[list[Event]]:
        said = [Detect(), *audio(samples, n_frames=4000)]
        return await asyncio.gather(*(converse(real.uri, said, ["detection"], 3) for _ in range(40)))

    wanted = expected(recognizer, samples)
    assert len(wanted) == 3
    assert all(found_in(answers) == wanted for answers in asyncio.run(ask_all()))
    wait_until(lambda: real.server.admission.n_clients == 0)


def test_what_is_served_is_described_with_versions(fake_serving: Serving) -> None:
    (answer,) = fake_serving.converse(Describe(), until=["info"])
    info = Info.from_event(answer)
    (wake,), (asr,) = info.wake, info.asr
    assert (wake.name, wake.version) == ("speechrnn", speechrnn.__version__)
    assert [(model.name, model.phrase, model.languages) for model in wake.models] == [
        ("yes", "yes", ["en"]),
        ("no", "no", ["en"]),
    ]
    assert [(model.name, model.languages, bool(model.version)) for model in asr.models] == [("fake", ["en"], True)]
    assert all(program.installed for program in (wake, asr, *wake.models, *asr.models))


def test_each_word_is_a_detection_and_the_connection_goes_on(fake_serving: Serving) -> None:
    said = [Detect(context={"room": "hall"}), *audio(STREAM), *audio(STREAM), Ping("still there?")]
    answers = fake_serving.converse(*said, until=["pong"])
    assert [event.data.get("name") for event in answers] == ["yes", "no", "yes", "no", None]
    assert all(event.data["context"] == {"room": "hall"} for event in answers[:4])
    assert answers[-1].data == {"text": "still there?"}


def test_audio_without_a_word_that_was_asked_for_ends_with_not_detected(fake_serving: Serving) -> None:
    only_no = [Detect(["no"]), *audio(np.concatenate([word("yes"), silence(1)]))]
    assert [event.type for event in fake_serving.converse(*only_no)] == ["not-detected"]
    assert [event.type for event in fake_serving.converse(Detect(), AudioStop())] == ["not-detected"]


def test_nothing_said_is_an_empty_transcript(fake_serving: Serving) -> None:
    (answer,) = fake_serving.converse(Transcribe(), *audio(silence(1)))
    assert (answer.type, answer.data["text"]) == ("transcript", "")


def test_satellites_need_no_start_and_count_time_from_their_own_clock(fake_serving: Serving) -> None:
    events = audio(STREAM, start=False)
    assert isinstance(events[0], AudioChunk)
    events[0].timestamp = 100_000
    first, second = fake_serving.converse(Detect(), *events, until=["detection"], n=2)
    assert first.data["timestamp"] == 100_000 + round(1000 * first.data["end_s"])
    assert second.data["timestamp"] == 100_000 + round(1000 * second.data["end_s"])


def test_a_new_request_begins_anew(fake_serving: Serving) -> None:
    first_half, second_half = np.split(STREAM, [len(silence(0.5)) + 800])
    said = [*audio(first_half)[:-1], Detect(["no"]), *audio(second_half)]
    (found,) = fake_serving.converse(*said, until=["detection"])
    assert found.data["label"] == "no"
    assert found.data["end_s"] < len(second_half) / 16000


def test_words_of_several_models_are_told_apart_by_name() -> None:
    other = ("other", fake_recognizer(), fake_recognizer().info.options)
    with Serving(fake_recognizer(), other, languages=["en", "de"]) as running:
        (info,) = running.converse(Describe(), until=["info"])
        models = Info.from_event(info).wake[0].models
        assert [model.name for model in models] == ["yes", "no", "yes (other)", "no (other)"]
        assert {model.phrase for model in models} == {"yes", "no"}
        assert models[0].languages == ["en", "de"]
        (found,) = running.converse(Detect(["no (other)"]), *audio(STREAM), until=["detection"])
        assert (found.data["name"], found.data["label"]) == ("no (other)", "no")
        both = running.converse(Detect(["no", "no (other)"]), *audio(STREAM), until=["detection"], n=2)
        assert {event.data["name"] for event in both} == {"no", "no (other)"}
        (text,) = running.converse(Transcribe(name="other"), *audio(STREAM))
        assert text.data["text"] == "yes no"


def test_two_models_of_one_name_are_refused() -> None:
    models = [("a", fake_recognizer(), fake_recognizer().info.options)] * 2
    with pytest.raises(ConfigError, match="two models of one name"):
        server.Server(models)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([Detect(["hey"])], "detect hey: no keyword of this server, which has yes, no"),
        ([Transcribe(name="whisper")], "transcribe whisper: no model of this server, which has fake"),
        ([CHUNK, AudioChunk(rate=8000, width=2, channels=1, audio=bytes(2))], "audio of one format"),
        ([AudioChunk(rate=16000, width=2, channels=1, audio=bytes(3))], "whole frames of 1 samples of 2 bytes"),
        ([AudioStart(rate=0, width=2, channels=1)], "audio-start: "),
    ],
)
def test_a_client_that_asks_for_what_is_not_there_is_told_and_logged(
    fake_serving: Serving, said: list[Eventable], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    (answer,) = fake_serving.converse(*said, until=["never"])
    assert (answer.type, answer.data["code"]) == ("error", "malformed")
    assert expected in answer.data["text"]
    wait_until(lambda: expected in caplog.text)


@pytest.mark.slow
def test_a_client_that_goes_silent_gives_its_place_back_and_keeps_its_connection() -> None:
    async def pause(running: Serving) -> list[Event]:
        async with asyncio.timeout(PATIENCE_S), AsyncClient.from_uri(running.uri) as client:
            await client.write_event(CHUNK.event())
            while running.counted("idle") == 0 or running.server.admission.n_clients > 0:
                await asyncio.sleep(0.01)
            for event in audio(STREAM):
                await client.write_event(event.event())
            return [event async for event in _first(client, 2)]

    with Serving(fake_recognizer(), idle_s=2) as running:
        answers = asyncio.run(pause(running))
        assert [event.data["name"] for event in answers] == ["yes", "no"]
        assert running.counted("idle") == 1


async def _first(client: AsyncClient, n: int) -> Any:
    for _ in range(n):
        event = await client.read_event()
        assert event is not None
        yield event


def test_a_connection_on_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MAX_PAUSE_S", 0.2)
    with Serving(fake_recognizer()) as running:
        (answer,) = running.converse(until=["never"])
        assert (answer.data["code"], answer.data["text"]) == ("idle", "nothing came for 0.2 s")
        wait_until(lambda: not running.server.connections)


def test_no_more_are_let_in_than_there_are_places() -> None:
    async def two(uri: str) -> Any:
        async with asyncio.timeout(PATIENCE_S), AsyncClient.from_uri(uri) as first, AsyncClient.from_uri(uri) as second:
            await first.write_event(CHUNK.event())
            await first.write_event(Ping().event())
            assert (await first.read_event()) is not None  # so that the place is taken
            await second.write_event(CHUNK.event())
            return await second.read_event()

    with Serving(fake_recognizer(), max_clients=1) as running:
        refused = asyncio.run(two(running.uri))
        assert refused is not None
        assert (refused.type, refused.data["code"]) == ("error", "full")


@pytest.mark.slow
def test_clients_are_told_when_the_server_ends() -> None:
    async def listen(running: Serving) -> Any:
        async with asyncio.timeout(PATIENCE_S), AsyncClient.from_uri(running.uri) as client:
            await client.write_event(CHUNK.event())
            await client.write_event(Ping().event())
            assert (await client.read_event()) is not None
            await asyncio.to_thread(running.stop)
            return await client.read_event()

    with Serving(fake_recognizer()) as running:
        told = asyncio.run(listen(running))
        assert told is not None
        assert (told.type, told.data["code"]) == ("error", "stopped")


def _event(kind: str, data: object, payload: bytes, wrong_length: int) -> bytes:
    encoded = json.dumps(data).encode()
    head = {"type": kind, "data_length": len(encoded), "payload_length": max(0, len(payload) + wrong_length)}
    return json.dumps(head).encode() + b"\n" + encoded + payload


kinds = st.sampled_from(["describe", "detect", "transcribe", "audio-start", "audio-chunk", "audio-stop", "ping", "x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(["rate", "width", "channels", "names", "name", "context", "text", "timestamp"])
forms = st.fixed_dictionaries(
    {"rate": st.sampled_from([8000, 16000, 44100]), "width": st.integers(1, 4), "channels": st.integers(1, 3)}
)
made = st.builds(
    _event, kinds, forms | st.dictionaries(fields, values, max_size=4) | values, st.binary(max_size=300),
    st.sampled_from([0, 0, 0, -1, 1]),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(made | st.binary(max_size=60), min_size=1, max_size=8))
def test_a_server_outlives_whatever_bytes_are_sent(fake_serving: Serving, sent: list[bytes]) -> None:
    broken = fake_serving.counted("broken")
    with socket.create_connection(fake_serving.listening.getsockname(), PATIENCE_S) as client:
        client.sendall(b"".join(sent))
        client.shutdown(socket.SHUT_WR)
        try:
            while client.recv(65536):
                pass
        except ConnectionResetError:
            pass
    assert fake_serving.counted("broken") == broken
    (pong,) = fake_serving.converse(Ping("alive"), until=["pong"])
    assert pong.data == {"text": "alive"}


def test_a_socket_in_the_file_system_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "speechrnn.socket"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with Serving(fake_recognizer(), uri=f"unix://{path}") as running:
        answers = running.converse(*audio(STREAM), until=["detection"], n=2)
        assert [event.data["name"] for event in answers] == ["yes", "no"]
        with pytest.raises(DeviceError, match="cannot listen there"):
            server.bound(server.parse(running.uri), running.server).__enter__()
        wait_until(lambda: not running.server.connections)
    assert not path.exists()


@pytest.mark.slow
def test_standard_streams_are_served_until_they_end() -> None:
    command = [sys.executable, "-m", "speechrnn", "wyoming", "--uri", "stdio://", "--model", "commands10"]
    said = [Detect(["stop"]), *audio(read(EXAMPLE, 16000)), Ping("end")]
    data = b""
    for event in (said_event.event() for said_event in said):
        payload, encoded = event.payload or b"", json.dumps(event.data).encode()
        head = {"type": event.type, "data_length": len(encoded), "payload_length": len(payload)}
        data += json.dumps(head).encode() + b"\n" + encoded + payload
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=PATIENCE_S, cwd=ROOT)
    lines = done.stdout.split(b"\n")
    assert [json.loads(line[line.find(b'{"type"') :])["type"] for line in lines[:-1]] == ["detection", "pong"]
    assert b'"timestamp":10850' in done.stdout


def test_counters_are_shown_where_they_were_asked_for(fake_serving: Serving) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server.show_counters(fake_serving.server.metrics, port)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).read().decode()
    assert "speechrnn_clients 0.0" in text
    assert "speechrnn_capacity " in text
    with pytest.raises(DeviceError, match=f"--metrics-port {port}: cannot listen there"):
        server.show_counters(fake_serving.server.metrics, port)


@pytest.mark.parametrize("uri", ["http://localhost", "tcp://", "unix://", "tcp://host:port", "10400", "tcp://[::1"])
def test_another_uri_is_refused(uri: str) -> None:
    assert_one_line(run("wyoming", "--uri", uri), uri, "expected tcp://HOST:PORT, unix:///PATH or stdio://")


def test_a_port_that_is_taken_is_named_with_advice(fake_serving: Serving) -> None:
    failure = run("wyoming", "--uri", fake_serving.uri)
    assert_one_line(failure, str(fake_serving.listening.getsockname()[1]), "give another --uri")


def test_a_server_that_only_this_machine_reaches_is_not_announced() -> None:
    assert_one_line(
        run("wyoming", "--uri", "tcp://127.0.0.1:0", "--zeroconf"), "--zeroconf: 127.0.0.1", "tcp://0.0.0.0"
    )
    assert_one_line(run("wyoming", "--uri", "stdio://", "--zeroconf"), "belongs to --uri tcp://HOST:PORT")


def test_a_word_that_is_no_keyword_is_refused() -> None:
    assert_one_line(run("wyoming", "--keywords", "halt"), "halt: no keyword of this model")
