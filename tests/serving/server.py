"""A server on a free port of this machine, in a thread of the tests, and what its clients say to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed
from websockets.sync import client

from speechrnn.audio import Samples, to_int16
from speechrnn.clients.server import bind
from speechrnn.recognizer import Recognizer
from speechrnn.serving import app as server
from speechrnn.spec import Options
from tests.helpers import PATIENCE_S

Answer = dict[str, Any]
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "audio"


class Serving:
    """A running server; `with` ends it, or `stop`."""

    def __init__(
        self,
        recognizer: Recognizer,
        options: Options | None = None,
        *,
        port: int = 0,
        names: Sequence[str] = (),
        certfile: Path | None = None,
        keyfile: Path | None = None,
        **bounds: Any,
    ) -> None:
        self.listening = bind("127.0.0.1", port)
        self.host = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.app = server.App(recognizer, options or recognizer.info.options, **bounds)
        self.server = server.Server(self.app, names=names, certfile=certfile, keyfile=keyfile)
        self._thread = threading.Thread(target=self.server.run, args=(self.listening,))
        self._thread.start()
        assert self.server.started.wait(PATIENCE_S)

    def stop(self) -> None:
        """Ctrl-C."""
        self.server.stop()
        self._thread.join(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.host.split(":")[1])

    def connect(self, **settings: Any) -> client.ClientConnection:
        """A WebSocket to it."""
        return connect(self.host, **settings)

    def request(
        self, path: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer to a request."""
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def health(self) -> Answer:
        """What it says of its health."""
        answer: Answer = json.loads(self.request("/health")[2])
        return answer


SETTINGS: dict[str, Any] = {"proxy": None, "compression": None, "open_timeout": PATIENCE_S, "ping_interval": None}
"""Of clients, who take no slow server for a dead one."""


def connect(host: str, **settings: Any) -> client.ClientConnection:
    """A WebSocket to a server."""
    websocket: client.ClientConnection = client.connect(f"ws://{host}/v1/listen", **SETTINGS | settings)
    return websocket


HANDSHAKE = (
    "GET /v1/listen HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
TEXT, BINARY, CONTINUATION, PING = 1, 2, 0, 9


def frame(opcode: int, data: bytes = b"", *, is_last: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    head = bytes([0x80 * is_last | opcode])
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return head + length + bytes(4) + data


def raw_client(running: Serving) -> socket.socket:
    """A WebSocket in whose place any bytes can be sent, once it has said what follows."""
    plain = socket.create_connection(("127.0.0.1", running.port), PATIENCE_S)
    plain.sendall(f"{HANDSHAKE}\r\n".encode() + frame(TEXT, start().encode()))
    head = b""
    while b'"ready"' not in head:
        head += plain.recv(4096)
    return plain


def answers_until_end(plain: socket.socket) -> bytes:
    """All that the server still sends, until it closes."""
    answers = b""
    while True:
        try:
            piece = plain.recv(65536)
        except ConnectionResetError:
            return answers
        if not piece:
            return answers
        answers += piece


def pcm(samples: Samples) -> bytes:
    """Samples [T] as 16-bit PCM."""
    return to_int16(samples).tobytes()


def start(rate_hz: int = 16000, **choice: Any) -> str:
    """The first message."""
    return json.dumps({"type": "start", "rate_hz": rate_hz, **choice})


def converse(
    websocket: client.ClientConnection, samples: Samples, block_samples: int = 1600, **first: Any
) -> list[Answer]:
    """Send a whole stream [T] and return all answers but the first; the audio goes out while answers come in."""
    websocket.send(start(**first))
    assert json.loads(websocket.recv(timeout=PATIENCE_S))["type"] == "ready"

    def send() -> None:
        for block in np.split(samples, range(block_samples, len(samples), block_samples)):
            websocket.send(pcm(block))
        websocket.send('{"type": "finish"}')

    sender = threading.Thread(target=send)
    sender.start()
    answers = [json.loads(message) for message in websocket]
    sender.join()
    return answers


def found_in(answers: Sequence[Answer]) -> list[Answer]:
    """All detections in answers."""
    return [found for answer in answers for found in answer["detections"]]


def closed(websocket: client.ClientConnection) -> tuple[int, str]:
    """The code with which the server closes, and what it said before."""
    message = ""
    while True:
        try:
            answer = json.loads(websocket.recv(timeout=PATIENCE_S))
        except ConnectionClosed as error:
            assert error.rcvd is not None, "closed without a code"
            return error.rcvd.code, message
        if answer["type"] == "error":
            message = answer["message"]


def upload(running: Serving, body: bytes, query: str = "name=a.wav") -> tuple[int, Answer]:
    """Status and answer of a recording that is sent."""
    status, _, answer = running.request(f"/v1/transcribe?{query}", method="POST", body=body)
    return status, json.loads(answer)


def counters(running: Serving) -> dict[str, float]:
    """What Prometheus would read."""
    text = running.request("/metrics")[2].decode()
    return {
        sample.name + "".join(f'{{{key}="{value}"}}' for key, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
