"""From folders of audio to a pack: splits, a pack that survives interruption, and what cannot be used."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from speechrnn.audio import from_int16, to_int16
from speechrnn.cli.main import cli
from speechrnn.config import TRAINING_RATE_HZ, Data
from speechrnn.data import pack as dataset
from speechrnn.data import speech_commands
from speechrnn.data.clips import Clip, Int16, Pack, Source, word_extent
from speechrnn.data.pack import find_sources, prepare
from speechrnn.data.speech_commands import split_of
from speechrnn.errors import DataError
from tests import made_data
from tests.conftest import CONFIGS, KilledError
from tests.helpers import PATIENCE_S, assert_one_line

COMMANDS = "SpeechCommands/speech_commands_v0.02"


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of some thirty files; read only."""
    return made_data.write(tmp_path_factory.mktemp("small"), n_speakers=4, n_takes=1)


@pytest.fixture
def own_dir(small_dir: Path, tmp_path: Path) -> Path:
    """A copy of the small data set, to change."""
    return Path(shutil.copytree(small_dir, tmp_path / "own"))


# Splits


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00/"), max_size=12), st.integers(0, 9))
def test_the_split_is_the_last_27_bits_of_a_hash_in_tenths(speaker: str, take: int) -> None:
    bits = int.from_bytes(hashlib.sha1(speaker.partition("_nohash_")[0].encode()).digest()[-4:], "big") & 0x7FFFFFF
    expected = "validation" if 10 * bits < 0x7FFFFFF else "testing" if 5 * bits < 0x7FFFFFF else "training"
    assert split_of(f"{speaker}_nohash_{take}.wav") == expected


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [  # as the official lists have them
        ("026290a7_nohash_0.wav", "validation"),
        ("060cd039_nohash_0.wav", "validation"),
        ("060cd039_nohash_1.wav", "validation"),
        ("0c540988_nohash_0.wav", "testing"),
        ("0cb74144_nohash_2.wav", "testing"),
        ("f2e59fea_nohash_4.wav", "testing"),
        ("004ae714_nohash_0.wav", "training"),
        ("00f0204f_nohash_1.wav", "training"),
        # made up, and within a ten thousandth of a percent of 10 % and of 20 %
        ("0014e9fc_nohash_0.wav", "validation"),
        ("000e6141_nohash_0.wav", "testing"),
        ("001234ee_nohash_0.wav", "testing"),
        ("0007581c_nohash_0.wav", "training"),
    ],
)
def test_the_split_of_clips_whose_split_is_known(file_name: str, expected: str) -> None:
    assert split_of(file_name) == expected


def command_splits(root: Path) -> dict[str, str]:
    clips = find_sources(made_data.data(root))
    return {f"{c.word}/{Path(c.path).name}": c.split for c in clips if c.kind == "command"}


def test_the_official_lists_win_over_the_hash(made_dir: Path) -> None:
    splits = command_splits(made_dir)
    for split in ("validation", "testing"):
        listed = set((made_dir / COMMANDS / f"{split}_list.txt").read_text().split())
        assert {name for name, found in splits.items() if found == split} == listed
    assert any(split != split_of(name.partition("/")[2]) for name, split in splits.items())


def test_without_lists_the_hash_decides(own_dir: Path) -> None:
    for path in (own_dir / COMMANDS).glob("*_list.txt"):
        path.unlink()
    splits = command_splits(own_dir)
    assert splits == {name: split_of(name.partition("/")[2]) for name in splits}
    assert len(splits) == 12


def relisted(root: Path, word: str, *, suffix: str = ".wav", end: str = "\n") -> list[str]:
    """The clips of `yes` under another word, in order; the lists name one of validation and one of testing."""
    folder = (root / COMMANDS / "yes").rename(root / COMMANDS / word)
    names = sorted(path.name for path in folder.iterdir())
    for split, name in zip(("validation", "testing"), names, strict=False):
        entry = unicodedata.normalize("NFC", f"{word}/{Path(name).stem}{suffix}")
        (root / COMMANDS / f"{split}_list.txt").write_bytes(f"{entry}{end}".encode())
    return names


