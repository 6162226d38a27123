"""What servers log: lines for people, or JSON that a program reads, from a level on."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from speechrnn.cli import serve
from tests.helpers import COMMAND, PATIENCE_S, assert_one_line, run


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("speechrnn")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def log_some() -> None:
    log = logging.getLogger("speechrnn.wyoming.session")
    log.debug("a detail")
    log.info("a %s was sent away", "client")
    log.warning("ö\nthe second line")
    logging.getLogger("asyncio").info("of another library")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["DEBUG: a detail", "INFO: a client was sent away", "WARNING: ö", "the second line"]),
        ("info", ["INFO: a client was sent away", "WARNING: ö", "the second line"]),
        ("warning", ["WARNING: ö", "the second line"]),
        ("error", []),
    ],
)
def test_messages_from_a_level_on_are_logged(
    level: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    serve.start_logging(level, "text")
    log_some()
    assert capsys.readouterr().err.splitlines() == expected


def test_every_line_is_an_object_in_json_also_what_people_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    tell = serve.start_logging("warning", "json")
    tell("listening at 100 %s")
    log_some()
    try:
        raise ValueError("damaged")
    except ValueError:
        logging.getLogger("speechrnn.clients").exception("a connection failed")
    told, warned, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert (told["level"], told["logger"], told["message"]) == ("info", "speechrnn", "listening at 100 %s")
    assert (warned["level"], warned["message"]) == ("warning", "ö\nthe second line")
    assert warned["logger"] == "speechrnn.wyoming.session"
    assert "exception" not in warned
    assert failed["exception"].splitlines()[-1] == "ValueError: damaged"
    assert datetime.fromisoformat(told["time"]).utcoffset() == timedelta()


def test_when_a_server_has_ended_nothing_of_its_log_is_left() -> None:
    before = logging.getLogger().handlers[:]
    assert_one_line(run("wyoming", "--uri", "nonsense", "--log-format", "json"))
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize("verb", ["serve", "wyoming"])
def test_levels_that_are_none_are_one_clear_line(verb: str) -> None:
    assert_one_line(run(verb, "--log-level", "loud"), "loud", "warning")


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "options"), [("serve", ["--port", "0"]), ("wyoming", ["--uri", "tcp://127.0.0.1:0"])])
def test_a_server_says_in_json_where_it_listens(verb: str, options: list[str]) -> None:
    words = [*COMMAND, verb, *options, "--log-format", "json"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = json.loads(running.stderr.readline())
        os.kill(running.pid, signal.SIGTERM)
        lines = running.stderr.read().splitlines()
        assert running.wait(PATIENCE_S) == 0
    assert "127.0.0.1:" in said["message"]
    assert [json.loads(line)["level"] for line in lines if "Ctrl-C" not in line] == []
