"""Patience for tests run on busy machines, and a server whose model is the fake one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from speechrnn.clients import admission, server
from tests.helpers import fake_recognizer
from tests.wyoming.server import Serving


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is refused or sent away because this machine is slow; tests of that set their own limits."""
    monkeypatch.setattr(admission, "_LATE_S", 100.0)
    monkeypatch.setattr(admission, "_TOO_LATE_S", 100.0)
    monkeypatch.setattr(admission, "_SILENT_S", 100.0)
    monkeypatch.setattr(server, "_GRACE_S", 100.0)


@pytest.fixture(scope="module")
def fake_serving() -> Iterator[Serving]:
    """A server whose model is the fake one."""
    with Serving(fake_recognizer()) as running:
        yield running
