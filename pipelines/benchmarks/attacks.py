"""Attack a server, and measure what an honest client beside the attack notices: python -m pipelines.benchmarks.attacks.

For each attack a server of its own is started on loopback. A microphone of `pipelines.benchmarks.load` speaks to it in
real time; the attack begins a second later, when its own process has started, and ends when the microphone has said
everything. Attackers who are sent away come again. Words are right if label and times are those of `transcribe` on the
same samples; memory is that of the server's process at its peak. Run it on an idle machine: attack, microphone and
server share its cores. The figures that were measured are in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import io
import math
import multiprocessing
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from prometheus_client.parser import text_string_to_metric_families
from websockets.frames import Frame, Opcode

from pipelines.benchmarks.load import PATIENCE_S, Client, blocks_of, serving, usage, words_in
from speechrnn.evaluation.tables import Table

_AUDIO = Path("examples/audio/commands.wav")
_PAUSE_S = 0.01
_MAX_VISITS = 10_000
_MAX_SENDS = 100_000
_HONEST_ENDS = ("finished", "left")

Visit = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Attack(NamedTuple):
    """So many clients, each of which makes the same visit again and again, over a new connection each time."""

    n_clients: int
    visit: Visit


class Row(NamedTuple):
    """What the honest client saw beside an attack, and what the attack cost the server."""

    attack: str
    n_right: int
    n_expected: int
    p50_ms: float
    p99_ms: float
    memory_mb: float
    n_refused: int


def _request(line: str, *headers: str) -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *headers, "", "")).encode()


def _handshake(*headers: str) -> bytes:
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", key)
    return _request("GET /v1/listen", *upgrade, *headers)


def _frame(opcode: Opcode, data: bytes = b"", *, is_last: bool = True) -> bytes:
    return Frame(opcode, data, is_last).serialize(mask=True)


def _flood(first: bytes, again: bytes) -> Visit:
    """Send the second without end, as fast as it is taken, and read nothing."""

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for _ in range(_MAX_SENDS):
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0)

    return visit


def _ask(request: bytes) -> Visit:
    """Send this, and read until the server closes."""

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request)
        for _ in range(_MAX_SENDS):
            if not await reader.read(1 << 16):
                break

    return visit


async def _say_anything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Frames of all kinds in any order, and now and then bytes that are none."""
    writer.write(_handshake() + _START * random.randrange(2))
    for _ in range(random.randrange(100)):
        opcode, data = random.choice(list(Opcode)), random.randbytes(random.randrange(126))
        writer.write(random.choice((_frame(opcode, data), _frame(Opcode.CONT, data, is_last=False), data)))
        await writer.drain()
        await asyncio.sleep(_PAUSE_S * random.random())


async def _leave_a_recording(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send an hour of audio, and leave while it is worked on."""
    recording = _almost_an_hour()
    writer.write(_request("POST /v1/transcribe", f"Content-Length: {len(recording)}") + recording)
    await writer.drain()
    await asyncio.sleep(0.5)


@functools.cache
def _almost_an_hour() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16000 * 3500, np.int16), 16000, format="FLAC")
    return file.getvalue()


_START = _frame(Opcode.TEXT, b'{"type": "start", "rate_hz": 8000}')
_FINISH = _frame(Opcode.TEXT, b'{"type": "finish"}')
_NOISE = _frame(Opcode.BINARY, random.Random(0).randbytes(1 << 16))
_TENTH = _frame(Opcode.BINARY, bytes(1600))
_OPEN = _handshake() + _START
_FIRST_FRAGMENT = _frame(Opcode.BINARY, is_last=False)
_PATHS = ("/", "/metrics", "/page.js", "/v1/model", "/nothing") * 10
_REQUESTS = b"".join(_request(f"GET {path}") for path in _PATHS) + _request("GET /health", "Connection: close")

ATTACKS = {
    "none": Attack(0, _ask(b"")),
    "empty messages": Attack(2, _flood(_OPEN, _frame(Opcode.BINARY) * 500)),
    "empty fragments": Attack(2, _flood(_OPEN + _FIRST_FRAGMENT, _frame(Opcode.CONT, is_last=False) * 500)),
    "text flood": Attack(2, _flood(_OPEN, _frame(Opcode.TEXT, b"x" * 60000))),
    "ping flood": Attack(2, _flood(_OPEN, _frame(Opcode.PING, b"x" * 125) * 400)),
    "random frames": Attack(60, _say_anything),
    "start and finish": Attack(40, _ask(_OPEN + _FINISH)),
    "audio too fast, answers never read": Attack(30, _flood(_OPEN, _NOISE)),
    "half-open conversations": Attack(60, _ask(_OPEN + _TENTH)),
    "half a request": Attack(200, _ask(_handshake()[:-2])),
    "refused handshakes": Attack(40, _ask(_handshake("Origin: http://evil.example"))),
    "HTTP flood": Attack(4, _ask(_REQUESTS)),
    "abandoned uploads": Attack(4, _leave_a_recording),
}


async def attack(name: str, port: int, seconds: float) -> None:
    """Let the clients of an attack come again and again for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(_come_again(ATTACKS[name].visit, port) for _ in range(ATTACKS[name].n_clients)))


