"""Pipelines as commands: what their pages and docstrings say to type is understood, and names files that exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTPUTS = {Path("clips"), Path("runs/cells"), Path("scores.json")}
"""Default paths that a pipeline makes."""
_COMMAND = re.compile(r"python -m (pipelines\.[\w.]*\w)([^`\n]*)")


def modules() -> list[str]:
    files = sorted((ROOT / "pipelines").rglob("*.py"))
    programs = [file for file in files if "\ndef main(" in file.read_text()]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in programs]


def commands() -> list[tuple[str, str]]:
    """Module and arguments of every command in pages, configurations and docstrings; the log keeps old ones."""
    pages = [page for page in (ROOT / "docs").glob("*.md") if page.name != "log.md"]
    texts = [file.read_text() for file in [*pages, *(ROOT / "configs").glob("*.toml")]]
    texts += [importlib.import_module(module).__doc__ or "" for module in modules()]
    lines = [re.sub(r"\\\n#?", " ", text) for text in texts]
    return [(module, arguments) for text in lines for module, arguments in _COMMAND.findall(text)]


def parser_of(module: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that the program builds before it does anything."""

    class BuiltError(Exception):
        pass

    parsers: list[argparse.ArgumentParser] = []

    def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
        parsers.append(parser)
        raise BuiltError

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patched.setattr(sys, "argv", [module])
        with pytest.raises(BuiltError):
            importlib.import_module(module).main()
    return parsers[0]


@pytest.mark.parametrize("module", modules())
def test_default_paths_exist(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = parser_of(module, monkeypatch)
    paths = {action.default for action in parser._actions if isinstance(action.default, Path)}
    assert [path for path in paths - OUTPUTS if not (ROOT / path).exists()] == []


def test_every_pipeline_shows_its_command() -> None:
    assert {module for module, _ in commands()} == {*modules()}


@pytest.mark.parametrize(("module", "arguments"), commands(), ids=lambda given: given.strip())
def test_commands_that_are_shown_are_understood(module: str, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(arguments.replace("[", "").replace("]", "").rstrip(".:"))
    parser_of(module, monkeypatch).parse_args(words)
    inputs = [ROOT / word for word in words if word.startswith(("configs/", "examples/"))]
    assert [path for path in inputs if not path.exists()] == []
