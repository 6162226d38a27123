"""The server behind the page: the same words as in a file, whoever else speaks, and nothing for strangers to break."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import msgspec
import numpy as np
import pytest
import soundfile
import soxr
from click.testing import CliRunner
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed

from speechrnn.audio import Resampler, Samples, from_int16, to_int16
from speechrnn.cli.main import cli
from speechrnn.clients import admission, connections
from speechrnn.clients.batching import Batcher
from speechrnn.decoding import read
from speechrnn.recognizer import Recognizer
from speechrnn.serving import app as server
from speechrnn.serving import conversation, http1, takes, transcription, uploads
from speechrnn.spotter import KeywordSpotter
from speechrnn.teaching.judging import Refused, judge
from tests.helpers import COMMAND, PATIENCE_S, fake_recognizer, noise, silence, sine, wait_until, word, write_audio
from tests.serving.server import (
    BINARY,
    EXAMPLES,
    ROOT,
    SETTINGS,
    Serving,
    closed,
    connect,
    converse,
    counters,
    found_in,
    frame,
    pcm,
    raw_client,
    start,
    upload,
)

WEB = ROOT / "speechrnn" / "serving" / "web"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SPEECH = np.concatenate(
    [silence(0.5), word("yes"), silence(1.0), word("no"), word("unknown"), silence(0.4), word("yes", 0.15)]
)
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def spotted(samples: Samples, rate_hz: int = 16000) -> list[dict[str, Any]]:
    """What a spotter of the same fake model finds in what a client sends."""
    spotter = KeywordSpotter(fake_recognizer())
    resampler = Resampler(rate_hz, 16000)
    sent = from_int16(to_int16(samples))
    found = spotter.push(resampler.push(sent)) + spotter.push(resampler.push(silence(0), last=True)) + spotter.finish()
    return [msgspec.to_builtins(detection) for detection in found]


# Conversations


@pytest.mark.parametrize("block_samples", [7, 333, 1600, 30000])
def test_a_client_is_told_what_a_spotter_finds_however_it_cuts_its_audio(serving: Serving, block_samples: int) -> None:
    samples = SPEECH if block_samples > 7 else SPEECH[:16000]
    with serving.connect() as websocket:
        answers = converse(websocket, samples, block_samples)
    assert found_in(answers) == spotted(samples) != []


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000])
def test_audio_of_any_rate_is_resampled_as_a_microphones_is(serving: Serving, rate_hz: int) -> None:
    samples = np.repeat(SPEECH, 3)
    with serving.connect() as websocket:
        answers = converse(websocket, samples, 2205, rate_hz=rate_hz)
    assert found_in(answers) == spotted(samples, rate_hz) != []
    assert answers[-1]["duration_s"] == pytest.approx(len(samples) / rate_hz, abs=1e-3)


def test_every_step_is_answered_with_its_posteriors_and_the_end_with_the_last_words(serving: Serving) -> None:
    with serving.connect() as websocket:
        *decisions, last = converse(websocket, SPEECH)
    assert [decision["time_s"] for decision in decisions] == pytest.approx(np.arange(1, len(decisions) + 1) / 10)
    assert len(decisions) == len(SPEECH) // 1600
    assert all(sum(decision["posteriors"]) == pytest.approx(1, abs=1e-3) for decision in decisions)
    assert all(decision["lag_ms"] >= 0 for decision in decisions)
    assert last["type"] == "finished"
    assert last["duration_s"] == len(SPEECH) / 16000
    assert [found["label"] for found in last["detections"]] == ["yes"]


def test_the_first_answer_and_the_model_address_say_the_same(serving: Serving) -> None:
    with serving.connect() as websocket:
        websocket.send(start())
        ready = json.loads(websocket.recv(timeout=PATIENCE_S))
    assert ready == json.loads(serving.request("/v1/model")[2])
    assert ready["labels"] == ["yes", "no", "unknown", "silence"]
    assert ready["keywords"] == ["yes", "no"]


@pytest.mark.parametrize(
    ("choice", "labels"),
    [({"keywords": ["no"]}, ["no"]), ({"threshold": 1}, []), ({"keywords": ["yes"], "threshold": 0.5}, ["yes", "yes"])],
)
def test_a_client_chooses_its_keywords_and_its_threshold(
    serving: Serving, choice: dict[str, Any], labels: list[str]
) -> None:
    with serving.connect() as websocket:
        answers = converse(websocket, SPEECH, **choice)
    assert [found["label"] for found in found_in(answers)] == labels


@pytest.mark.slow
def test_clients_at_once_share_runs_and_each_gets_the_words_it_would_get_alone(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission.Admission, "capacity", 9)  # they speak faster than in real time
    names = ["commands.wav", "drive.flac", "menu.ogg"] * 3
    told: dict[int, list[dict[str, Any]]] = {}
    with Serving(recognizer) as running:

        def listen(number: int) -> None:
            with running.connect() as websocket:
                told[number] = found_in(converse(websocket, read(EXAMPLES / names[number], 16000)))

        threads = [threading.Thread(target=listen, args=(number,)) for number in range(len(names))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counted = counters(running)
    for number, name in enumerate(names):
        spotter = KeywordSpotter(recognizer)
        sent = from_int16(to_int16(read(EXAMPLES / name, 16000)))
        alone = [msgspec.to_builtins(found) for found in spotter.push(sent) + spotter.finish()]
        assert len(told[number]) == len(alone)
        for found, expected in zip(told[number], alone, strict=True):
            assert found == expected | {"score": pytest.approx(expected["score"], abs=2e-4)}
    assert counted["speechrnn_batches_total"] < 0.7 * counted["speechrnn_decisions_total"]


# Batches


def test_a_batch_gives_each_context_its_own_posteriors(recognizer: Recognizer) -> None:
    contexts = noise(40, 16000)

    async def run() -> list[Samples]:
        async with Batcher(recognizer, sizes.append) as batcher:
            return await asyncio.gather(*(batcher.posteriors(context) for context in contexts))

    sizes: list[int] = []
    rows = asyncio.run(run())
    assert sizes == [16, 16, 8]
    np.testing.assert_allclose(rows, [recognizer.posteriors(context[None])[0] for context in contexts], atol=1e-6)


def test_a_batch_that_fails_says_so_to_all_in_it_and_the_next_is_run() -> None:
    fake = fake_recognizer()

    def fails_on_noise(samples: Samples) -> Samples:
        if samples.any():
            raise ArithmeticError("no noise")
        return fake.logits(samples)

    async def run() -> list[Any]:
        async with Batcher(Recognizer(fake.info, fails_on_noise)) as batcher:
            failed = [batcher.posteriors(context) for context in noise(3, 16000)]
            outcomes = await asyncio.gather(*failed, return_exceptions=True)
            left = asyncio.create_task(batcher.posteriors(silence(1)))
            await asyncio.sleep(0)
            left.cancel()
            return [*outcomes, await batcher.posteriors(silence(1))]

    *failed, row = asyncio.run(run())
    assert [str(error) for error in failed] == ["no noise"] * 3
    assert row.argmax() == fake.labels.index("silence")


# What is refused


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "[]",
        "null",
        "{}",
        '{"type": "start"}',
        '{"type": "finish"}',
        '{"type": "start", "rate_hz": "48000"}',
        '{"type": "start", "rate_hz": 7999}',
        '{"type": "start", "rate_hz": 192001}',
        '{"type": "start", "rate_hz": 16000, "threshold": 0}',
        '{"type": "start", "rate_hz": 16000, "threshold": NaN}',
        '{"type": "start", "rate_hz": 16000, "path": "/etc/passwd"}',
        '{"type": "start", "rate_hz": 16000, "keywords": ["maybe"]}',
        b"\0\0",
        "[" * 60000,
    ],
)
def test_a_first_message_that_is_not_understood_ends_the_conversation(serving: Serving, message: str | bytes) -> None:
    with serving.connect() as websocket:
        websocket.send(message)
        code, said = closed(websocket)
    assert code == 1007
    assert "expected" in said
    assert "\n" not in said


@pytest.mark.parametrize("message", [b"\0", b"\0" * 4097, "hello", '{"type": "start", "rate_hz": 16000}', "[" * 60000])
def test_a_later_message_that_is_not_understood_ends_the_conversation(serving: Serving, message: str | bytes) -> None:
    with serving.connect() as websocket:
        websocket.send(start())
        websocket.send(pcm(SPEECH[:3200]))
        websocket.send(message)
        code, said = closed(websocket)
    assert code == 1007
    assert "expected" in said


def test_a_message_that_is_too_large_is_not_taken_in(serving: Serving) -> None:
    with serving.connect() as websocket:
        websocket.send(start())
        websocket.send(b"\0" * 65538)
        assert closed(websocket)[0] == 1009


def test_who_comes_when_all_seats_are_taken_is_told_so_and_may_come_again() -> None:
    with Serving(fake_recognizer(), max_clients=2) as running, ExitStack() as clients:
        first, second, third = (clients.enter_context(running.connect()) for _ in range(3))
        for websocket in (first, second, third):
            websocket.send(start())
        code, said = closed(third)
        assert code == 1013
        assert "try again later" in said
        assert running.health()["clients"] == running.health()["capacity"] == 2
        first.close()
        wait_until(lambda: running.health()["clients"] == 1)
        with running.connect() as again:
            assert found_in(converse(again, SPEECH)) == spotted(SPEECH)


@pytest.mark.slow
def test_no_more_are_served_than_can_be_in_real_time() -> None:
    fake = fake_recognizer()

    def slow(samples: Samples) -> Samples:
        end_s = time.thread_time() + 0.02 * len(samples)
        while time.thread_time() < end_s:
            pass
        return fake.logits(samples)

    with Serving(Recognizer(fake.info, slow, fake.path)) as running:
        assert 1 <= running.health()["capacity"] <= 3


def test_nobody_is_added_while_answers_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_LATE_S", 0.1)
    fake = fake_recognizer()

    def late(samples: Samples) -> Samples:
        time.sleep(0.15)
        return fake.logits(samples)

    with (
        Serving(Recognizer(fake.info, late, fake.path)) as running,
        running.connect() as first,
        running.connect() as second,
    ):
        assert running.health()["capacity"] > 1
        first.send(start())
        first.send(pcm(SPEECH[:8000]))
        wait_until(lambda: running.health()["capacity"] == 1)
        second.send(start())
        assert closed(second)[0] == 1013
        first.close()
        wait_until(lambda: running.health()["capacity"] > 1)


@pytest.mark.parametrize("messages", [[], [start()], [start(), *[b"\0\0"] * 40]], ids=["silent", "only starts", "slow"])
@pytest.mark.slow
def test_who_sends_no_audio_is_closed(messages: list[str | bytes]) -> None:
    with Serving(fake_recognizer(), idle_s=1) as running, running.connect() as websocket:
        sender = threading.Thread(target=send_slowly, args=(websocket, messages))
        sender.start()
        code, said = closed(websocket)
        sender.join()
    assert code == 1008
    assert "nothing moved for 1 s" in said


def send_slowly(websocket: Any, messages: list[str | bytes]) -> None:
    for message in messages:
        try:
            websocket.send(message)
        except ConnectionClosed:
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_who_reads_no_answer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_CLOSING_S", 0.1)
    monkeypatch.setattr(connections, "_CLOSING_S", 0.1)
    with Serving(fake_recognizer(), idle_s=1) as running:
        running.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with raw_client(running) as plain:
            plain.settimeout(0.5)
            with suppress(ConnectionError, TimeoutError):
                while True:
                    plain.sendall(frame(BINARY, pcm(noise(32000))))
            wait_until(lambda: not running.server.connections)
        assert counters(running)['speechrnn_ends_total{how="idle"}'] == 1


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "], ids=["nothing", "half a request"])
def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(http1, "_HEAD_S", 0.3)
    with (
        Serving(fake_recognizer()) as running,
        socket.create_connection(("127.0.0.1", running.port), PATIENCE_S) as plain,
    ):
        plain.sendall(sent)
        with pytest.raises(ConnectionResetError):
            raise_at_end(plain)


def raise_at_end(plain: socket.socket) -> None:
    while plain.recv(4096):
        pass
    raise ConnectionResetError


def test_who_has_no_place_makes_room_for_newer_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 3)
    monkeypatch.setattr(server, "_N_WITHOUT_PLACE", 1)
    with Serving(fake_recognizer(), max_clients=2) as running, ExitStack() as clients:
        kept = [clients.enter_context(running.connect()) for _ in range(2)]
        for websocket in kept:
            websocket.send(start())
            websocket.recv(timeout=PATIENCE_S)
        first, second = (clients.enter_context(plain(running)) for _ in range(2))
        with pytest.raises(ConnectionResetError):
            raise_at_end(first)
        second.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert second.recv(4096).startswith(b"HTTP/1.1 200")
        for websocket in kept:
            websocket.send('{"type": "finish"}')
            assert json.loads(websocket.recv(timeout=PATIENCE_S))["type"] == "finished"


def plain(running: Serving) -> socket.socket:
    """A connection on which nothing has been sent."""
    return socket.create_connection(("127.0.0.1", running.port), PATIENCE_S)


@pytest.mark.parametrize(
    ("host", "origin", "is_welcome"),
    [
        (None, None, True),
        ("localhost:{port}", "http://localhost:{port}", True),
        ("LOCALHOST", "https://localhost", True),
        ("192.168.1.5:{port}", "http://192.168.1.5:{port}", True),
        ("[::1]:{port}", "http://[::1]:{port}", True),
        ("kitchen.example", "https://kitchen.example", True),
        (None, "http://evil.example", False),
        (None, "null", False),
        (None, "", False),
        (None, "http://[", False),
        ("localhost:{port}", "http://localhost:1", False),
        ("evil.example:{port}", "http://evil.example:{port}", False),
        ("evil.example", None, False),
        ("[", None, False),
        ("", None, False),
    ],
)
def test_only_its_own_pages_and_names_are_welcome(host: str | None, origin: str | None, is_welcome: bool) -> None:
    with Serving(fake_recognizer(), names=["Kitchen.example"]) as running:
        headers = {} if host is None else {"Host": host.format(port=running.port)}
        headers |= {} if origin is None else {"Origin": origin.format(port=running.port)}
        assert running.request("/health", headers=headers)[0] == (200 if is_welcome else 403)
        assert running.request("/v1/transcribe", method="POST", headers=headers)[0] == (422 if is_welcome else 403)
        head = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": running.host} | headers).items())
        assert upgrade(running.port, head) == (101 if is_welcome else 403)


def upgrade(port: int, head: str) -> int:
    """The status of the answer to a WebSocket's first request."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain:
        plain.sendall(f"GET /v1/listen HTTP/1.1\r\n{head}{UPGRADE}\r\n".encode())
        return int(plain.recv(4096).split()[1])


