"""The Python in the README runs as it is written there, with a microphone that hears an example."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile

from speechrnn import sources

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
_SPEED = 5


class PlayedSound:
    """Stands in for sounddevice: a microphone that hears a recording, faster than it was spoken."""

    class PortAudioError(Exception):
        pass

    def __init__(self, path: Path) -> None:
        self._samples, self._rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        self.ended = threading.Event()

    def query_devices(self, device: object, kind: str) -> dict[str, Any]:
        return {"name": "played", "default_samplerate": float(self._rate_hz), "max_input_channels": 1}

    def InputStream(self, callback: Callable[..., None], blocksize: int, **options: object) -> SimpleNamespace:  # noqa: N802
        def play() -> None:
            for start in range(0, len(self._samples), blocksize):
                callback(self._samples[start : start + blocksize], blocksize, None, None)
                time.sleep(blocksize / self._rate_hz / _SPEED)
            self.ended.set()

        thread = threading.Thread(target=play, daemon=True)
        return SimpleNamespace(start=thread.start, abort=thread.join, close=lambda: None)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1].strip())
def test_the_python_of_the_readme_hears_the_example(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = PlayedSound(ROOT / "examples" / "audio" / "commands.wav")
    monkeypatch.setattr(sources, "_import_sounddevice", lambda: sound)
    monkeypatch.setattr("builtins.input", lambda prompt: sound.ended.wait(30))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out.split()
    words = ["yes", "no", "up", "down", "left", "right", "stop"]
    assert [word for word in dict.fromkeys(printed) if word in words] == words
