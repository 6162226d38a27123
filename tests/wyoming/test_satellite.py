"""A satellite of Home Assistant as a real peer, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from wyoming.asr import Transcript
from wyoming.client import AsyncClient
from wyoming.satellite import RunSatellite

from speechrnn.audio import to_int16
from speechrnn.decoding import read
from speechrnn.recognizer import load
from tests.helpers import EXAMPLE, PATIENCE_S, silence, wait_until
from tests.wyoming.server import Serving

pytestmark = pytest.mark.slow
PACKAGES = ["wyoming-satellite==1.0.0", "pyring-buffer==1.0.0", "wyoming==1.4.1"]  # the versions that it asks for


@pytest.fixture(scope="module")
def satellite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the satellite is installed, with the old version of the protocol that it was made for."""
    folder = tmp_path_factory.mktemp("satellite")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("wyoming-satellite cannot be installed: no package index")
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def home(port: int) -> list[str]:
    """What Home Assistant is told by a satellite until two pipelines were started; it ends each with a transcript."""
    told: list[str] = []
    async with asyncio.timeout(2 * PATIENCE_S), AsyncClient.from_uri(f"tcp://127.0.0.1:{port}") as client:
        await client.write_event(RunSatellite().event())
        while told.count("run-pipeline") < 2:
            event = await client.read_event()
            assert event is not None, "the satellite has left"
            told.append(event.type)
            if event.type == "run-pipeline":
                await client.write_event(Transcript("done").event())
    return told


def test_a_satellite_starts_a_pipeline_at_each_word_and_listens_again(satellite: Path, tmp_path: Path) -> None:
    spoken = np.concatenate([read(EXAMPLE, 16000)[int(9.8 * 16000) : int(11.6 * 16000)], silence(1)])
    (tmp_path / "spoken.raw").write_bytes(to_int16(spoken).tobytes() * 60)
    player = tmp_path / "play.py"
    player.write_text(
        "import sys, time\n"
        "for block in iter(lambda file=open(sys.argv[1], 'rb'): file.read(2048), b''):\n"
        "    sys.stdout.buffer.write(block); sys.stdout.flush(); time.sleep(0.064)\n"
    )
    heard, port = tmp_path / "heard.txt", free_port()
    microphone = shlex.join([sys.executable, str(player), str(tmp_path / "spoken.raw")])
    with Serving(load("commands10")) as running:
        command = [
            *(sys.executable, "-m", "wyoming_satellite", "--no-zeroconf", "--uri", f"tcp://127.0.0.1:{port}"),
            *("--name", "test", "--mic-command", microphone, "--wake-uri", running.uri, "--wake-word-name", "stop"),
            *("--detection-command", f"tee -a {heard}"),
        ]
        environment = {**os.environ, "PYTHONPATH": str(satellite)}
        peer = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: _listens(port))
            assert asyncio.run(home(port)).count("run-pipeline") == 2
            wait_until(lambda: heard.read_text() == "stopstop")
        finally:
            peer.kill()
            peer.wait()


def _listens(port: int) -> bool:
    time.sleep(0.1)
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
