"""What `listen --review` keeps: what fired and what nearly fired, each with its posteriors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from speechrnn.errors import OutputError
from speechrnn.sinks.reviewer import Reviewed, Reviewer
from speechrnn.sinks.running import run as run_sinks
from speechrnn.sources import ArraySource
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter
from speechrnn.teaching.recordings import takes_of
from tests.helpers import EXAMPLE, RATE_HZ, assert_one_line, fake_recognizer, run, silence, word

OPTIONS = Options(threshold=0.9, smoothing_ms=300)


def reviewed(folder: Path, samples: np.ndarray) -> list[Reviewed]:
    spotter = KeywordSpotter(fake_recognizer(), OPTIONS)
    run_sinks(ArraySource(samples, RATE_HZ), spotter, [Reviewer(folder, spotter)], by_steps=True)
    lines = (folder / "_review_" / "review.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Reviewed) for line in lines]


def test_what_fires_and_what_nearly_fires_is_kept_with_its_posteriors(tmp_path: Path) -> None:
    faint = word("no", 0.1)  # less of it than its posterior needs
    samples = np.concatenate([silence(2), word("yes"), silence(2), faint, silence(2)])
    lines = reviewed(tmp_path, samples)
    assert [(one.label, one.fired) for one in lines] == [("yes", True), ("no", False)]
    assert [one.file[:5] for one in lines] == ["00001", "00002"]
    assert lines[0].score >= 0.9 > lines[1].score >= 0.45
    assert sum(lines[1].posteriors.values()) == pytest.approx(1, abs=0.01)
    for line, level in zip(lines, (0.25, 0.5), strict=True):
        clip, rate_hz = soundfile.read(tmp_path / "_review_" / line.file)
        assert rate_hz == RATE_HZ
        assert np.abs(clip).max() == pytest.approx(level, abs=1e-3)
        assert len(takes_of(tmp_path / "_review_" / line.file, RATE_HZ)) == 1


def test_numbers_go_on_where_clips_are_kept_already(tmp_path: Path) -> None:
    samples = np.concatenate([silence(2), word("yes"), silence(2)])
    reviewed(tmp_path, samples)
    assert [one.file[:5] for one in reviewed(tmp_path, samples)] == ["00001", "00002"]


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as raised:
        reviewed(tmp_path / "file", silence(1))
    assert_one_line(raised.value, "cannot write there")


def test_listen_keeps_the_words_of_the_example_and_prints_the_same(tmp_path: Path) -> None:
    plain = run("listen", "--model", "commands10", "--source", EXAMPLE, "--jsonl").stdout
    kept = run("listen", "--model", "commands10", "--source", EXAMPLE, "--jsonl", "--review", tmp_path)
    assert kept.stdout == plain
    fired = [path.name.split()[1] for path in sorted((tmp_path / "_review_").glob("* fired *.wav"))]
    assert fired == ["yes", "no", "up", "down", "left", "right", "stop", "go"]
