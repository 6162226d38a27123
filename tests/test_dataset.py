"""From folders of audio to batches: splits, a pack that survives interruption, and what each class is made of."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speechrnn import dataset
from speechrnn.audio import from_int16, to_int16
from speechrnn.config import Data
from speechrnn.dataset import (
    Batch,
    Clip,
    Examples,
    Pack,
    find_sources,
    prepare,
    split_of,
    validation_batch,
    word_extent,
)
from speechrnn.errors import DataError
from speechrnn.labels import Labels
from speechrnn.spec import Spec
from tests import made_data
from tests.conftest import KilledError

COMMANDS = "SpeechCommands/speech_commands_v0.02"
SPEC = Spec(labels=Labels(("yes", "no")))
CONTEXT = SPEC.context_samples


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of some thirty files; read only."""
    return made_data.write(tmp_path_factory.mktemp("small"), n_speakers=4, n_takes=1)


@pytest.fixture
def own_dir(small_dir: Path, tmp_path: Path) -> Path:
    """A copy of the small data set, to change."""
    return Path(shutil.copytree(small_dir, tmp_path / "own"))


def examples(pack: Pack, split: dataset.Split = "training", spec: Spec = SPEC, **data: Any) -> Examples:
    return Examples(pack, spec, Data(**data), split)


