"""Runs a program at each detection."""

from __future__ import annotations

import shlex
import string
import subprocess
from collections.abc import Callable

from speechrnn.detector import Detection
from speechrnn.errors import ConfigError
from speechrnn.spotter import Step

_MAX_RUNNING = 8
_FIELDS = ("label", "score", "start_s", "end_s")


def _check_fields(text: str) -> None:
    """Raise ValueError for a field that is none of a detection's, or more than the name of one."""
    for _, name, form, conversion in string.Formatter().parse(text):
        if name is not None and (name not in _FIELDS or form or conversion):
            raise ValueError(f"expected a field by its name alone, got {{{name}}}")


class CommandRunner:
    """Runs a program at each detection without waiting for it and without a shell.

    `{label}`, `{score}`, `{start_s}` and `{end_s}` in the command's words are replaced. A program that cannot be
    started, fails, or hangs is reported; while eight are still running, further ones are skipped.
    Raises ConfigError if the command is empty, unbalanced, or names another field.
    """

    def __init__(self, command: str, report: Callable[[str], None]) -> None:
        try:
            self._words = shlex.split(command)
            for word in self._words:
                _check_fields(word)
        except ValueError as error:
            fields = " ".join(f"{{{name}}}" for name in _FIELDS)
            raise ConfigError(f"--run {command}: {error}; the fields are {fields}, a brace is {{{{ or }}}}") from None
        if not self._words:
            raise ConfigError("--run: expected a command, got nothing")
        self._report = report
        self._running: list[subprocess.Popen[bytes]] = []

    def _fill(self, found: Detection) -> list[str]:
        fields = {name: getattr(found, name) for name in _FIELDS}
        return [word.format(**fields) for word in self._words]

    def write(self, step: Step) -> None:
        """Start the program for each detection, and report those that have failed since."""
        self._check()
        for detection in step.detections:
            self._start(detection)

    def _start(self, found: Detection) -> None:
        if len(self._running) >= _MAX_RUNNING:
            self._report(f"--run: {_MAX_RUNNING} programs are still running; skipped one for {found.label}")
            return
        try:
            process = subprocess.Popen(
                self._fill(found), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            self._report(f"--run: cannot start {self._words[0]} ({error.strerror})")
            return
        self._running.append(process)

    def _check(self) -> None:
        for process in self._running:
            if process.poll():
                self._report(f"--run: {self._words[0]} failed with exit code {process.returncode}")
        self._running = [process for process in self._running if process.returncode is None]

    def close(self, patience_s: float = 1.0) -> None:
        """Give running programs a moment, then end them."""
        for process in self._running:
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                patience_s = 0.0
                process.kill()
                process.wait()
                self._report(f"--run: {self._words[0]} did not end and was stopped")
        self._check()
