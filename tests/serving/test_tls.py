"""The server behind a certificate: the same conversations and answers, whatever the pieces in which TLS comes."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme
from websockets.asyncio.client import connect

from tests.helpers import PATIENCE_S, fake_recognizer, silence, word
from tests.serving.server import HANDSHAKE, SETTINGS, TEXT, Answer, Serving, found_in, frame, pcm, start

REQUEST = f"{HANDSHAKE}\r\n".encode() + frame(TEXT, start().encode())


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client needs to trust the server."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def secure(certificate: Path) -> Iterator[Serving]:
    """A server of the fake model that speaks TLS."""
    with Serving(fake_recognizer(), certfile=certificate) as running:
        yield running


async def answers_to(running: Serving, context: ssl.SSLContext, messages: list[str | bytes]) -> list[Answer]:
    """All that is answered, to a client of one thread.

    Two threads, as of `websockets.sync`, must not share a connection of TLS: until Python 3.12.8 and 3.13.1, what one
    writes while the other reads is lost now and then.
    """
    async with connect(f"wss://{running.host}/v1/listen", ssl=context, **SETTINGS) as websocket:

        async def send() -> None:
            for message in messages:
                await websocket.send(message)

        sending = asyncio.create_task(send())
        answers = [json.loads(message) async for message in websocket]
        await sending
    return answers


def test_with_a_certificate_the_server_speaks_https(secure: Serving, trusting: ssl.SSLContext) -> None:
    blocks = np.split(np.concatenate([silence(0.5), word("yes"), silence(1)]), 20)
    finish = '{"type": "finish"}'
    answers = asyncio.run(answers_to(secure, trusting, [start(), *map(pcm, blocks), finish]))
    assert [answer["type"] for answer in answers][:: len(answers) - 1] == ["ready", "finished"]
    assert [found["label"] for found in found_in(answers[1:])] == ["yes"]


class Pieces:
    """A client's end of TLS whose bytes go out in pieces of `n_bytes`."""

    def __init__(self, running: Serving, context: ssl.SSLContext, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._socket = socket.create_connection(("127.0.0.1", running.port), PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname="127.0.0.1")

    def ask(self, request: bytes) -> None:
        """Send a request behind the last bytes of the handshake, with nothing between them."""
        while not self._is_open():
            self._exchange()
        self._tls.write(request)
        self._send()

    def read(self) -> bytes:
        """What comes next."""
        while True:
            try:
                return self._tls.read(1 << 16)
            except ssl.SSLWantReadError:
                self._exchange()

    def close(self) -> None:
        self._socket.close()

    def _is_open(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _exchange(self) -> None:
        self._send()
        data = self._socket.recv(1 << 16)
        assert data, "the server has left"
        self._arrived.write(data)

    def _send(self) -> None:
        data = self._leaving.read()
        for start_bytes in range(0, len(data), self._n_bytes):
            self._socket.sendall(data[start_bytes : start_bytes + self._n_bytes])


@pytest.mark.parametrize("n_bytes", [1, 100, 1 << 16])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_comes_right_behind_the_handshake_is_answered_however_it_is_cut(
    secure: Serving, trusting: ssl.SSLContext, version: ssl.TLSVersion, n_bytes: int
) -> None:
    trusting.maximum_version = version
    client, answer = Pieces(secure, trusting, n_bytes), b""
    client.ask(REQUEST)
    while b'"ready"' not in answer:
        answer += client.read()
    client.close()
    assert answer.startswith(b"HTTP/1.1 101 ")
