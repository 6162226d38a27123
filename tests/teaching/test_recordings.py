"""Folders of own words: what is a take, what is refused and why, and where files are cut."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from speechrnn.errors import DataError, SpeechRnnError
from speechrnn.teaching.augmentation import augmented, place, plain
from speechrnn.teaching.recordings import Take, read_folder, takes_of, unpacked
from tests.helpers import RATE_HZ, assert_one_line, noise, silence, sine, write_audio


def said(frequency_hz: float, duration_s: float = 0.4) -> np.ndarray:
    return np.concatenate([silence(0.3), sine(frequency_hz, duration_s), silence(0.3)])


def fill(folder: Path, word: str, n: int) -> None:
    for number in range(n):
        write_audio(folder / word / f"{number}.wav", said(300 + 10 * number))


def fail(error: SpeechRnnError) -> None:
    pytest.fail(str(error))


def refused(folder: Path) -> tuple[dict[str, int], list[str]]:
    problems: list[SpeechRnnError] = []
    found = read_folder(folder, RATE_HZ, problems.append)
    return {word: len(takes) for word, takes in found.takes.items()}, [str(one) for one in problems]


def test_a_short_file_is_one_take_with_its_word_and_its_speaker(tmp_path: Path) -> None:
    [take] = takes_of(write_audio(tmp_path / "ana_nohash_0.wav", said(300)), RATE_HZ)
    assert (take.start / RATE_HZ, take.end / RATE_HZ) == pytest.approx((0.3, 0.7), abs=0.03)
    assert (take.speaker, len(take.word)) == ("ana", take.end - take.start)


def test_words_in_one_file_are_cut_apart_at_pauses(tmp_path: Path) -> None:
    recording = np.concatenate([said(frequency_hz) for frequency_hz in (300, 400, 500, 600)])
    takes = takes_of(write_audio(tmp_path / "all.flac", recording), RATE_HZ)
    assert [len(take.word) / RATE_HZ for take in takes] == pytest.approx([0.4] * 4, abs=0.03)


def test_files_of_any_rate_and_format_are_read(tmp_path: Path) -> None:
    for suffix, rate_hz in ((".wav", 8000), (".flac", 48000), (".ogg", 44100)):
        n = rate_hz // 3
        samples = np.concatenate([np.zeros(n), 0.5 * np.sin(np.arange(n) * 0.1), np.zeros(n)]).astype(np.float32)
        [take] = takes_of(write_audio(tmp_path / f"a{suffix}", samples, rate_hz), RATE_HZ)
        assert len(take.word) / RATE_HZ == pytest.approx(1 / 3, abs=0.04)


def test_silent_and_repeated_recordings_are_named_and_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "lights", 3)
    write_audio(tmp_path / "lights" / "silent.wav", silence(1))
    write_audio(tmp_path / "lights" / "twice.wav", said(300))
    counts, problems = refused(tmp_path)
    assert counts == {"lights": 3}
    assert "silent.wav: no word in it" in problems[0]
    assert "twice.wav: the same recording as 0.wav" in problems[1]


def test_folders_of_roles_are_no_words(tmp_path: Path) -> None:
    fill(tmp_path, "ひかり", 3)
    fill(tmp_path, "_not_", 2)
    write_audio(tmp_path / "_background_noise_" / "room.wav", noise(RATE_HZ * 3))
    found = read_folder(tmp_path, RATE_HZ, fail)
    assert [*found.takes] == ["ひかり"]
    assert (len(found.others), len(found.rooms[0])) == (2, RATE_HZ * 3)


@pytest.mark.parametrize(
    ("n", "parts"),
    [(1, ("at least 3 different recordings", "got 1")), (0, ("a folder for each word",))],
)
def test_too_little_is_said_in_one_line(tmp_path: Path, n: int, parts: tuple[str, ...]) -> None:
    if n:
        fill(tmp_path, "lights", n)
    with pytest.raises(DataError) as raised:
        refused(tmp_path)
    assert_one_line(raised.value, *parts)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        refused(tmp_path / "mine")
    assert_one_line(raised.value, str(tmp_path / "mine"), "speechrnn record")


def test_of_very_many_recordings_some_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechrnn.teaching.recordings.MAX_TAKES", 5)
    fill(tmp_path, "lights", 20)
    takes = read_folder(tmp_path, RATE_HZ, fail).takes["lights"]
    assert [take.path.stem for take in takes] == ["0", "12", "16", "2", "6"]


def take_of(samples: np.ndarray, start: int, end: int) -> Take:
    return Take(Path("a.wav"), samples, start, end, "")


@pytest.mark.parametrize(("position", "start"), [(0.0, 0), (0.5, 6000), (1.0, 12000)])
def test_a_word_is_placed_whole_from_the_start_of_the_context_to_its_end(position: float, start: int) -> None:
    samples = np.concatenate([silence(0.1), np.ones(4000, np.float32), silence(0.1)])
    placed = place(samples, 1600, 5600, 16000, position)
    assert np.flatnonzero(placed)[[0, -1]].tolist() == [start, start + 3999]


def test_a_word_longer_than_the_context_fills_it() -> None:
    assert place(np.ones(20000, np.float32), 0, 20000, 16000, 1.0).sum() == 16000


def test_varied_contexts_hold_the_word_and_follow_from_the_seed() -> None:
    take = take_of(np.concatenate([silence(0.3), sine(500, 0.3), silence(0.3)]), 4800, 9600)
    made = [augmented(take, 8, 16000, RATE_HZ, [noise(40000)], np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert made[0].shape == (8, 16000)
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    spectra = np.abs(np.fft.rfft(made[0]))[:, 300:]
    assert all(abs(int(row.argmax()) + 300 - 500) < 75 for row in spectra)  # the tone, up to 12 % faster or slower


def test_plain_contexts_hold_the_recording_as_it_is() -> None:
    samples = np.concatenate([silence(0.3), sine(500, 0.3), silence(0.3)])
    contexts = plain(take_of(samples, 4800, 9600), 16000)
    assert all(np.square(row).sum() == pytest.approx(np.square(samples).sum(), rel=1e-3) for row in contexts)


def zipped(folder: Path, archive: Path, above: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.rglob("*.wav")):
            opened.write(file, above + file.relative_to(folder).as_posix())
    return archive


@pytest.mark.parametrize("above", ["", "my-words/"])
@pytest.mark.parametrize("words", [("lights",), ("lights", "music")])
def test_an_archive_serves_as_the_folder_that_it_holds(tmp_path: Path, above: str, words: tuple[str, ...]) -> None:
    for word in words:
        fill(tmp_path / "folder", word, 3)
    with unpacked(zipped(tmp_path / "folder", tmp_path / "my.zip", above)) as place:
        assert {word: len(takes) for word, takes in read_folder(place, RATE_HZ, fail).takes.items()} == dict.fromkeys(
            words, 3
        )
    assert not place.exists()
    with unpacked(tmp_path / "folder") as place:
        assert place == tmp_path / "folder"


def test_an_archive_that_is_damaged_or_too_large_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "folder", "lights", 3)
    whole = zipped(tmp_path / "folder", tmp_path / "my.zip").read_bytes()
    (tmp_path / "damaged.zip").write_bytes(whole[:2000] + b"x" * 2000 + whole[4000:])
    with pytest.raises(DataError) as raised, unpacked(tmp_path / "damaged.zip"):
        pass
    assert_one_line(raised.value, "damaged.zip: cannot be unpacked", "make it again")
    monkeypatch.setattr("speechrnn.teaching.recordings._MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError) as raised, unpacked(tmp_path / "my.zip"):
        pass
    assert_one_line(raised.value, "my.zip: expected at most")