# Page, health, counters


def test_the_page_and_all_that_it_names_are_served_with_headers_that_keep_others_out(serving: Serving) -> None:
    names = {path.name: f"/{path.name}" for path in WEB.iterdir() if path.suffix in (".html", ".js", ".css", ".svg")}
    names["index.html"] = "/"
    named = set()
    for name, path in names.items():
        status, headers, body = serving.request(path)
        assert (status, body) == (200, (WEB / name).read_bytes())
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        named |= set(re.findall(r'(?:src|href)="([^"#]+)"|from "\./([^"]+)"|addModule\("([^"]+)"', body.decode()))
    assert {next(filter(None, groups)) for groups in named} - {"/"} == names.keys() - {"index.html"}


def test_nothing_on_the_page_is_loaded_from_elsewhere() -> None:
    text = "".join(path.read_text() for path in WEB.iterdir() if path.is_file())
    assert set(re.findall(r"\w+://[\w./]+|@import|url\(", text)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    "path", ["/index.htm", "/../pyproject.toml", "/%2e%2e/pyproject.toml", "/web/page.js", "/v2/listen"]
)
def test_no_other_path_is_served(serving: Serving, path: str) -> None:
    status, headers, _ = serving.request(path)
    assert status == 404
    assert "default-src 'none'" in headers["content-security-policy"]


