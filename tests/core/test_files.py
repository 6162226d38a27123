"""Files that are written: whole, to places that were checked before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from speechrnn import files
from speechrnn.errors import ConfigError, OutputError
from tests.helpers import assert_one_line


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.check_place(tmp_path / "pipe")
    files.write_whole(tmp_path / "pipe", "words")
    assert os.read(reader, 100) == b"words"
    os.close(reader)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("place", ["", "file/words.csv"])
def test_a_place_where_no_file_can_go_is_known_before_the_work(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=str(tmp_path)):
        files.check_place(tmp_path / place)


def test_a_file_that_is_read_is_not_written_over_by_any_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to("talk.wav")
    for name in ("talk.wav", "folder/../talk.wav", "linked"):
        with pytest.raises(ConfigError, match="give another name") as caught:
            files.check_not_read([None, tmp_path / "new.json", tmp_path / name], [tmp_path / "talk.wav"])
        assert_one_line(caught.value, name)


def test_new_files_other_files_and_devices_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "old.json").touch()
    (tmp_path / "talk.wav").touch()
    written = [tmp_path / "new.json", tmp_path / "old.json", Path(os.devnull), None]
    files.check_not_read(written, [tmp_path / "talk.wav", tmp_path / "missing.wav", Path(os.devnull)])