def equal(one: Batch, other: Batch) -> bool:
    pairs: Iterable[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = zip(one, other, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def samples_of(pack: Pack, clip: Clip) -> dataset.Int16:
    return pack.samples[clip.offset : clip.offset + clip.n_samples]


# Splits


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
        assert rate_hz == dataset.PACKED_RATE_HZ
        assert np.array_equal(samples_of(pack, clip), expected), clip.path
    assert sum(clip.n_samples for clip in pack.clips) == len(pack.samples)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_files_of_any_sample_format_keep_their_level(own_dir: Path, subtype: str) -> None:
    samples = made_data.clip("cat", np.random.default_rng(0))
    path = own_dir / "other_words" / "training" / "cat" / "odd.wav"
    soundfile.write(path, samples, made_data.RATE_HZ, subtype=subtype)
    pack = prepare(made_data.data(own_dir))
    (clip,) = [clip for clip in pack.clips if clip.path.endswith("odd.wav")]
    assert np.abs(samples_of(pack, clip).astype(int) - to_int16(samples)).max() <= 1


def pack_files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file of a pack."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_pack_is_used_again(small_dir: Path, tmp_path: Path) -> None:
    data = made_data.data(small_dir, packed=str(tmp_path / "packed"))
    first = prepare(data)
    before = pack_files(tmp_path / "packed")
    assert set(before) == {"index.jsonl", "samples.int16"}
    second = prepare(data, lambda clips, n: pytest.fail("packed again"))
    assert pack_files(tmp_path / "packed") == before
    assert second.clips == first.clips


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
        assert np.array_equal(samples_of(pack, clip), expected), clip.path


def killed_after(n: int) -> Callable[[Iterable[Clip], int], Iterator[Clip]]:
    def progress(clips: Iterable[Clip], total: int) -> Iterator[Clip]:
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
    again: list[Clip] = []

    def progress(clips: Iterable[Clip], total: int) -> Iterable[Clip]:
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
        assert np.array_equal(samples_of(pack, clip), expected), clip.path


TONE = 0.1 * np.sin(np.arange(8000) / 5)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "reason"),
    [
        (TONE, 8000, "rate of 8000 Hz"),
        (TONE, 48000, "rate of 48000 Hz"),
        (np.stack([TONE, TONE], axis=1), 16000, "2 channels"),
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
    assert [(clip.path, clip.n_samples) for clip in pack.problems] == [(str(path.relative_to(own_dir)), 0)]
    assert pack.problems[0].problem.startswith(reason)
    assert len(pack.clips) == n_before
    assert prepare(made_data.data(own_dir)).problems == pack.problems


@pytest.mark.parametrize(
    ("changes", "folder"),
    [
        ({"commands": "nowhere"}, "nowhere"),
        ({"words": ("other_words/training", "lost")}, "lost"),
        ({"words_validation": ("lost",)}, "lost"),
        ({"speech": ("lost",)}, "lost"),
        ({"noise": ("lost",)}, "lost"),
    ],
)
def test_a_missing_folder_is_named(small_dir: Path, changes: dict[str, Any], folder: str) -> None:
    with pytest.raises(DataError, match=f"{small_dir / folder}: no such folder"):
        prepare(made_data.data(small_dir, **changes))


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
        dataset.download(tmp_path / "data", "v0.01")
    assert not (tmp_path / "data" / "SpeechCommands").exists()
    use(monkeypatch, Archive(fails=False))
    target = dataset.download(tmp_path / "data", "v0.01")
    assert target == tmp_path / "data" / "SpeechCommands" / "speech_commands_v0.01"
    assert {path.name for path in (target / "yes").iterdir()} == {"0.wav", "1.wav"}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["SpeechCommands"]


def test_what_is_there_is_not_downloaded_again(small_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = use(monkeypatch, Archive(fails=True))
    assert dataset.download(small_dir, "v0.02") == small_dir / COMMANDS
    assert archive.n_fetched == 0


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
def test_the_extent_where_there_is_no_burst(samples: dataset.Int16, expected: tuple[int, int]) -> None:
    assert word_extent(samples) == expected


def test_the_words_of_clips_lie_inside_them_and_hold_their_energy(made_pack: Pack) -> None:
    for clip in made_pack.clips:
        assert 0 <= clip.word_start <= clip.word_end <= clip.n_samples
        if clip.kind == "command":
            power = from_int16(samples_of(made_pack, clip)) ** 2
            assert power[clip.word_start : clip.word_end].sum() > 0.95 * power.sum()
            assert clip.word_end - clip.word_start < 9000


# Epochs and batches


@pytest.mark.parametrize(("unknown", "silence"), [(0.1, 0.1), (0.25, 0.08), (0.6, 0.0), (0.0, 0.3)])
def test_an_epoch_holds_every_keyword_clip_once_and_the_others_in_their_shares(
    made_pack: Pack, unknown: float, silence: float
) -> None:
    training = examples(made_pack, unknown_share=unknown, silence_share=silence)
    plan = training.epoch(np.random.default_rng(0))
    keywords = Counter(clip.path for label, clip in plan if clip is not None and label < 2)
    assert keywords == dict.fromkeys(
        (c.path for c in made_pack.clips if c.kind == "command" and c.split == "training" and c.word in ("yes", "no")),
        1,
    )
    counts = Counter(label for label, _ in plan)
    assert counts[2] / len(plan) == pytest.approx(unknown, abs=1 / len(plan))
    assert counts[3] / len(plan) == pytest.approx(silence, abs=1 / len(plan))
    assert all((clip is None) == (label == 3) for label, clip in plan)


@pytest.mark.parametrize(
    ("unknown", "silence", "names"),
    [(True, False, ("yes", "no", "unknown")), (False, True, ("yes", "no", "silence")), (False, False, ("yes", "no"))],
)
def test_a_model_without_a_role_has_no_examples_of_it(
    made_pack: Pack, unknown: bool, silence: bool, names: tuple[str, ...]
) -> None:
    spec = Spec(labels=Labels(("yes", "no"), unknown=unknown, silence=silence))
    training = examples(made_pack, spec=spec, unknown_share=0.2, silence_share=0.2)
    plan = training.epoch(np.random.default_rng(0))
    assert tuple(training.counts()) == names
    assert {label for label, _ in plan} == set(range(len(names)))
    n_others = sum(label >= 2 for label, _ in plan)
    assert n_others / len(plan) == pytest.approx(0.2 * (len(names) - 2), abs=1 / len(plan))


def test_every_label_is_the_word_of_its_clip(made_pack: Pack) -> None:
    plan = examples(made_pack, unknown_share=0.4).epoch(np.random.default_rng(0))
    names = SPEC.labels.names
    for label, clip in plan:
        if clip is not None:
            assert names[label] == (clip.word if clip.word in ("yes", "no") else "unknown")
            assert clip.split == "training"
    assert {clip.kind for label, clip in plan if clip is not None and names[label] == "unknown"} == {
        "command",
        "word",
        "speech",
    }


def test_unknown_clips_take_turns(made_pack: Pack) -> None:
    training = examples(made_pack, unknown_share=0.9, silence_share=0.0)
    chosen = Counter(clip for label, clip in training.epoch(np.random.default_rng(0)) if label == 2)
    words = [n for clip, n in chosen.items() if clip is not None and clip.kind != "speech"]
    assert max(words) - min(words) <= 1


def test_epochs_are_shuffled_and_reproducible(made_pack: Pack) -> None:
    training = examples(made_pack)
    first, again, other = (training.epoch(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [label for label, _ in first] != sorted(label for label, _ in first)


def test_batches_are_reproducible(made_pack: Pack) -> None:
    training = examples(made_pack, unknown_share=0.5)
    plan = training.epoch(np.random.default_rng(0))
    first, again, other = (training.batch(plan, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not np.array_equal(first.samples, other.samples)
    assert np.array_equal(first.labels, other.labels)


def test_a_batch_has_its_shapes_and_types(made_pack: Pack) -> None:
    training = examples(made_pack)
    batch = training.batch(training.epoch(np.random.default_rng(0))[:7], np.random.default_rng(0))
    assert batch.samples.shape == (7, CONTEXT)
    assert batch.samples.dtype == np.int16
    assert all(values.shape == (7,) and values.dtype == np.int64 for values in batch[1:])


def test_a_short_clip_stands_in_the_middle_of_its_context(made_pack: Pack) -> None:
    (clip, *_) = [c for c in made_pack.clips if c.kind == "command" and c.split == "training" and c.n_samples < 15000]
    batch = examples(made_pack).batch([(0, clip)], np.random.default_rng(0))
    pad = (CONTEXT - clip.n_samples) // 2
    assert np.array_equal(batch.samples[0, pad : pad + clip.n_samples], samples_of(made_pack, clip))
    assert not batch.samples[0, :pad].any()
    assert not batch.samples[0, pad + clip.n_samples :].any()
    assert (batch.word_start[0], batch.word_end[0]) == (clip.word_start + pad, clip.word_end + pad)


def pack_of(samples: dataset.Int16, kind: dataset.Kind = "speech") -> tuple[Pack, Clip]:
    """A pack of one recording, without the files."""
    start, end = word_extent(samples)
    clip = Clip("a.wav", 0, 0, kind, "training", "a", 0, len(samples), start, end)
    return Pack([clip], samples, []), clip


def long_speech() -> tuple[dataset.Int16, slice]:
    """Ten seconds of faint hiss with one second of loud sound in it, and where that is."""
    random = np.random.default_rng(0)
    samples, loud = made_data.hiss(160000, random), slice(70000, 86000)
    samples[loud] = made_data.hiss(16000, random, -10)
    return to_int16(samples), loud


def contexts_of(samples: dataset.Int16, spec: Spec, n: int) -> dataset.Batch:
    """Many contexts cut from one long recording."""
    pack, clip = pack_of(samples)
    training = examples(pack, spec=spec, silence_share=0.0)
    return training.batch([(0, clip)] * n, np.random.default_rng(0))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a split lack classes, for tests of how one recording is cut."""
    monkeypatch.setattr(Examples, "_check", lambda self, pack, split: None)


@pytest.mark.usefixtures("unchecked")
def test_long_clips_are_cut_where_there_is_sound() -> None:
    samples, loud = long_speech()
    total = (from_int16(samples[loud]) ** 2).sum()
    batch = contexts_of(samples, SPEC, 200)
    shares = (from_int16(batch.samples) ** 2).sum(axis=1) / total
    assert shares.min() > 0.2
    assert len(np.unique(batch.samples, axis=0)) > 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("context_ms", [1000, 333, 701])
@pytest.mark.parametrize("extra_samples", [1, 524, 700, 1115, 1599, 1600])
def test_long_clips_of_any_length_fill_contexts_of_any_length(context_ms: int, extra_samples: int) -> None:
    spec = Spec(labels=Labels(("yes", "no")), context_ms=context_ms)
    samples = np.full(spec.context_samples + extra_samples, 1000, dtype=np.int16)
    batch = contexts_of(samples, spec, 50)
    assert batch.samples.shape == (50, spec.context_samples)
    assert (batch.samples == 1000).all()


@pytest.mark.usefixtures("unchecked")
def test_the_word_of_a_long_clip_moves_with_the_cut() -> None:
    samples, _ = long_speech()
    batch = contexts_of(samples, SPEC, 100)
    for context, start, end in zip(batch.samples, batch.word_start, batch.word_end, strict=True):
        assert 0 <= start < end <= CONTEXT
        power = from_int16(context) ** 2
        assert power[start:end].sum() > 0.9 * power.sum()


def test_the_validation_batch_is_the_same_every_time(made_pack: Pack) -> None:
    first = validation_batch(examples(made_pack, "validation", unknown_share=0.4))
    again = validation_batch(examples(made_pack, "validation", unknown_share=0.4))
    assert equal(first, again)
    n_keywords = sum(
        c.kind == "command" and c.split == "validation" and c.word in ("yes", "no") for c in made_pack.clips
    )
    assert (first.labels < 2).sum() == n_keywords


def test_no_clip_is_in_two_splits(made_pack: Pack) -> None:
    splits: tuple[dataset.Split, ...] = ("training", "validation", "testing")
    paths = [
        {clip.path for _, clip in examples(made_pack, split, unknown_share=0.6).epoch(np.random.default_rng(0)) if clip}
        for split in splits
    ]
    assert all(paths)
    assert not paths[0] & paths[1]
    assert not paths[0] & paths[2]
    assert not paths[1] & paths[2]


def test_silence_of_training_and_validation_comes_from_disjoint_parts_of_the_noise(made_pack: Pack) -> None:
    """Each noise sample is replaced by its place in the made_pack, so that a context tells where it was cut."""
    noise = [clip for clip in made_pack.clips if clip.kind == "noise"]
    places = np.zeros(len(made_pack.samples), dtype=np.int16)
    for number, clip in enumerate(noise):
        blocks = np.arange(clip.n_samples) * 100 // clip.n_samples
        places[clip.offset : clip.offset + clip.n_samples] = 100 * number + blocks
    marked = Pack(made_pack.clips, places, [])
    seen: dict[str, set[int]] = {}
    splits: tuple[dataset.Split, ...] = ("training", "validation")
    for split in splits:
        part = examples(marked, split)
        contexts = part.batch([(3, None)] * 300, np.random.default_rng(0)).samples
        seen[split] = set(contexts.ravel().tolist())
        assert set(part.noise_samples().tolist()) >= seen[split]
    assert {place % 100 for place in seen["training"]} == set(range(80))
    assert {place % 100 for place in seen["validation"]} == set(range(80, 100))
    assert {place // 100 for place in seen["training"]} == set(range(len(noise)))


def test_validation_takes_its_silence_from_the_noise_of_speech_commands_or_from_all_if_it_has_none(
    made_pack: Pack,
) -> None:
    def noises(pack: Pack, split: dataset.Split) -> set[str]:
        return {Path(clip.path).name for clip in examples(pack, split).noise}

    without = [clip for clip in made_pack.clips if clip.word != dataset.NOISE_FOLDER]
    assert noises(made_pack, "training") == {"hiss.wav", "hum.wav"}
    assert noises(made_pack, "validation") == {"hiss.wav"}
    assert noises(Pack(without, made_pack.samples, []), "validation") == {"hum.wav"}


# What cannot be trained on


def test_a_keyword_without_clips_is_named_with_what_there_is(made_pack: Pack) -> None:
    with pytest.raises(DataError) as caught:
        examples(made_pack, spec=Spec(labels=Labels(("yes", "marvin", "sheila"))))
    assert str(caught.value) == (
        "no training clips of: marvin, sheila; the training split has bed (24), no (24), yes (24)"
    )


def test_a_keyword_without_validation_clips_is_named(made_pack: Pack) -> None:
    clips = [clip for clip in made_pack.clips if not (clip.word == "no" and clip.split == "validation")]
    with pytest.raises(DataError, match=r"no validation clips of: no; the validation split has bed \(12\), yes \(12\)"):
        examples(Pack(clips, made_pack.samples, []), "validation")


def test_silence_needs_noise_to_be_cut_from(made_pack: Pack) -> None:
    clips = [clip for clip in made_pack.clips if clip.kind != "noise"]
    with pytest.raises(DataError, match="no noise of at least 80000 samples"):
        examples(Pack(clips, made_pack.samples, []))


def test_another_rate_than_that_of_the_pack_is_refused(made_pack: Pack) -> None:
    with pytest.raises(DataError, match=r"expected model\.sample_rate_hz = 16000 for training, got 44100"):
        examples(made_pack, spec=Spec(labels=Labels(("yes", "no")), sample_rate_hz=44100))


def test_counts_tell_what_each_class_is_made_of(made_pack: Pack) -> None:
    counts = examples(made_pack).counts()
    speech = [clip for clip in made_pack.clips if clip.kind == "speech"]
    n_unknown = 24 + 60 + sum(max(1, clip.n_samples // CONTEXT) for clip in speech)
    assert counts == {"yes": 24, "no": 24, "unknown": n_unknown, "silence": 2}