@pytest.mark.parametrize("word", ["turn on", "は い", "no\u0308", "{yes}"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_lists_are_lines_so_words_with_spaces_keep_their_splits(own_dir: Path, word: str, end: str) -> None:
    names = relisted(own_dir, word, end=end)
    splits = command_splits(own_dir)
    expected = ["validation", "testing", *["training"] * (len(names) - 2)]
    assert [splits[f"{word}/{name}"] for name in names] == expected


def test_lists_that_name_none_of_the_clips_of_a_word_are_refused(own_dir: Path) -> None:
    n_clips = len(relisted(own_dir, "turn on", suffix=".flac"))
    with pytest.raises(DataError) as caught:
        find_sources(made_data.data(own_dir))
    assert_one_line(caught.value, f"turn on: the official lists have 2 entries, of 0 of its {n_clips} clips; correct")


def test_a_word_that_the_lists_do_not_name_is_warned_of(own_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = relisted(own_dir, "turn on")
    (own_dir / COMMANDS / "mine").mkdir()
    for i in range(20):
        shutil.copy(own_dir / COMMANDS / "turn on" / names[0], own_dir / COMMANDS / "mine" / f"{i}.wav")
    find_sources(made_data.data(own_dir))
    (message,) = caplog.messages
    assert "mine: the official lists have 0 entries, of 0 of its 20 clips; the others are trained on" in message


def test_every_source_has_its_kind(small_dir: Path) -> None:
    kinds = Counter(
        (clip.kind, clip.split) for clip in find_sources(made_data.data(small_dir)) if clip.kind != "command"
    )
    assert kinds == {
        ("noise", "training"): 2,
        ("word", "training"): 12,
        ("word", "validation"): 3,
        ("speech", "training"): 2,
    }


# Packing


def test_every_clip_is_packed_bit_for_bit(small_dir: Path, tmp_path: Path) -> None:
    pack = prepare(made_data.data(small_dir, packed=str(tmp_path)))
    assert len(pack.clips) == len(list(small_dir.rglob("*.wav")))
    for clip in pack.clips:
        expected, rate_hz = soundfile.read(small_dir / clip.path, dtype="int16")
        assert rate_hz == TRAINING_RATE_HZ
        assert np.array_equal(pack.samples_of(clip), expected), clip.path
    assert sum(clip.n_samples for clip in pack.clips) == len(pack.samples)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_files_of_any_sample_format_keep_their_level(own_dir: Path, subtype: str) -> None:
    samples = made_data.clip("cat", np.random.default_rng(0))
    path = own_dir / "other_words" / "training" / "cat" / "odd.wav"
    soundfile.write(path, samples, made_data.RATE_HZ, subtype=subtype)
    pack = prepare(made_data.data(own_dir))
    (clip,) = [clip for clip in pack.clips if clip.path.endswith("odd.wav")]
    assert np.abs(pack.samples_of(clip).astype(int) - to_int16(samples)).max() <= 1


def pack_files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file of a pack."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_pack_is_used_again(small_dir: Path, tmp_path: Path) -> None:
    data = made_data.data(small_dir, packed=str(tmp_path / "packed"))
    first = prepare(data)
    before = pack_files(tmp_path / "packed")
    assert set(before) == {"index.jsonl", "samples.int16", ".lock", dataset.PROBLEMS}
    second = prepare(data, lambda clips, n: pytest.fail("packed again"))
    assert pack_files(tmp_path / "packed") == before
    assert second.clips == first.clips


def test_of_two_processes_that_prepare_the_same_one_does_and_the_other_waits(own_dir: Path) -> None:
    began, packed = threading.Event(), []

    def slowly(clips: Iterable[Source], n: int) -> Iterator[Source]:
        packed.append(n)
        began.set()
        for clip in clips:
            time.sleep(0.002)
            yield clip

    with ThreadPoolExecutor() as pool:
        first = pool.submit(prepare, made_data.data(own_dir), slowly)
        assert began.wait(PATIENCE_S)
        second = pool.submit(prepare, made_data.data(own_dir), slowly)
        assert first.result().clips == second.result().clips
    assert len(packed) == 1


def rewrite(root: Path) -> None:
    path = root / COMMANDS / "yes" / "changed_nohash_0.wav"
    made_data.write_wav(path, made_data.clip("yes", np.random.default_rng(1)))


def remove(root: Path) -> None:
    sorted((root / COMMANDS / "no").iterdir())[1].unlink()


def change(root: Path) -> None:
    path = sorted((root / COMMANDS / "no").iterdir())[0]
    samples, _ = soundfile.read(path, dtype="int16")
    later_ns = path.stat().st_mtime_ns + 1
    soundfile.write(path, samples[::-1], made_data.RATE_HZ)
    os.utime(path, ns=(later_ns, later_ns))


def relist(root: Path) -> None:
    (root / COMMANDS / "validation_list.txt").write_text(f"yes/{sorted((root / COMMANDS / 'yes').iterdir())[0].name}\n")


@pytest.mark.parametrize("edit", [rewrite, remove, change, relist])
def test_a_changed_new_removed_or_newly_listed_clip_is_noticed(own_dir: Path, edit: Callable[[Path], None]) -> None:
    data = made_data.data(own_dir)
    prepare(data)
    edit(own_dir)
    pack = prepare(data)
    assert [(clip.path, clip.split) for clip in pack.clips] == [(c.path, c.split) for c in find_sources(data)]
    for clip in pack.clips:
        expected, _ = soundfile.read(own_dir / clip.path, dtype="int16")
        assert np.array_equal(pack.samples_of(clip), expected), clip.path


def killed_after(n: int) -> Callable[[Iterable[Source], int], Iterator[Source]]:
    def progress(clips: Iterable[Source], total: int) -> Iterator[Source]:
        for done, clip in enumerate(clips):
            if done == n:
                raise KilledError
            yield clip

    return progress


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def uninterrupted(small_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    prepare(made_data.data(small_dir, packed=str(folder)))
    return contents(folder)


def interrupt(data: Data, n: int) -> None:
    with pytest.raises(KilledError):
        prepare(data, killed_after(n))


@pytest.mark.parametrize("flush_every", [1, 7, 500])
@pytest.mark.parametrize("n", [0, 1, 6, 7, 20])
def test_packing_goes_on_where_it_was_interrupted(
    small_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, bytes],
    flush_every: int,
    n: int,
) -> None:
    monkeypatch.setattr(dataset, "_FLUSH_EVERY", flush_every)
    data = made_data.data(small_dir, packed=str(tmp_path / "packed"))
    n_clips = len(find_sources(data))
    interrupt(data, n)
    again: list[Source] = []

    def progress(clips: Iterable[Source], total: int) -> Iterable[Source]:
        assert total == n_clips
        again.extend(clips)
        return again

    prepare(data, progress)
    assert len(again) == n_clips - n // flush_every * flush_every
    assert contents(tmp_path / "packed") == uninterrupted


def cut_last_line(folder: Path) -> None:
    path = folder / "index.jsonl.part"
    path.write_bytes(path.read_bytes()[:-9])


def add_samples(folder: Path) -> None:
    with (folder / "samples.int16.part").open("ab") as file:
        file.write(b"\x01\x02\x03")


def cut_samples(folder: Path) -> None:
    path = folder / "samples.int16.part"
    path.write_bytes(path.read_bytes()[:-1001])


def remove_samples(folder: Path) -> None:
    (folder / "samples.int16.part").unlink()


def remove_index(folder: Path) -> None:
    (folder / "index.jsonl.part").unlink()


def spoil_index(folder: Path) -> None:
    (folder / "index.jsonl.part").write_bytes(b"not json\n" * 3)


def rename_samples(folder: Path) -> None:
    (folder / "samples.int16.part").rename(folder / "samples.int16")


@pytest.mark.parametrize(
    "damage",
    [cut_last_line, add_samples, cut_samples, remove_samples, remove_index, spoil_index, rename_samples],
)
def test_packing_recovers_from_part_files_that_were_left_in_any_state(
    small_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, bytes],
    damage: Callable[[Path], None],
) -> None:
    monkeypatch.setattr(dataset, "_FLUSH_EVERY", 1)
    data = made_data.data(small_dir, packed=str(tmp_path / "packed"))
    interrupt(data, 9)
    damage(tmp_path / "packed")
    prepare(data)
    assert contents(tmp_path / "packed") == uninterrupted


def test_packing_survives_many_interruptions(
    small_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    monkeypatch.setattr(dataset, "_FLUSH_EVERY", 2)
    data = made_data.data(small_dir, packed=str(tmp_path / "packed"))
    for n in (3, 1, 5, 2, 4):
        interrupt(data, n)
    prepare(data)
    assert contents(tmp_path / "packed") == uninterrupted


def test_an_old_pack_stays_whole_while_the_new_one_is_made(own_dir: Path) -> None:
    data = made_data.data(own_dir)
    prepare(data)
    old = contents(own_dir / "packed")
    rewrite(own_dir)
    interrupt(data, 5)
    new = contents(own_dir / "packed")
    assert {name: new[name] for name in old} == old


def test_a_clip_that_changes_after_an_interruption_is_packed_anew(
    own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_FLUSH_EVERY", 1)
    data = made_data.data(own_dir)
    interrupt(data, 20)
    change(own_dir)
    for clip in (pack := prepare(data)).clips:
        expected, _ = soundfile.read(own_dir / clip.path, dtype="int16")
        assert np.array_equal(pack.samples_of(clip), expected), clip.path


def test_a_pack_of_another_format_is_made_anew(own_dir: Path) -> None:
    data = made_data.data(own_dir)
    before = prepare(data)
    index = own_dir / data.packed / "index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text('{"speechrnn_pack": 1}\n' + "".join(lines[1:]).replace('"word_end":', '"word_end":1'))
    assert prepare(data).clips == before.clips
    assert index.read_text() == "".join(lines)


def test_links_to_folders_are_followed_but_not_in_circles(own_dir: Path, tmp_path: Path) -> None:
    expected = [clip.path for clip in find_sources(made_data.data(own_dir))]
    shutil.move(own_dir / COMMANDS / "yes", tmp_path / "elsewhere")
    (own_dir / COMMANDS / "yes").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(own_dir / COMMANDS)
    (own_dir / COMMANDS / "no" / "again").symlink_to(own_dir / COMMANDS)
    assert [clip.path for clip in find_sources(made_data.data(own_dir))] == expected


def test_a_broken_link_is_a_clip_that_cannot_be_used(own_dir: Path) -> None:
    (own_dir / COMMANDS / "yes" / "lost.wav").symlink_to("nowhere.wav")
    (refused,) = prepare(made_data.data(own_dir)).refused
    assert (refused.source.path, refused.problem) == (f"{COMMANDS}/yes/lost.wav", "no such file")


TONE = 0.1 * np.sin(np.arange(8000) / 5)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "reason"),
    [
        (np.zeros(8000), 16000, "no sound"),
        (np.zeros(0), 16000, "expected audio, got a file with no samples"),
        (None, 16000, "not readable as audio"),
    ],
)
def test_clips_that_cannot_be_used_are_listed_with_a_reason(
    own_dir: Path, samples: np.ndarray[Any, Any] | None, rate_hz: int, reason: str
) -> None:
    n_before = len(prepare(made_data.data(own_dir)).clips)
    path = own_dir / COMMANDS / "yes" / "aaa_nohash_0.wav"
    if samples is None:
        path.write_bytes(b"RIFF is how it begins, but no audio follows")
    else:
        soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    pack = prepare(made_data.data(own_dir))
    assert [one.source.path for one in pack.refused] == [str(path.relative_to(own_dir))]
    assert pack.refused[0].problem.startswith(reason)
    assert len(pack.clips) == n_before
    assert prepare(made_data.data(own_dir)).refused == pack.refused
    listed = (own_dir / "packed" / dataset.PROBLEMS).read_text()
    assert listed == f"{pack.refused[0].source.path}: {pack.refused[0].problem}\n"


@pytest.mark.parametrize(
    ("samples", "rate_hz", "note"),
    [
        (TONE, 8000, "resampled from 8000 to 16000 Hz"),
        (np.stack([TONE, TONE], axis=1), 48000, "resampled from 48000 to 16000 Hz; 2 channels mixed to one"),
        (TONE * 32767, 16000, "its floating-point samples reach far beyond 1; they are divided by 32768"),
    ],
)
def test_clips_of_another_kind_are_changed_to_what_is_trained_on_and_listed(
    own_dir: Path, samples: np.ndarray[Any, Any], rate_hz: int, note: str
) -> None:
    path = own_dir / COMMANDS / "yes" / "aaa_nohash_0.wav"
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    pack = prepare(made_data.data(own_dir))
    name = str(path.relative_to(own_dir))
    (clip,) = [clip for clip in pack.clips if clip.path == name]
    assert (clip.n_samples, clip.note) == (round(len(samples) * 16000 / rate_hz), note)
    assert np.abs(pack.samples_of(clip)).max() == pytest.approx(3277, abs=200)
    assert (own_dir / "packed" / dataset.PROBLEMS).read_text() == f"{name}: {note}\n"


def test_what_there_is_of_a_damaged_clip_is_packed_and_listed(own_dir: Path) -> None:
    path = own_dir / COMMANDS / "yes" / "aaa_nohash_0.wav"
    soundfile.write(path, TONE, 16000)
    path.write_bytes(path.read_bytes()[:-1000])
    pack = prepare(made_data.data(own_dir))
    (clip,) = [clip for clip in pack.clips if clip.note]
    assert clip.n_samples == len(TONE) - 500
    assert clip.note == "truncated: 1000 of 16000 bytes are missing; what there is was packed"


@pytest.mark.parametrize(
    ("changes", "folder"),
    [
        ({"commands": "nowhere"}, "nowhere"),
        ({"words": ("other_words/training", "lost")}, "lost"),
        ({"words_validation": ("lost",)}, "lost"),
        ({"speech": ("lost",)}, "lost"),
        ({"noise": ("lost",)}, "lost"),
        ({"rooms": ("lost",)}, "lost"),
    ],
)
def test_a_missing_folder_is_named_before_any_work(small_dir: Path, changes: dict[str, Any], folder: str) -> None:
    with pytest.raises(DataError, match=f"{small_dir / folder}: no such folder"):
        prepare(made_data.data(small_dir, n_tts_per_word=1, **changes))
    assert not (small_dir / "tts").exists()


class Archive:
    """Stands for torchaudio's data set: unpacks one file, or two unless the network fails between them."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.n_fetched = 0

    def __call__(self, root: Path, url: str, download: bool) -> None:
        assert download
        self.n_fetched += 1
        folder = root / "SpeechCommands" / url / "yes"
        folder.mkdir(parents=True)
        (folder / "0.wav").write_bytes(b"first")
        if self.fails:
            raise OSError("no network")
        (folder / "1.wav").write_bytes(b"second")


def use(monkeypatch: pytest.MonkeyPatch, archive: Archive) -> Archive:
    monkeypatch.setattr("torchaudio.datasets.SPEECHCOMMANDS", archive)
    return archive


def test_a_download_that_fails_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Archive(fails=True))
    with pytest.raises(DataError, match=r"could not download speech_commands_v0\.01 \(no network\)"):
        speech_commands.download(tmp_path / "data", "v0.01")
    assert not (tmp_path / "data" / "SpeechCommands").exists()
    use(monkeypatch, Archive(fails=False))
    target = speech_commands.download(tmp_path / "data", "v0.01")
    assert target == tmp_path / "data" / "SpeechCommands" / "speech_commands_v0.01"
    assert {path.name for path in (target / "yes").iterdir()} == {"0.wav", "1.wav"}
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"SpeechCommands", ".lock"}


def test_what_is_there_is_not_downloaded_again(small_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = use(monkeypatch, Archive(fails=True))
    assert speech_commands.download(small_dir, "v0.02") == small_dir / COMMANDS
    assert archive.n_fetched == 0


TEST_SET = "speech_commands_test_set_v0.02"
TEST_CLIPS = ("yes/0c540988_nohash_0.wav", "_unknown_/tree_0c540988_nohash_0.wav.wav", "_silence_/1024.wav")


class Host:
    """Stands for the host of the archives of test clips, in the place of torch's download; the network may fail."""

    def __init__(self, archive: bytes, *, error: Exception | None = None) -> None:
        self.archive, self.error = archive, error
        self.fetched: list[str] = []

    def __call__(self, url: str, target: str) -> None:
        self.fetched.append(url)
        if self.error is not None:
            raise self.error
        Path(target).write_bytes(self.archive)


def tar_of(*names: str) -> bytes:
    random = np.random.default_rng(0)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in names:
            entry, content = tarfile.TarInfo(name), random.bytes(20000)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def fetch_from(monkeypatch: pytest.MonkeyPatch, host: Host) -> Host:
    monkeypatch.setattr("torch.hub.download_url_to_file", host)
    return host


def test_the_test_clips_are_fetched_once_and_lie_in_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = fetch_from(monkeypatch, Host(tar_of(*TEST_CLIPS)))
    target = tmp_path / "data" / TEST_SET
    for _ in range(2):
        assert speech_commands.download_test_set(tmp_path / "data", "v0.02") == target
    assert {str(path.relative_to(target)) for path in target.rglob("*.wav")} == set(TEST_CLIPS)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {TEST_SET, ".lock"}
    assert host.fetched == ["http://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz"]


def test_of_two_processes_that_download_the_same_one_does_and_the_other_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()

    class Slow(Host):
        def __call__(self, url: str, target: str) -> None:
            began.set()
            time.sleep(0.3)
            super().__call__(url, target)

    host = fetch_from(monkeypatch, Slow(tar_of(*TEST_CLIPS)))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(speech_commands.download_test_set, tmp_path, "v0.02")
        assert began.wait(PATIENCE_S)
        second = pool.submit(speech_commands.download_test_set, tmp_path, "v0.02")
        assert first.result() == second.result() == tmp_path / TEST_SET
    assert len(host.fetched) == 1
    assert {path.name for path in (tmp_path / TEST_SET).rglob("*.wav")} == {Path(name).name for name in TEST_CLIPS}
    assert {path.name for path in tmp_path.iterdir()} == {TEST_SET, ".lock"}


@pytest.mark.parametrize(
    "error", [URLError("no network"), OSError("no network"), IncompleteRead(b""), RuntimeError("no network")], ids=str
)
def test_a_network_that_fails_is_one_line_and_leaves_no_test_clips(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_from(monkeypatch, Host(b"", error=error))
    with pytest.raises(DataError) as caught:
        speech_commands.download_test_set(tmp_path, "v0.02")
    assert_one_line(caught.value, f"could not download {TEST_SET}", str(error), "check the network and run again")
    assert not (tmp_path / TEST_SET).exists()


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "Not a gzipped file"),
        (tar_of(*TEST_CLIPS)[:-4000], "ended before"),
        (tar_of(*TEST_CLIPS)[:70], "ended before"),
        (tar_of("speech_commands/yes/0.wav", "_silence_/0.wav"), "no folder _unknown_"),
        (tar_of("yes/0.wav"), "no folder _silence_ and no _unknown_"),
        (tar_of(*TEST_CLIPS, "../outside.wav"), "outside"),
        (tar_of(*TEST_CLIPS)[:-8] + bytes(8), "CRC check failed"),
        (tar_of(*TEST_CLIPS)[:20] + bytes(40000), "invalid"),
    ],
    ids=["empty", "page", "truncated", "head", "no unknown", "another", "outside", "checksum", "damaged"],
)
def test_an_archive_of_anything_else_is_fetched_again_and_never_taken_for_test_clips(
    archive: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_from(monkeypatch, Host(archive))
    with pytest.raises(DataError) as caught:
        speech_commands.download_test_set(tmp_path / "data", "v0.02")
    assert_one_line(caught.value, TEST_SET, "not that of the test clips", problem, "run again")
    assert not (tmp_path / "data" / TEST_SET).exists()
    assert not (tmp_path / "data" / "outside.wav").exists()
    fetch_from(monkeypatch, Host(tar_of(*TEST_CLIPS)))
    target = speech_commands.download_test_set(tmp_path / "data", "v0.02")
    assert len(list(target.rglob("*.wav"))) == len(TEST_CLIPS)


def test_an_archive_of_which_the_error_says_nothing_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(packed: tarfile.TarFile, folder: Path) -> None:
        raise EOFError

    fetch_from(monkeypatch, Host(tar_of(*TEST_CLIPS)))
    monkeypatch.setattr(speech_commands, "_extract", end)
    with pytest.raises(DataError) as caught:
        speech_commands.download_test_set(tmp_path, "v0.02")
    assert_one_line(caught.value, TEST_SET, "not that of the test clips (EOFError)", "run again")


def test_unpacking_that_was_interrupted_is_done_again_from_the_archive_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, copy = fetch_from(monkeypatch, Host(tar_of(*TEST_CLIPS))), shutil.copyfileobj

    def copy_half(content: IO[bytes], file: IO[bytes]) -> None:
        copy(io.BytesIO(content.read(5000)), file)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfileobj", copy_half)
        with pytest.raises(KilledError):
            speech_commands.download_test_set(tmp_path, "v0.02")
    assert not (tmp_path / TEST_SET).exists()
    target = speech_commands.download_test_set(tmp_path, "v0.02")
    assert len(list(target.rglob("*.wav"))) == len(TEST_CLIPS)
    assert len(host.fetched) == 1


def test_prepare_fetches_the_test_clips_with_the_tree(own_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Archive(fails=True))  # the tree is there
    fetch_from(monkeypatch, Host(tar_of(*TEST_CLIPS)))
    arguments = ["prepare", str(CONFIGS / "smoke.toml"), "--data", str(own_dir), "--download", "v0.02"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert len(list((own_dir / TEST_SET).rglob("*.wav"))) == len(TEST_CLIPS)


# Where the word is


@pytest.mark.parametrize(("start", "end"), [(0, 3200), (4000, 9000), (12800, 16000)])
def test_the_extent_of_a_burst_is_found_within_two_hops(start: int, end: int) -> None:
    random = np.random.default_rng(0)
    samples = made_data.hiss(16000, random)
    samples[start:end] += 0.2 * np.sin(np.arange(end - start) / 4).astype(np.float32)
    found_start, found_end = word_extent(to_int16(samples))
    assert abs(found_start - start) <= 320
    assert abs(found_end - end) <= 320


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.zeros(0, dtype=np.int16), (0, 0)),
        (np.full(159, 1000, dtype=np.int16), (0, 159)),
        (np.tile(np.array([1000, -1000], dtype=np.int16), 8000), (16000, 16000)),  # nothing stands out: no extent
    ],
)
def test_the_extent_where_there_is_no_burst(samples: Int16, expected: tuple[int, int]) -> None:
    assert word_extent(samples) == expected


