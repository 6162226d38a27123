"""Which files a folder of audio holds."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from speechrnn.errors import AudioError
from speechrnn.folders import find_audio
from tests.helpers import assert_one_line


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_file_is_itself_and_a_folder_all_audio_below_it_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.wav", "deep/er/a.FLAC", "c.txt", "a.wav", "phone.m4a")
    (tmp_path / "folder.wav").mkdir()
    expected = ["a.wav", "b.wav", "deep/er/a.FLAC", "phone.m4a"]
    assert find_audio(tmp_path) == [tmp_path / name for name in expected]
    assert find_audio(tmp_path / "c.txt") == [tmp_path / "c.txt"]


def test_linked_folders_are_entered_once_and_under_their_own_name(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/yes.wav", "tree/no/a.wav")
    (tmp_path / "tree" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tree" / "again").symlink_to(tmp_path / "tree" / "no")
    (tmp_path / "tree" / "no" / "up").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "one.wav").symlink_to(tmp_path / "elsewhere" / "yes.wav")
    found = [str(file.relative_to(tmp_path / "tree")) for file in find_audio(tmp_path / "tree")]
    assert found == ["linked/yes.wav", "no/a.wav", "one.wav"]


def test_hidden_files_are_left_out_and_what_is_no_audio_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.wav", "._a.wav", ".hidden/b.wav", "notes.txt", "1.zip", "2.zip", "3.zip", "sub/4.xyz", "5.zip")
    with caplog.at_level(logging.WARNING):
        assert find_audio(tmp_path) == [tmp_path / "a.wav"]
    assert caplog.messages == [f"{tmp_path}: left out what is no audio: 1.zip, 2.zip, 3.zip and 2 more"]


def test_folders_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.wav", "secret/b.wav")

    def scandir(folder: Path) -> Any:  # root may read everything, so no mode of a folder keeps the tests out
        if Path(folder).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return list_folder(folder)

    list_folder = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    told: list[str] = []
    assert find_audio(tmp_path, unreadable=told.append) == [tmp_path / "a.wav"]
    assert told == [f"{tmp_path / 'secret'}: cannot be read (Permission denied)"]


@pytest.mark.parametrize(("name", "part"), [("empty", "no audio in this folder"), ("a" * 300, "cannot be read")])
def test_a_folder_without_audio_and_a_path_that_cannot_be_looked_at_are_one_line(
    name: str, part: str, tmp_path: Path
) -> None:
    touch(tmp_path, "empty/notes.txt")
    with pytest.raises(AudioError) as caught:
        find_audio(tmp_path / name)
    assert_one_line(caught.value, str(tmp_path / name), part)