def test_the_counters_count() -> None:
    with Serving(fake_recognizer()) as running:
        with running.connect() as websocket:
            *decisions, _ = converse(websocket, SPEECH)
        with running.connect() as websocket:
            websocket.send(start())
            wait_until(lambda: counters(running)["speechrnn_clients"] == 1)
        with running.connect() as websocket:
            websocket.send("hello")
            closed(websocket)
        wait_until(lambda: 'speechrnn_ends_total{how="left"}' in counters(running))
        running.request("/v1/transcribe", method="POST", body=b"noise")
        counted = counters(running)
    assert counted["speechrnn_clients"] == 0
    assert counted["speechrnn_capacity"] == 64
    assert counted["speechrnn_decisions_total"] == counted["speechrnn_lag_seconds_count"] == len(decisions)
    assert counted['speechrnn_detections_total{label="yes"}'] == 2
    assert [counted[f'speechrnn_ends_total{{how="{how}"}}'] for how in ("finished", "left", "malformed")] == [1, 1, 1]
    assert counted['speechrnn_uploads_total{status="422"}'] == 1


# Recordings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["commands.wav", "drive.flac", "menu.ogg"])
def test_a_recording_gives_what_transcribe_gives(real_serving: Serving, name: str) -> None:
    status, answer = upload(real_serving, (EXAMPLES / name).read_bytes(), f"name={name}")
    assert status == 200
    for kind in ("json", "vtt", "audacity"):
        command = [*COMMAND, "transcribe", name, "--format", kind]
        told = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES, env=ENVIRONMENT, check=True).stdout
        assert answer["files"][kind] == told
    shown = json.loads(answer["files"]["json"])["detections"]
    assert [{key: found[key] for key in shown[0]} for found in answer["detections"]] == shown
    samples = np.abs(read(EXAMPLES / name, 16000))
    assert len(answer["peaks"]) == pytest.approx(100 * answer["duration_s"], abs=1)
    assert max(answer["peaks"]) == pytest.approx(min(1, samples.max()), abs=1e-3)


