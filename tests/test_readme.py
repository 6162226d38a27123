"""The README is short, and its first command prints what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from speechrnn.cli.main import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_readme_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 130


def test_the_demo_prints_what_the_readme_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = CliRunner().invoke(cli, ["transcribe", "examples/audio"], catch_exceptions=False).stdout
    assert f"$ make demo\n{printed}```" in README
