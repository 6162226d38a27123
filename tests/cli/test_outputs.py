"""Where transcripts go, and what is left there when the work is broken off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from speechrnn.cli import outputs
from speechrnn.formats import Transcript, Write, to_jsonl

Choose = Callable[[Write, Callable[[str], None]], AbstractContextManager[outputs.Add]]
ONE, TWO = Transcript("a/one.wav", 1.0, ()), Transcript("two.wav", 2.0, ())


def test_after_an_interruption_the_old_file_stays_and_what_is_done_lies_beside_it(tmp_path: Path) -> None:
    target, notes = tmp_path / "words.jsonl", list[str]()
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), outputs.to_file(target, to_jsonl, notes.append) as add:
        add(ONE)
        add(TWO)
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert (tmp_path / "words.jsonl.part").read_text() == to_jsonl([ONE, TWO])
    assert notes == [f"speechrnn: 2 done, kept in {target}.part"]


@pytest.mark.parametrize("transcripts", [[], [ONE], [ONE, TWO]])
def test_a_file_is_replaced_by_a_whole_one_or_not_at_all(transcripts: list[Transcript], tmp_path: Path) -> None:
    target = tmp_path / "words.jsonl"
    target.write_text("old")
    with outputs.to_file(target, to_jsonl, pytest.fail) as add:
        for transcript in transcripts:
            add(transcript)
            assert target.read_text() == "old"
    assert target.read_text() == (to_jsonl(transcripts) or "old")
    assert list(tmp_path.iterdir()) == [target]


def test_in_a_folder_each_is_kept_as_soon_as_it_is_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), outputs.to_folder(tmp_path / "new", to_jsonl, ".jsonl") as add:
        add(ONE)
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in (tmp_path / "new").iterdir()} == {"one.jsonl": to_jsonl([ONE])}


@pytest.mark.parametrize(("choose", "n_pieces"), [(outputs.as_they_come, 2), (outputs.at_the_end, 1)])
def test_what_is_done_is_printed_also_after_an_interruption(choose: Choose, n_pieces: int) -> None:
    printed: list[str] = []
    with pytest.raises(KeyboardInterrupt), choose(to_jsonl, printed.append) as add:
        add(ONE)
        add(TWO)
        raise KeyboardInterrupt
    assert "".join(printed) == to_jsonl([ONE, TWO])
    assert len(printed) == n_pieces