async def _come_again(visit: Visit, port: int) -> None:
    for _ in range(_MAX_VISITS):
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)  # what is not read waits there
            try:
                await visit(reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(_PAUSE_S)


def _attack(name: str, port: int, seconds: float) -> None:
    asyncio.run(attack(name, port, seconds))


@contextmanager
def _under_attack(name: str, port: int, max_seconds: float) -> Iterator[None]:
    """An attack by another process, until the end of the block."""
    process = multiprocessing.get_context("spawn").Process(target=_attack, args=(name, port, max_seconds))
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def measure(name: str, blocks: list[bytes], seconds: float) -> Row:
    """What one client who sends these messages for so long sees beside an attack."""
    client, expected, max_seconds = Client(blocks, seconds), words_in(blocks, seconds), seconds + PATIENCE_S
    with serving() as server:
        with _under_attack(name, server.port, max_seconds), suppress(TimeoutError):
            asyncio.run(asyncio.wait_for(client.run(server.url, 0), max_seconds))
        n_refused, (_, memory_mb) = count_refused(server.get("/metrics")), usage(server.process_id)
    told = {(word["label"], word["start_s"], word["end_s"]) for word in client.detections}
    n_right = len(told & {(word.label, word.start_s, word.end_s) for word in expected})
    p50, p99 = np.percentile(1000 * np.array(client.lags_s or [math.nan]), [50, 99])
    return Row(name, n_right, len(expected), float(p50), float(p99), memory_mb, n_refused)


def count_refused(metrics: str) -> int:
    """Requests and conversations that a server has refused or ended with an error, from its counters."""
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    refused = [sample.value for sample in samples if sample.name == "speechrnn_refusals_total"]
    ends = [sample for sample in samples if sample.name == "speechrnn_ends_total"]
    return round(sum(refused) + sum(end.value for end in ends if end.labels["how"] not in _HONEST_ENDS))


def to_table(rows: list[Row]) -> Table:
    """A row for each attack."""
    head = ("attack", "words right", "lag p50", "p99", "peak memory", "refused")
    cells = [
        (
            row.attack,
            f"{row.n_right} of {row.n_expected}",
            f"{row.p50_ms:.0f} ms",
            f"{row.p99_ms:.0f} ms",
            f"{row.memory_mb:.0f} MB",
            f"{row.n_refused}",
        )
        for row in rows
    ]
    return Table(head, "<" + ">" * (len(head) - 1), cells)


def main() -> None:
    """Measure each attack and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    blocks = blocks_of(_AUDIO)
    parser.add_argument("--seconds", type=float, default=len(blocks) / 20, help="how long the honest client speaks")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=[*ATTACKS], metavar="ATTACK", help="these alone")
    arguments = parser.parse_args()
    rows = [measure(name, blocks, arguments.seconds) for name in arguments.only]
    print("\n".join(to_table(rows).to_markdown()))


if __name__ == "__main__":
    main()