def test_a_recording_is_searched_as_was_chosen(real_serving: Serving) -> None:
    body = (EXAMPLES / "commands.wav").read_bytes()
    _, answer = upload(real_serving, body, "keywords=left,stop&threshold=0.5")
    assert [found["label"] for found in answer["detections"]] == ["left", "stop"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:%5Cmusic%5Ca.wav", "a.wav"),
        ("a%00b%0Ac", "abc"),
        ("", "recording"),
        ("..", ".."),
    ],
)
def test_a_name_is_shown_and_never_opened(real_serving: Serving, name: str, shown: str) -> None:
    status, answer = upload(real_serving, b"no audio", f"name={name}")
    assert status == 422
    assert answer["message"].startswith(f"{shown}: not readable as audio")
    assert tempfile.gettempdir() not in answer["message"]


@pytest.mark.parametrize(
    "query", ["threshold=2", "threshold=high", "keywords=maybe", "keywords=", "path=/etc/passwd", f"name={'a' * 256}"]
)
def test_a_query_that_is_not_understood_is_refused(serving: Serving, query: str) -> None:
    status, answer = upload(serving, (EXAMPLES / "menu.ogg").read_bytes(), query)
    assert status == 400
    assert "expected" in answer["message"]


def made(folder: Path, *, seconds: float = 1, rate_hz: int = 16000, channels: int = 1) -> bytes:
    samples = np.zeros((round(seconds * rate_hz), channels), dtype=np.float32)
    return write_audio(folder / "made.flac", samples, rate_hz).read_bytes()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: b"", "got an empty file"),
        (lambda folder: b"RIFF\0\0\0\0WAVEfmt ", "not readable as audio"),
        (lambda folder: (EXAMPLES / "commands.wav").read_bytes()[:90000], "truncated"),
        (lambda folder: made(folder, seconds=3601, rate_hz=8000), "expected at most 60 minutes, got 60"),
        (lambda folder: made(folder, rate_hz=500000), "got 500000 Hz"),
    ],
    ids=["empty", "no audio", "truncated", "too long", "strange rate"],
)
def test_a_recording_that_cannot_be_used_is_one_clear_line(
    serving: Serving, make: Callable[[Path], bytes], said: str, tmp_path: Path
) -> None:
    status, answer = upload(serving, make(tmp_path))
    assert status == 422
    assert answer["type"] == "error"
    assert answer["message"].startswith("a.wav: ")
    assert said in answer["message"]
    assert "\n" not in answer["message"]


