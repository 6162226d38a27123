"""A real browser: its microphone, and a page in which nothing may go wrong unseen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect

from tests.helpers import PATIENCE_S
from tests.serving.server import Serving

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; see tests/install-system-packages"),
]
WAIT_MS = 1000 * PATIENCE_S
expect.set_options(timeout=WAIT_MS)
SpotResult = Callable[..., Browser]


def launch(playwright: Playwright, *arguments: str) -> Browser:
    """A browser whose devices are made up."""
    return playwright.chromium.launch(
        executable_path=CHROMIUM,
        timeout=WAIT_MS,
        args=["--no-sandbox", "--use-fake-device-for-media-stream", *arguments],
    )


@contextmanager
def open_page(
    browser: Browser, serving: Serving, path: str = "", *, before: str = "", ready: str = "#listen", **settings: Any
) -> Iterator[Page]:
    """A page that is ready; at its end, nothing may have failed in it or been kept out by its own policy."""
    page = browser.new_context(**settings).new_page()
    page.set_default_timeout(WAIT_MS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.add_init_script(before)
    page.goto(f"http://{serving.host}/{path}")
    expect(page.locator(ready)).to_be_enabled()
    yield page
    page.context.close()
    assert [text for text in problems if "Failed to load resource" not in text and "ERR_CONNECTION" not in text] == []