def test_the_words_of_clips_lie_inside_them_and_hold_their_energy(made_pack: Pack) -> None:
    for clip in made_pack.clips:
        assert 0 <= clip.word_start <= clip.word_end <= clip.n_samples
        if clip.kind == "command":
            power = from_int16(made_pack.samples_of(clip)) ** 2
            assert power[clip.word_start : clip.word_end].sum() > 0.95 * power.sum()
            assert clip.word_end - clip.word_start < 9000


def test_nothing_is_made_where_speech_commands_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(made_data.settings(dir=str(tmp_path / "none"), n_tts_per_word=1), keywords=("yes",))
    assert_one_line(caught.value, "expected Speech Commands there")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no such file; pipelines.mine_hard_negatives makes it"),
        ("audio,end_s\nspeech/training/0.wav,1.0\n", "'label'"),
        ("audio,end_s,label,score\nspeech/training/0.wav,soon,yes,0.5\n", "soon"),
        ("audio,end_s,label,score\nspeech/training/0.wav\n", "mine again"),
        ("audio,end_s,label,score\nspeech/training/0.wav,nan,yes,0.5\n", "end_s of at least 0, got nan"),
        ("audio,end_s,label,score\nspeech/training/none.wav,1.0,yes,0.5\n", "none.wav is no recording"),
    ],
)
def test_a_list_of_false_alarms_that_cannot_be_used_is_named(own_dir: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (own_dir / "hard_negatives.csv").write_text(text)
    with pytest.raises(DataError, match=f"hard_negatives.csv: .*({problem})"):
        prepare(made_data.data(own_dir, hard_negatives="hard_negatives.csv"))


def test_false_alarms_at_either_end_of_a_recording_stay_inside_it(own_dir: Path) -> None:
    rows = ["audio,end_s,label,score", "speech/training/0.wav,0.2,yes,0.5", "speech/training/0.wav,100,yes,0.5"]
    (own_dir / "hard_negatives.csv").write_text("\n".join(rows))
    pack = prepare(made_data.data(own_dir, hard_negatives="hard_negatives.csv"))
    (speech,) = [clip for clip in pack.clips if clip.path == "speech/training/0.wav" and clip.kind == "speech"]
    first, last = [clip for clip in pack.clips if clip.kind == "hard_negative"]
    assert (first.offset, first.split, first.word) == (speech.offset, "training", speech.word)
    assert last.offset + last.n_samples == speech.offset + speech.n_samples
    assert 0 < first.n_samples <= last.n_samples == 1.4 * 16000


LIKE = "of.*|upon"


def excerpts_of(root: Path, *rows: str, held_out: tuple[str, ...] = (), like: str = "") -> list[Clip]:
    """The clips that a list of words in the first recording becomes; a row is its label and times."""
    lines = [f"speech/training/0.wav,{times},{label}" for label, times in (row.split(" ") for row in rows)]
    (root / "aligned_words.csv").write_text("\n".join(["audio,start_s,end_s,label", *lines]))
    data = made_data.data(root, aligned_words="aligned_words.csv", held_out=held_out, held_out_like=like)
    pack = prepare(data, keywords=("yes", "no"))
    return [clip for clip in pack.clips if clip.kind == "aligned"]


def test_a_word_is_cut_out_with_a_margin_that_stays_inside_the_recording(own_dir: Path) -> None:
    first, second = excerpts_of(own_dir, "apple 0.01,0.3", "pear 0.5,0.9")
    pack = prepare(made_data.data(own_dir))
    (speech,) = [clip for clip in pack.clips if clip.path == "speech/training/0.wav"]
    assert (first.word, first.split, first.offset, first.n_samples) == ("apple", "training", speech.offset, 5280)
    assert (second.offset - speech.offset, second.n_samples) == (16 * 470, 16 * 460)
    assert (second.word_start, second.word_end) == (480, 480 + 6400)


@pytest.mark.parametrize(
    "row",
    ["no 0.1,0.5", "know 0.1,0.5", "bus 0.1,0.5", "off 0.1,0.5", "upon 0.1,0.5", "apple 0.1,0.24", "apple 0.1,1.01"],
)
def test_keywords_and_what_is_excluded_and_what_is_no_word_alone_are_not_cut(own_dir: Path, row: str) -> None:
    assert [clip.word for clip in excerpts_of(own_dir, row, "pear 0.1,0.5", held_out=("bus",), like=LIKE)] == ["pear"]


@pytest.mark.parametrize("word", ["no", "know", "bus", "offer"])
def test_running_speech_and_false_alarms_leave_out_what_must_not_be_trained_on(own_dir: Path, word: str) -> None:
    def clips(kind: str, **lists: str) -> list[tuple[int, int]]:
        pack = prepare(made_data.data(own_dir, held_out=("bus",), held_out_like=LIKE, **lists), keywords=("yes", "no"))
        found = [clip for clip in pack.clips if clip.path == "speech/training/0.wav" and clip.kind == kind]
        return [(clip.offset, clip.n_samples) for clip in found]

    alarms = ["audio,end_s,label,score", "speech/training/0.wav,0.7,yes,0.5"]
    (own_dir / "hard_negatives.csv").write_text("\n".join(alarms))
    ((whole, n_samples),) = clips("speech")
    excerpts_of(own_dir, "apple 0.2,0.5", "of 0.6,0.7")
    assert clips("speech", aligned_words="aligned_words.csv") == [(whole, n_samples)]
    assert clips("hard_negative", aligned_words="aligned_words.csv", hard_negatives="hard_negatives.csv") == [
        (whole, 16 * 1400)
    ]
    excerpts_of(own_dir, "apple 0.2,0.5", "of 0.6,0.7", f"{word} 1.2,1.21", f"{word} 1.29,1.3")
    assert clips("speech", aligned_words="aligned_words.csv") == [
        (whole, 16 * 1100),
        (whole + 16 * 1400, n_samples - 16 * 1400),
    ]
    assert clips("hard_negative", aligned_words="aligned_words.csv", hard_negatives="hard_negatives.csv") == []


def test_frequent_words_are_cut_from_the_whole_list_and_no_more_than_twenty_times(own_dir: Path) -> None:
    found = excerpts_of(own_dir, *(f"the {i / 100:.2f},{i / 100 + 0.2:.2f}" for i in range(60)), "apple 0.1,0.4")
    the = [clip for clip in found if clip.word == "the"]
    assert (len(the), len(found)) == (20, 21)
    assert the[-1].offset - the[0].offset > 0.5 * 16000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no such file; pipelines.align_words makes it; until then --set data.unknown.aligned.list=''"),
        ("audio,start_s,label\nspeech/training/0.wav,1.0,the\n", "'end_s'"),
        ("audio,start_s,end_s,label\nspeech/training/0.wav,1.0,soon,the\n", "soon"),
        (
            "audio,start_s,end_s,label\nspeech/training/0.wav,1.0,1.0,the\n",
            "expected 0 <= start_s < end_s",
        ),
        ("audio,start_s,end_s,label\nspeech/training/0.wav,1.0,1.5\n", "a line is incomplete"),
        ("audio,start_s,end_s,label\nspeech/training/none.wav,1.0,1.5,the\n", "none.wav is no speech of"),
        ("audio,start_s,end_s,label\nnoise/hum.wav,1.0,1.5,the\n", "hum.wav is no speech of"),
    ],
)
def test_a_list_of_words_that_cannot_be_used_is_named(own_dir: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (own_dir / "aligned_words.csv").write_text(text)
    with pytest.raises(DataError, match=f"aligned_words.csv: .*({problem})"):
        prepare(made_data.data(own_dir, aligned_words="aligned_words.csv"))


def test_words_of_a_recording_that_cannot_be_packed_are_passed_over(own_dir: Path) -> None:
    soundfile.write(own_dir / "speech" / "training" / "1.wav", np.zeros(16000), 16000)
    rows = ["audio,start_s,end_s,label", "speech/training/1.wav,0.1,0.5,pear", "speech/training/0.wav,0.1,0.5,apple"]
    (own_dir / "aligned_words.csv").write_text("\n".join(rows))
    clips = prepare(made_data.data(own_dir, aligned_words="aligned_words.csv")).clips
    assert [clip.word for clip in clips if clip.kind == "aligned"] == ["apple"]


def test_some_speakers_of_running_speech_are_kept_for_validation_with_all_they_say(own_dir: Path) -> None:
    folder = own_dir / "speech" / "training"
    sample = (folder / "0.wav").read_bytes()
    for path in folder.glob("*.wav"):
        path.unlink()
    for speaker in range(40):
        for name in (f"{speaker}-1-0001.wav", f"{speaker}_2.wav"):
            (folder / name).write_bytes(sample)

    def kept(fraction: float) -> set[str]:
        clips = find_sources(made_data.data(own_dir, speech_validation_fraction=fraction))
        splits = {Path(clip.path).stem: clip.split for clip in clips if clip.kind == "speech"}
        assert all(splits[f"{speaker}-1-0001"] == splits[f"{speaker}_2"] for speaker in range(40))
        return {name for name, split in splits.items() if split == "validation"}

    assert kept(0) == set()
    assert 0 < len(kept(0.25)) <= 40
    assert kept(0.25) < kept(0.6)
    assert len(kept(0.999)) == 80