def test_a_recording_that_is_too_large_is_refused(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOAD_BYTES", 1_000_000)
    status, answer = upload(serving, b"\0" * 1_000_001)
    assert status == 413
    assert "at most 1 MB" in answer["message"]


def test_a_recording_that_comes_too_slowly_is_refused(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_UPLOAD_S", 0.3)
    with socket.create_connection(("127.0.0.1", serving.port), PATIENCE_S) as plain:
        plain.sendall(b"POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nRIFF")
        assert plain.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_recording_that_takes_too_long_is_given_up(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcription, "MAX_WORK_S", 0.05)
    status, answer = upload(serving, (EXAMPLES / "menu.ogg").read_bytes())
    assert status == 422
    assert "took more than 0.05 s" in answer["message"]


def test_more_recordings_than_can_be_waited_for_are_refused(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_MAX_UPLOADS", 0)
    status, answer = upload(serving, b"")
    assert status == 503
    assert "try again" in answer["message"]


def test_what_was_sent_has_no_name_to_outlive_the_server(
    real_serving: Serving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[int] = []
    run = transcription.run

    async def watch(job: transcription.Job, recording: IO[bytes]) -> transcription.Result:
        seen.append(os.fstat(recording.fileno()).st_size)
        assert list(tmp_path.iterdir()) == []
        return await run(job, recording)

    monkeypatch.setattr(transcription, "run", watch)
    bodies = [(EXAMPLES / "menu.ogg").read_bytes(), b"no audio"]
    assert [upload(real_serving, body)[0] for body in bodies] == [200, 422]
    assert seen == [len(body) for body in bodies]
    assert list(tmp_path.iterdir()) == []


# Takes of own words


def take(serving: Serving, body: bytes, query: str = "rate_hz=16000") -> tuple[int, bytes]:
    """Status and answer of a take that is sent."""
    status, _, answer = serving.request(f"/v1/take?{query}", method="POST", body=body)
    return status, answer


@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_a_take_is_given_back_as_record_would_keep_it(serving: Serving, rate_hz: int) -> None:
    samples = np.concatenate([silence(0.8), sine(300, 0.4), silence(1.3)])
    samples = samples + 0.01 * noise(len(samples))
    sent = soxr.resample(samples, 16000, rate_hz)
    status, answer = take(serving, pcm(sent), f"rate_hz={rate_hz}")
    kept, kept_hz = soundfile.read(io.BytesIO(answer), dtype="float32")
    expected = judge(from_int16(to_int16(samples)), 16000)
    assert (status, kept_hz) == (200, 16000)
    assert not isinstance(expected, Refused)
    assert len(kept) == pytest.approx(len(expected), abs=320)
    assert kept[: len(expected)] == pytest.approx(expected[: len(kept)], abs=0.02 if rate_hz != 16000 else 1e-6)


def test_a_take_that_will_not_do_is_refused_with_the_reason_of_record(serving: Serving) -> None:
    status, answer = take(serving, pcm(silence(2.5)))
    assert (status, json.loads(answer)["message"]) == (422, judge(silence(2.5), 16000)[0])


@pytest.mark.parametrize(
    ("body", "query", "status", "said"),
    [
        (b"", "rate_hz=16000", 400, "empty message"),
        (b"abc", "rate_hz=16000", 400, "whole 16-bit samples"),
        (b"abcd", "rate_hz=7", 400, "expected rate_hz"),
        (b"abcd", "", 400, "expected rate_hz"),
        (bytes(2 * 5 * 16000 + 2), "rate_hz=16000", 413, "at most 5 s"),
    ],
)
def test_what_is_no_take_is_one_clear_line(serving: Serving, body: bytes, query: str, status: int, said: str) -> None:
    got, answer = take(serving, body, query)
    assert got == status
    assert said in json.loads(answer)["message"]


def test_a_take_that_comes_too_slowly_is_refused_and_one_too_many_is(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takes, "_MAX_TAKES", 0)
    assert take(serving, pcm(silence(1)))[0] == 503
    monkeypatch.undo()
    monkeypatch.setattr(takes, "_TAKE_S", 0.0)
    assert take(serving, pcm(silence(1)))[0] == 408


def test_peaks_are_the_loudest_of_each_stretch_however_the_stream_is_cut() -> None:
    samples = noise(16050)
    for size in (1, 77, 160, 16050):
        peaks = transcription.Peaks(16000)
        for begin in range(0, len(samples), size):
            peaks.push(samples[begin : begin + size])
        values = peaks.values(1000)
        assert values == [round(float(np.abs(part).max()), 3) for part in np.split(samples, range(160, 16050, 160))]
        assert max(peaks.values(7)) == max(values)
        assert len(peaks.values(7)) <= 7


# Strangers


def random_message(randomness: random.Random) -> str | bytes:
    """Something that a client should not send, or might: bytes, JSON that is nearly right, and right beginnings."""
    kind = randomness.randrange(6)
    if kind == 0:
        return randomness.randbytes(randomness.choice([0, 1, 2, 3, 999, 3200, 65535]))
    if kind == 1:
        return "".join(chr(randomness.randrange(1, 0xD7FF)) for _ in range(randomness.randrange(50)))
    if kind == 2:
        return start(rate_hz=randomness.choice([16000, 48000]))
    values: list[object] = [
        None,
        True,
        -1,
        0,
        1e308,
        16000,
        "16000",
        "start",
        "finish",
        [],
        {},
        ["yes"],
        ["maybe"],
        "\u0000",
    ]
    keys = ["type", "rate_hz", "keywords", "threshold", "path"]
    text = json.dumps({key: randomness.choice(values) for key in keys if randomness.random() < 0.6})
    return text if kind < 5 else text[: randomness.randrange(len(text))]


async def pester(host: str, seed: int, n_messages: int) -> int:
    """Send random messages, coming again whenever the server has had enough; the number that was sent."""
    randomness, n_sent = random.Random(seed), 0
    while n_sent < n_messages:
        async with connect_async(f"ws://{host}/v1/listen", **SETTINGS) as websocket:
            try:
                if randomness.random() < 0.5:
                    await websocket.send(start())
                while n_sent < n_messages:
                    n_sent += 1
                    await websocket.send(random_message(randomness))
                    if randomness.random() < 0.5:
                        await asyncio.wait_for(websocket.recv(), 0.05)
                    if randomness.random() < 0.05:
                        websocket.transport.abort()
            except (ConnectionClosed, TimeoutError):
                pass
    return n_sent


def shout(port: int, seed: int, n: int) -> None:
    """Send bytes that are no HTTP, or nearly, one client after the other: more at once than served are sent away."""
    randomness = random.Random(seed)
    heads = [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"GET /v1/listen HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    ]
    heads.append(heads[-1] + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    for _ in range(n):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain, suppress(ConnectionError):
            plain.sendall(randomness.choice(heads) + randomness.randbytes(randomness.randrange(200)))
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(4096):
                pass


@pytest.mark.slow
def test_thousands_of_random_messages_do_not_disturb_the_good_client_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_pests, n_messages = 6, 500
    with Serving(fake_recognizer()) as running:

        async def pester_all() -> list[int]:
            return await asyncio.gather(*(pester(running.host, seed, n_messages) for seed in range(n_pests)))

        sent: list[int] = []
        threads = [
            threading.Thread(target=lambda: sent.extend(asyncio.run(pester_all()))),
            threading.Thread(target=shout, args=(running.port, 0, 300)),
        ]
        for thread in threads:
            thread.start()
        n_served = 0
        while any(thread.is_alive() for thread in threads) or n_served == 0:
            with running.connect() as websocket:
                assert found_in(converse(websocket, SPEECH)) == spotted(SPEECH)
            n_served += 1
        wait_until(lambda: running.health()["clients"] == 0)
        assert sum(sent) == n_pests * n_messages
        counted = counters(running)
    assert counted['speechrnn_ends_total{how="malformed"}'] > 100
    assert 'speechrnn_ends_total{how="broken"}' not in counted


# Beginning and end


def test_the_end_of_the_server_closes_its_conversations_properly() -> None:
    running = Serving(fake_recognizer())
    with running.connect() as websocket:
        websocket.send(start())
        websocket.send(pcm(SPEECH[:16000]))
        wait_until(lambda: running.health()["clients"] == 1)
        running.stop()
        assert closed(websocket)[0] == 1012
    with Serving(fake_recognizer(), port=running.port) as again, again.connect() as websocket:
        assert found_in(converse(websocket, SPEECH)) == spotted(SPEECH)


@pytest.mark.slow
def test_the_end_of_the_server_ends_the_transcription_of_a_recording(recognizer: Recognizer, tmp_path: Path) -> None:
    body, answers = made(tmp_path, seconds=3000), []
    with Serving(recognizer) as running:
        sender = threading.Thread(target=lambda: answers.append(upload(running, body)))
        sender.start()
        wait_until(lambda: running.app.uploads._jobs)
    sender.join()
    ((status, answer),) = answers
    assert status == 503
    assert "ended" in answer["message"]


class Process:
    """`speechrnn serve` as a program."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", *arguments], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        assert self.process.stderr is not None
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line.strip())
            if "Ctrl-C" in line:
                break
        self.host = self.lines[0].split("//")[1].rstrip("/")

    def end(self, by: signal.Signals) -> int:
        self.process.send_signal(by)
        _, rest = self.process.communicate(timeout=PATIENCE_S)
        self.lines += rest.splitlines()
        return self.process.returncode


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_the_program_says_where_its_page_is_and_ends_quietly(by: signal.Signals) -> None:
    program = Process()
    assert program.lines[0].startswith("open http://127.0.0.1:")
    with connect(program.host) as websocket:
        websocket.send(start())
        assert json.loads(websocket.recv(timeout=PATIENCE_S))["model"] == "commands10"
        assert program.end(by) == 0
        assert closed(websocket)[0] == 1012
    assert program.lines[1:] == ["Ctrl-C ends it"]


def test_for_others_the_program_warns_that_browsers_want_https(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by a server on the loopback interface that takes itself for a public one, and ends at once."""
    monkeypatch.setattr(server, "is_loopback", lambda listening: False)

    monkeypatch.setattr(server.Server, "run", lambda server, listening, on_started: (on_started(), listening.close()))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    said = CliRunner().invoke(cli, ["serve", "--port", "0"], catch_exceptions=False).stderr
    assert "only to https: give --certfile and --keyfile" in said


@pytest.mark.parametrize(("address", "expected"), [("127.0.0.1", True), ("0.0.0.0", False), ("192.0.2.7", False)])
def test_only_the_loopback_interface_is_for_this_machine_alone(address: str, expected: bool) -> None:
    listening = cast("socket.socket", SimpleNamespace(getsockname=lambda: (address, 8000)))
    assert server.is_loopback(listening) is expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "{taken}"], "cannot listen there (address already in use)"),
        (["--host", "203.0.113.1"], "cannot listen there"),
        (["--keyfile", "key.pem"], "expected --certfile"),
        (["--certfile", "no-such.pem"], "No such file"),
        (["--certfile", "README.md"], "not a certificate"),
        (["--threshold", "2"], "expected a number above 0"),
        (["--threshold", "maybe=0.5"], "maybe: no keyword of this model"),
        (["--operating-point", "lax"], "lax"),
        (["--model", "no-such"], "no such model"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(serving: Serving, arguments: list[str], said: str) -> None:
    arguments = [argument.format(taken=serving.port) for argument in arguments]
    command = [*COMMAND, "serve", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr


def test_without_the_web_extra_the_program_says_what_to_install() -> None:
    code = "import sys; sys.modules['h11'] = None; from speechrnn.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert result.returncode == 2
    assert "pip install 'speechrnn[web]'" in result.stderr
