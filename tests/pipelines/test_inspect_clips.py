"""What is said of the clips that are trained on, on clips whose lengths, levels and words are known."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.studies import inspect_clips
from pipelines.studies.inspect_clips import Inspected, context_of, draw, inspect, to_list, to_listen, to_table
from speechrnn.audio import from_int16, to_int16
from speechrnn.data.clips import Clip, Pack, Source
from tests.conftest import CONFIGS
from tests.helpers import RATE_HZ, fake_recognizer, silence, word

FOUND = {
    "yes": [Inspected("a.wav", 1.5, 0.3, -20.0, 0.9, "no", 0.1), Inspected("b.wav", 0, 0.5, -10.0, 1.0, "yes", 0.9)]
}


def pack_of(*labels: str) -> Pack:
    """One file of a word of 0.3 s after 0.2 s of silence for each label, each cut out as a clip."""
    parts = [np.concatenate([silence(0.2), word(label), silence(0.5)]) for label in labels]
    source = Source("speech.wav", 0, 0, "command", "training", "yes")
    clips = [Clip(source, i * RATE_HZ, RATE_HZ, RATE_HZ // 5, RATE_HZ // 2) for i in range(len(labels))]
    return Pack(clips, to_int16(np.concatenate(parts)), [])


def test_a_clip_that_the_model_doubts_comes_first() -> None:
    pack = pack_of("yes", "no", "yes")
    rows = inspect(pack.clips, "yes", pack, {"speech.wav": 0}, fake_recognizer())
    first, others = rows[0][0], [row for row, _ in rows[1:]]
    assert (first.label, first.start_s, first.word_s) == ("no", 1.2, 0.3)
    assert rows[0][1] is pack.clips[1]
    assert first.score < 0.5 < min(one.score for one in others)
    assert {one.label for one in others} == {"yes"}
    assert first.level_db == pytest.approx(others[0].level_db + 6, abs=0.1)  # "no" is twice as loud
    assert first.peak == pytest.approx(0.5 * np.sqrt(2), abs=0.3)


def test_the_word_lies_in_the_middle_of_the_context() -> None:
    pack = pack_of("yes")
    context = context_of(pack.clips[0], from_int16(pack.samples_of(pack.clips[0])), RATE_HZ)
    loud = np.flatnonzero(context)
    assert (loud[0] + loud[-1]) / 2 == pytest.approx(RATE_HZ / 2, abs=RATE_HZ / 100)
    assert len(loud) == pytest.approx(0.3 * RATE_HZ, rel=0.01)


def test_what_is_listened_to_is_the_words_with_pauses() -> None:
    pack = pack_of("yes", "no")
    audio = to_listen(pack.clips, pack)
    assert len(audio) == 2 * (0.3 + 0.5) * RATE_HZ
    assert not audio[round(0.3 * RATE_HZ) : round(0.8 * RATE_HZ)].any()


def test_the_table_and_the_list_say_what_was_found() -> None:
    assert to_table(FOUND).rows == [("yes", "2", "0.40", "-15", "50.0 %", "50.0 %")]
    assert to_list(FOUND).splitlines()[1] == "yes,a.wav,1.50,0.30,-20.0,0.900,no,0.1"


def test_the_picture_shows_medians_by_class() -> None:
    lengths, levels = draw(FOUND).axes
    assert [label.get_text() for label in lengths.get_yticklabels()] == ["yes"]
    assert any((np.asarray(line.get_xdata()) == 0.4).all() for line in lengths.lines)
    assert any((np.asarray(line.get_xdata()) == -15).all() for line in levels.lines)


@pytest.mark.slow
def test_the_command_looks_at_all_classes(made_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inspect_clips, "load", lambda name: fake_recognizer())
    arguments = [str(CONFIGS / "smoke.toml"), "any", "--data", str(made_dir), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["inspect_clips", *arguments, "--max-per-class", "5"])
    inspect_clips.main()
    rows = list(csv.DictReader((tmp_path / "clips.csv").read_text().splitlines()))
    classes = {row["class"] for row in rows}
    assert {"yes", "no"} < classes
    assert max(sum(row["class"] == name for row in rows) for name in classes) == 5
    for name in classes:
        assert soundfile.info(tmp_path / f"{name.replace(', ', '-')}.wav").samplerate == RATE_HZ
    assert (tmp_path / "clips.png").stat().st_size > 1000
