"""What one client may cost the others: every state ends, everything has a bound, and who leaves ends his work."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechrnn.clients import admission, batching, connections
from speechrnn.clients.admission import Admission
from speechrnn.clients.batching import Batcher
from speechrnn.clients.connections import Pace
from speechrnn.clients.ends import End, ProtocolError
from speechrnn.recognizer import Recognizer, load
from speechrnn.serving import transcription
from tests.helpers import PATIENCE_S, fake_recognizer, silence, wait_until, word
from tests.serving.server import (
    BINARY,
    CONTINUATION,
    EXAMPLES,
    HANDSHAKE,
    PING,
    ROOT,
    Serving,
    answers_until_end,
    closed,
    converse,
    counters,
    found_in,
    frame,
    pcm,
    raw_client,
    start,
    upload,
)

EXAMPLE = EXAMPLES / "commands.wav"
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for the children of a process")


def sent(running: Serving, request: str) -> bytes:
    """The answer to a request, to its end."""
    with socket.create_connection(("127.0.0.1", running.port), PATIENCE_S) as plain:
        plain.sendall(request.encode())
        return answers_until_end(plain)


# Requests


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HANDSHAKE + "Content-Length: 5\r\n\r\nhello", 400),
        (HANDSHAKE + f"X: {'y' * 40000}\r\n\r\n", 431),
        (HANDSHAKE.replace("Version: 13", "Version: 12") + "\r\n", 400),
        (HANDSHAKE.replace("Sec-WebSocket-Key", "X-Key") + "\r\n", 400),
        (HANDSHAKE + "Origin: http://[\r\n\r\n", 403),
        (HANDSHAKE + "Origin: http://evil.example\r\n\r\n", 403),
        ("GET /v1/listen HTTP/1.1\r\nHost: localhost\r\n\r\n", 426),
        ("POST /v1/model HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        ("GET /v1/transcribe HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("hello\r\n\r\n", 400),
        ("POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n", 400),
    ],
)
def test_what_is_refused_is_told_in_the_protocols_words_counted_and_closed(
    serving: Serving, request_: str, status: int
) -> None:
    name = f'speechrnn_refusals_total{{status="{status}"}}'
    before = counters(serving).get(name, 0)
    head, _, body = sent(serving, request_).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/json" in head
    answer = json.loads(body)
    assert answer["type"] == "error"
    assert "\n" not in answer["message"] != ""
    assert counters(serving)[name] == before + 1


def test_a_handshake_may_have_many_headers(serving: Serving) -> None:
    more = "".join(f"X{number}: y\r\n" for number in range(200))
    with socket.create_connection(("127.0.0.1", serving.port), PATIENCE_S) as plain:
        plain.sendall(f"{HANDSHAKE}{more}\r\n".encode())
        assert plain.recv(4096).startswith(b"HTTP/1.1 101 ")


def test_a_connection_may_ask_again_and_need_not_wait_for_the_answer(serving: Serving) -> None:
    ask = "{} /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
    answers = sent(serving, ask.format("HEAD", "") + ask.format("GET", "") + ask.format("GET", "Connection: close\r\n"))
    assert answers.count(b"HTTP/1.1 200 ") == 3
    assert answers.count(b'{"status":"ok"') == 2


@pytest.mark.parametrize(
    ("head", "body"),
    [("Content-Length: 8", "no audio"), ("Transfer-Encoding: chunked", "8\r\nno audio\r\n0\r\n\r\n")],
)
def test_a_client_that_waits_to_be_asked_for_its_recording_is_asked(serving: Serving, head: str, body: str) -> None:
    with socket.create_connection(("127.0.0.1", serving.port), PATIENCE_S) as plain:
        plain.sendall(
            f"POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{head}\r\n\r\n".encode()
        )
        assert plain.recv(4096).startswith(b"HTTP/1.1 100 ")
        plain.sendall(body.encode())
        assert answers_until_end(plain).startswith(b"HTTP/1.1 422 ")


def test_a_server_that_fails_says_so_and_goes_on(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(serving.app.metrics, "text", lambda: 1 / 0)
        status, _, body = serving.request("/metrics")
    assert status == 500
    assert json.loads(body)["message"] == "something failed in the server; see its log"
    assert serving.health()["status"] == "ok"


def test_who_never_says_the_first_word_of_tls_is_closed(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    monkeypatch.setattr(connections, "_HANDSHAKE_S", 0.3)
    with Serving(fake_recognizer(), certfile=certificate) as running:
        with socket.create_connection(("127.0.0.1", running.port), PATIENCE_S) as plain:
            assert answers_until_end(plain) == b""
        wait_until(lambda: not running.server.connections)


@pytest.mark.parametrize(("limit", "expected"), [(256, 192), (70, 16), (resource.RLIM_INFINITY, 1 << 16)])
def test_connections_leave_descriptors_for_the_rest(monkeypatch: pytest.MonkeyPatch, limit: int, expected: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert connections._max_by_descriptors() == expected


@pytest.mark.slow
def test_more_connections_than_descriptors_leave_the_log_empty_and_the_server_well() -> None:
    command = f"ulimit -n 128; exec {sys.executable} -m speechrnn serve --port 0"
    with (
        subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE, text=True, cwd=ROOT) as server,
        ExitStack() as clients,
    ):
        assert server.stderr is not None
        port = int(server.stderr.readline().rpartition(":")[2].strip(" /\n"))
        assert server.stderr.readline() == "Ctrl-C ends it\n"
        for _ in range(200):
            clients.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
        plain = clients.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert plain.recv(4096).startswith(b"HTTP/1.1 200 ")
        server.terminate()
        assert server.stderr.read() == ""
    assert server.returncode == 0


# Messages


def test_an_empty_message_is_refused(serving: Serving) -> None:
    with serving.connect() as websocket:
        websocket.send(start())
        websocket.send(b"")
        assert closed(websocket) == (1007, "expected audio, got an empty message; leave it out")


@pytest.mark.slow
def test_a_server_that_ends_while_a_client_is_being_sent_away_ends_in_order() -> None:
    running = Serving(fake_recognizer())
    with raw_client(running) as plain:
        plain.sendall(frame(BINARY))
        wait_until(lambda: counters(running).get('speechrnn_ends_total{how="malformed"}') == 1)
        running.stop()
        assert b"empty message" in answers_until_end(plain)
    assert not running.server.connections


def test_a_message_in_too_many_fragments_is_refused(serving: Serving) -> None:
    for n_fragments, is_refused in ((64, False), (65, True)):
        with raw_client(serving) as plain:
            plain.sendall(frame(BINARY, is_last=False) + frame(CONTINUATION, is_last=False) * (n_fragments - 2))
            plain.sendall(frame(CONTINUATION, pcm(silence(0.1))))
            plain.shutdown(socket.SHUT_WR)
            answers = answers_until_end(plain)
        assert (b"at most 64 fragments" in answers) is is_refused
        assert (b'"decision"' in answers) is not is_refused


def test_who_sends_more_than_is_allowed_waits_his_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]

    async def sleep(wait_s: float) -> None:
        now_s[0] += wait_s

    async def run() -> None:
        pace = Pace(1000, 300)
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "time", lambda: now_s[0])
            patch.setattr(asyncio, "sleep", sleep)
            for n in (200, 100, 100, 50):
                before_s = now_s[0]
                await pace.spend(n)
                waited_s.append(now_s[0] - before_s)

    waited_s: list[float] = []
    asyncio.run(run())
    assert waited_s == pytest.approx([0, 0, 0.1, 0.05])


@pytest.mark.parametrize(
    "flood",
    [frame(BINARY, b"\0\0"), frame(PING), frame(PING, b"x" * 125)],
    ids=["two bytes", "empty pings", "pings"],
)
@pytest.mark.slow
def test_a_flood_of_frames_is_read_no_faster_than_a_microphone_could_send(
    monkeypatch: pytest.MonkeyPatch, flood: bytes
) -> None:
    spent: list[int] = []
    spend = Pace.spend

    async def watch(pace: Pace, n: int) -> None:
        spent.append(n)
        await spend(pace, n)

    monkeypatch.setattr(Pace, "spend", watch)
    with Serving(fake_recognizer()) as running, raw_client(running) as plain:
        plain.settimeout(0.3)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            while time.monotonic() - began_s < 20:
                plain.sendall(flood * 500)
        with running.connect() as websocket:
            samples = np.concatenate([silence(0.5), word("yes"), silence(1)])
            assert [found["label"] for found in found_in(converse(websocket, samples))] == ["yes"]
    assert sum(spent) < 1000 + 500 * (time.monotonic() - began_s) + 2 * 4096
    assert max(spent) <= 4096 // 6 + 1  # so few that the others need not wait for them


# Batches


def sizes_of(first: int, due: int, early: int) -> list[tuple[int, int]]:
    """How many due and early contexts each batch holds, where all the others come while the `first` are run."""
    fake, batches = fake_recognizer(), []

    def watch(samples: Any) -> Any:
        batches.append((int((samples[:, 0] == 1).sum()), int((samples[:, 0] == 2).sum())))
        return fake.logits(samples)

    async def run() -> None:
        async with Batcher(Recognizer(fake.info, watch)) as batcher:
            del batches[:]
            kinds = [(first, 0.0, False), (early, 2.0, True), (due, 1.0, False)]
            tasks = []
            for n, value, is_early in kinds:
                for _ in range(n):
                    context = silence(1)
                    context[0] = value
                    tasks.append(asyncio.create_task(batcher.posteriors(context, is_early=is_early)))
            await asyncio.gather(*tasks)

    asyncio.run(run())
    return batches


def test_audio_that_comes_faster_than_it_can_be_spoken_waits_for_what_does_not() -> None:
    assert sizes_of(0, 20, 7) == [(16, 0), (4, 4), (0, 3)]
    assert sizes_of(0, 0, 9) == [(0, 4), (0, 4), (0, 1)]


def test_what_ends_a_stream_is_batched_and_lets_live_clients_go_first() -> None:
    asked: list[bool] = []
    posteriors = Batcher.posteriors

    async def watch(batcher: Batcher, context: Any, *, is_early: bool = False) -> Any:
        asked.append(is_early)
        return await posteriors(batcher, context, is_early=is_early)

    with pytest.MonkeyPatch.context() as patch, Serving(fake_recognizer()) as running:
        patch.setattr(batching.Batcher, "posteriors", watch)
        with running.connect() as websocket:
            assert converse(websocket, silence(0.2))[-1]["type"] == "finished"
    assert asked == [False, False] + [True] * 10


# Admission


class Waiting:
    def __init__(self) -> None:
        self.told: list[ProtocolError] = []

    def interrupt(self, error: ProtocolError) -> None:
        self.told.append(error)


def test_a_server_that_is_too_slow_sends_the_newest_away_and_keeps_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(admission, "_LATE_S", 0.1)
    monkeypatch.setattr(admission, "_TOO_LATE_S", 0.2)
    admitted, clients = Admission(64, 0.1, lambda: 1e-4), [Waiting() for _ in range(8)]
    with ExitStack() as places:
        for client in clients:
            places.enter_context(admitted.place(client))
        for _ in range(50):
            admitted.record(clients[0], 0.15)
        assert admitted.capacity == 8
        assert not any(client.told for client in clients)
        for _ in range(100):
            admitted.record(clients[0], 0.3)
        assert [len(client.told) for client in clients] == [0, 0, 0, 0, 0, 1, 1, 1]
        assert {error.end for client in clients for error in client.told} == {End.SHED}
        for _ in range(20):
            now_s[0] += 2
            for _ in range(50):
                admitted.record(clients[0], 0.3)
        assert [len(client.told) for client in clients] == [0, 1, 1, 1, 1, 1, 1, 1]
        assert admitted.n_clients == 1


def test_who_has_fallen_silent_gives_its_place_to_who_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(admission, "_SILENT_S", 2.0)
    admitted, (first, second, third) = Admission(2, 0.1, lambda: 1e-4), (Waiting(), Waiting(), Waiting())
    with admitted.place(first), admitted.place(second):
        now_s[0] += 1.9
        admitted.record(first, None)
        with pytest.raises(ProtocolError, match="try again later"), admitted.place(third):
            pass
        now_s[0] += 0.2
        with admitted.place(third):
            assert [error.end for error in second.told] == [End.IDLE]
            assert not first.told
            assert admitted.n_clients == 2


def test_who_is_sent_away_is_told_why_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_N_RECENT", 1)
    with Serving(fake_recognizer()) as running, running.connect() as first, running.connect() as second:
        for websocket in (first, second):
            websocket.send(start())
            websocket.recv(timeout=PATIENCE_S)
        monkeypatch.setattr(admission, "_TOO_LATE_S", 0.0)
        first.send(pcm(silence(0.1)))
        code, said = closed(second)
        assert code == 1013
        assert "the newest are sent away" in said
        monkeypatch.setattr(admission, "_TOO_LATE_S", 100.0)
        first.send('{"type": "finish"}')
        assert closed(first) == (1000, "")
        assert counters(running)['speechrnn_ends_total{how="shed"}'] == 1


def test_contexts_that_come_one_by_one_do_not_say_what_they_cost_when_many_come() -> None:
    fake = fake_recognizer()

    def costly(samples: Any) -> Any:
        """Takes 4 ms for a batch, and 0.1 ms for each of its contexts."""
        end_s = time.thread_time() + 0.004 + 0.0001 * len(samples)
        while time.thread_time() < end_s:
            pass
        return fake.logits(samples)

    async def run() -> tuple[float, float]:
        async with Batcher(Recognizer(fake.info, costly)) as batcher:
            for _ in range(60):
                await batcher.posteriors(silence(1))
            alone_s = batcher.context_s
            for _ in range(60):
                await asyncio.gather(*(batcher.posteriors(silence(1)) for _ in range(8)))
            return alone_s, batcher.context_s

    alone_s, together_s = asyncio.run(run())
    assert alone_s == pytest.approx((0.004 + 16 * 0.0001) / 16, rel=0.5)
    assert together_s == pytest.approx((0.004 + 8 * 0.0001) / 8, rel=0.5)


def test_a_machine_that_is_busy_with_other_things_does_not_make_contexts_dearer() -> None:
    fake = fake_recognizer()

    def waits(samples: Any) -> Any:
        time.sleep(0.05)
        return fake.logits(samples[:1]).repeat(len(samples), axis=0)

    with Serving(Recognizer(fake.info, waits, fake.path)) as running:
        assert running.health()["capacity"] > 8


# Recordings


def an_hour() -> bytes:
    """Almost an hour of silence."""
    file = BytesIO()
    soundfile.write(file, np.zeros(16000 * 3500, dtype=np.int16), 16000, format="FLAC")
    return file.getvalue()


def post(port: int, body: bytes) -> socket.socket:
    """A connection that has sent a recording."""
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    head = f"POST /v1/transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    plain.sendall(head.encode() + body)
    return plain


@pytest.mark.slow
def test_senders_who_leave_end_their_work() -> None:
    with Serving(load("commands10")) as running:
        senders = [post(running.port, an_hour()) for _ in range(4)]
        wait_until(lambda: len(running.app.uploads._jobs) == 4)
        for sender in senders:
            sender.close()
        wait_until(lambda: not running.app.uploads._jobs)
        assert upload(running, EXAMPLE.read_bytes())[0] == 200
        assert counters(running)['speechrnn_uploads_total{status="left"}'] == 4


def children(process_id: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{process_id}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_proc
@pytest.mark.slow
def test_a_server_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    """Run from a checkout, as it is here, it finds the package for its children, too."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "speechrnn", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as server:
        assert server.stderr is not None
        port = int(server.stderr.readline().rpartition(":")[2].strip(" /\n"))
        with post(port, EXAMPLE.read_bytes()) as plain:
            assert answers_until_end(plain).startswith(b"HTTP/1.1 200 ")
        with post(port, an_hour()):
            wait_until(lambda: children(server.pid))
            (child,) = children(server.pid)
            server.send_signal(signal.SIGKILL)
            server.wait()
            wait_until(lambda: not is_alive(child))
    assert list(tmp_path.glob("*speechrnn*")) == []


def test_a_full_disk_is_told_as_such(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    status, answer = upload(serving, EXAMPLE.read_bytes())
    assert status == 507
    assert answer == {"type": "error", "message": "the server has no room for the recording; try again later"}


def test_a_program_that_cannot_run_is_not_told_as_a_bad_recording(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transcription, "_PROGRAM", "import no_such_module")
    status, answer = upload(serving, EXAMPLE.read_bytes())
    assert status == 500
    assert answer["message"] == "something failed in the server; see its log"
    assert "No module named 'no_such_module'" in caplog.text
