"""Measure how many microphones one server handles in real time: python -m pipelines.benchmarks.load.

Starts `speechrnn serve` on loopback and speaks to it as so many browsers would, who come one after the other: 48 kHz,
twenty messages a second, in real time. The lag of a decision runs from the moment at which the message was sent that
completes its step to the moment at which the answer is read. That is the message after the step's last sample, 50 ms
later, for the resampler holds a few milliseconds back. Run it on an idle machine: clients and server share its cores.
The figures that were measured are in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from pipelines.benchmarks.ratios import CLI
from speechrnn.audio import from_int16, to_int16
from speechrnn.decoding import read
from speechrnn.detector import Detection
from speechrnn.evaluation.tables import Table
from speechrnn.listening import transcribe
from speechrnn.sources import ArraySource
from speechrnn.spec import DEFAULT_MODEL

RATE_HZ = 48000
_BLOCK_SAMPLES = RATE_HZ // 20
PATIENCE_S = 60.0
"""Time that a server has for an answer."""
_WARM_UP_S = 2.0
_NEWCOMERS_PER_S = 17  # at no whole fraction of a step, so that their steps do not end together


class Server(NamedTuple):
    """A server in a process of its own."""

    port: int
    process_id: int

    @property
    def url(self) -> str:
        """Where it listens to audio."""
        return f"ws://127.0.0.1:{self.port}/v1/listen"

    def get(self, path: str) -> str:
        """What it answers to a request."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())


class Row(NamedTuple):
    """What so many clients saw, and what it cost the server."""

    n_clients: int
    n_refused: int
    decisions_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    n_words: int
    n_expected: int
    cores: float
    memory_mb: float


class Client:
    """One microphone: sends audio in real time and notes when each decision came."""

    def __init__(self, blocks: list[bytes], seconds: float) -> None:
        self.blocks = blocks
        self.n_blocks = round(seconds * 20)
        self.lags_s: list[float] = []
        self.detections: list[dict[str, Any]] = []
        self.was_refused = False
        self._sent_s: list[float] = []

    async def run(self, url: str, start_s: float) -> None:
        """Come after `start_s`, and speak until the end, or until refused."""
        await asyncio.sleep(start_s)
        async with connect(url, proxy=None, compression=None, open_timeout=PATIENCE_S) as websocket:
            try:
                await websocket.send(json.dumps({"type": "start", "rate_hz": RATE_HZ}))
                answer = json.loads(await websocket.recv())
                if answer["type"] == "error":
                    self.was_refused = True
                    return
                await asyncio.gather(self._send(websocket), self._receive(websocket))
            except ConnectionClosed:
                self.was_refused = True

    async def _send(self, websocket: ClientConnection) -> None:
        started_s = time.perf_counter()
        for number in range(self.n_blocks):
            await asyncio.sleep(max(0.0, started_s + number / 20 - time.perf_counter()))
            self._sent_s.append(time.perf_counter())
            await websocket.send(self.blocks[number % len(self.blocks)])
        await websocket.send('{"type": "finish"}')

    async def _receive(self, websocket: ClientConnection) -> None:
        async for message in websocket:
            now_s, answer = time.perf_counter(), json.loads(message)
            self.detections += answer.get("detections", [])  # none in an error, before who is sent away is closed
            if answer["type"] == "decision" and answer["time_s"] > _WARM_UP_S:
                last_block = min(self.n_blocks - 1, round(answer["time_s"] * 20))
                self.lags_s.append(now_s - self._sent_s[last_block])


def usage(process_id: int) -> tuple[float, float]:
    """Seconds of processor time and peak memory in MB of a process."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{process_id}/status").read_text()
    peak_kb = int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1])
    return (int(fields[11]) + int(fields[12])) / 100, peak_kb / 1000


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server on a free port of loopback, until the end of the block."""
    command = [sys.executable, "-c", CLI, "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            server = Server(int(re.findall(r":(\d+)/", process.stderr.readline())[0]), process.pid)
            Thread(target=process.stderr.read, daemon=True).start()  # so that no log can fill the pipe
            server.get("/health")
            yield server
        finally:
            process.terminate()


def blocks_of(path: Path) -> list[bytes]:
    """The messages of 50 ms in which a microphone would send a recording."""
    samples = to_int16(read(path, RATE_HZ))
    n_blocks = len(samples) // _BLOCK_SAMPLES
    return [block.tobytes() for block in np.split(samples[: n_blocks * _BLOCK_SAMPLES], n_blocks)]


def words_in(blocks: list[bytes], seconds: float, model: str = DEFAULT_MODEL) -> list[Detection]:
    """The words that a client who repeats these messages for so long should be told."""
    spoken = b"".join(blocks[number % len(blocks)] for number in range(round(seconds * 20)))
    return transcribe(ArraySource(from_int16(np.frombuffer(spoken, "<i2")), RATE_HZ), model=model)


async def measure(server: Server, n_clients: int, blocks: list[bytes], seconds: float, n_words: int) -> Row:
    """Let so many clients speak at once for so long; `n_words` is what each says."""
    clients = [Client(blocks, seconds) for _ in range(n_clients)]
    (cpu_s, _), started_s = usage(server.process_id), time.perf_counter()
    await asyncio.gather(*(client.run(server.url, number / _NEWCOMERS_PER_S) for number, client in enumerate(clients)))
    elapsed_s = time.perf_counter() - started_s
    used_s, memory_mb = usage(server.process_id)
    served = [client for client in clients if not client.was_refused]
    lags_ms = 1000 * np.concatenate([client.lags_s for client in served])
    p50, p99 = np.percentile(lags_ms, [50, 99])
    return Row(
        n_clients=n_clients,
        n_refused=n_clients - len(served),
        decisions_per_s=len(lags_ms) / (seconds - _WARM_UP_S),
        p50_ms=float(p50),
        p99_ms=float(p99),
        max_ms=float(lags_ms.max()),
        n_words=sum(len(client.detections) for client in served),
        n_expected=n_words * len(served),
        cores=(used_s - cpu_s) / elapsed_s,
        memory_mb=memory_mb,
    )


def to_table(rows: list[Row]) -> Table:
    """A row for each number of microphones."""
    head = ("microphones", "refused", "decisions/s", "lag p50", "p99", "max", "words detected", "server", "memory")
    cells = [
        (
            f"{row.n_clients}",
            f"{row.n_refused}",
            f"{row.decisions_per_s:.0f}",
            f"{row.p50_ms:.0f} ms",
            f"{row.p99_ms:.0f} ms",
            f"{row.max_ms:.0f} ms",
            f"{row.n_words} of {row.n_expected}",
            f"{row.cores:.2f} cores",
            f"{row.memory_mb:.0f} MB",
        )
        for row in rows
    ]
    return Table(head, ">" * len(head), cells)


def main() -> None:
    """Measure each number of clients and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 20, 40, 60, 100])
    parser.add_argument("--seconds", type=float, default=30, help="how long each number of clients speaks")
    audio = Path("examples/audio/commands.wav")
    parser.add_argument("--audio", type=Path, default=audio, help="what they say, repeated")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    blocks = blocks_of(arguments.audio)
    n_words = len(words_in(blocks, arguments.seconds, arguments.model))
    with serving("--model", arguments.model, "--clients", "1000") as server:
        rows = [
            asyncio.run(measure(server, n_clients, blocks, arguments.seconds, n_words))
            for n_clients in arguments.clients
        ]
    print("\n".join(to_table(rows).to_markdown()))


if __name__ == "__main__":
    main()
