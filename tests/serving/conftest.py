"""Servers for tests, a certificate, and patience, for tests run on busy machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from playwright.sync_api import Browser, Playwright, sync_playwright

from speechrnn.clients import admission, server
from speechrnn.recognizer import Recognizer, load
from tests.helpers import fake_recognizer
from tests.serving.browser import SpotResult, launch
from tests.serving.server import Serving


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is refused or sent away because this machine is slow; tests of that set their own limits."""
    monkeypatch.setattr(admission, "_LATE_S", 100.0)
    monkeypatch.setattr(admission, "_TOO_LATE_S", 100.0)
    monkeypatch.setattr(admission, "_SILENT_S", 100.0)
    monkeypatch.setattr(server, "_GRACE_S", 100.0)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    """The shipped model."""
    return load("commands10")


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    """A server whose model is the fake one; its uploads go to the shipped model."""
    with Serving(fake_recognizer()) as running:
        yield running


@pytest.fixture(scope="module")
def real_serving(recognizer: Recognizer) -> Iterator[Serving]:
    """A server of the shipped model."""
    with Serving(recognizer) as running:
        yield running


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who vouches for the certificate."""
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine with its key."""
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """What drives a browser."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def hearing(playwright: Playwright) -> Iterator[SpotResult]:
    """A browser whose microphone plays a file, once or again and again."""
    browsers: dict[str, Browser] = {}

    def browser(path: Path, *, once: bool = False) -> Browser:
        capture = f"{path}{'%noloop' if once else ''}"
        if capture not in browsers:
            allow = "--use-fake-ui-for-media-stream"
            browsers[capture] = launch(playwright, allow, f"--use-file-for-fake-audio-capture={capture}")
        return browsers[capture]

    yield browser
    for running in browsers.values():
        running.close()
