"""Scores on a folder of clips: as they are, shifted, in noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from speechrnn.audio import Samples, speech_power
from speechrnn.data.clips import Split
from speechrnn.errors import AudioError, DataError
from speechrnn.evaluation.clips import (
    Evaluation,
    FolderScore,
    add_noise,
    evaluate,
    read_noise,
    shifted,
)
from speechrnn.labels import Labels
from speechrnn.spec import ModelInfo, Spec
from tests.helpers import RATE_HZ, assert_one_line, fake_recognizer, noise, silence, sine, word, write_audio

CLIPS: dict[str, tuple[str, ...]] = {  # what is detected in the clips of each folder
    "yes": ("yes", "yes", "yes", "no"),
    "no": ("no", "silence"),
    "marvin": ("unknown", "unknown", "yes"),
    "_unknown_": ("unknown",),
    "_silence_": ("silence", "unknown"),
}


def write_clips(folder: Path, clips: dict[str, tuple[str, ...]]) -> Path:
    for name, labels in clips.items():
        for number, label in enumerate(labels):
            samples = silence(0.7) if label == "silence" else np.concatenate([silence(0.2), word(label)])
            write_audio(folder / name / f"{number}.wav", samples)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), CLIPS)


@pytest.fixture(scope="module")
def result(clips: Path) -> Evaluation:
    return evaluate(fake_recognizer(), clips)


def test_accuracy_is_the_fraction_of_clips_that_got_their_label(result: Evaluation) -> None:
    assert result.n == 12
    assert result.accuracy == pytest.approx(8 / 12)


def test_confusion_has_the_truth_in_rows(result: Evaluation) -> None:
    assert result.labels == ["yes", "no", "unknown", "silence"]
    assert result.confusion == [[3, 1, 0, 0], [0, 1, 0, 1], [1, 0, 3, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(("label", "recall"), [("yes", 3 / 4), ("no", 1 / 2), ("unknown", 3 / 4), ("silence", 1 / 2)])
def test_recall_is_the_fraction_of_a_row(result: Evaluation, label: str, recall: float) -> None:
    assert result.recall(label) == pytest.approx(recall)


def test_every_folder_is_counted_under_its_own_name(result: Evaluation) -> None:
    assert result.per_folder == {
        "yes": FolderScore(4, 3, {"yes": 3, "no": 1}),
        "no": FolderScore(2, 1, {"no": 1, "silence": 1}),
        "marvin": FolderScore(3, 2, {"unknown": 2, "yes": 1}),
        "_unknown_": FolderScore(1, 1, {"unknown": 1}),
        "_silence_": FolderScore(2, 1, {"silence": 1, "unknown": 1}),
    }


def test_clips_that_cannot_be_read_are_listed_and_not_counted(tmp_path: Path) -> None:
    write_clips(tmp_path, {"yes": ("yes", "yes")})
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "text.wav").write_text("no audio")
    (tmp_path / "yes" / "empty.wav").touch()
    found = evaluate(fake_recognizer(), tmp_path)
    assert (found.n, found.accuracy, [*found.per_folder]) == (2, 1.0, ["yes"])
    assert [line.partition(": ")[0] for line in found.failed] == [
        str(tmp_path / "no" / "text.wav"),
        str(tmp_path / "yes" / "empty.wav"),
    ]
    assert math.isnan(found.recall("no"))


def test_folders_without_a_class_in_the_model_are_left_out_and_listed(clips: Path) -> None:
    info = ModelInfo(spec=Spec(labels=Labels(("yes", "no"), unknown=False)))
    found = evaluate(fake_recognizer(info), clips)
    assert found.per_folder.keys() == {"yes", "no", "_silence_"}
    assert (found.n, len(found.confusion)) == (8, 3)
    assert found.left_out == [
        str(clips / f"{name}.wav") for name in ("_unknown_/0", "marvin/0", "marvin/1", "marvin/2")
    ]
    assert math.isnan(found.unknown_recall)


def test_progress_sees_every_clip(clips: Path) -> None:
    seen: list[Path] = []
    totals: list[int] = []

    def track(paths: Iterable[Path], total: int) -> Iterable[Path]:
        totals.append(total)
        for path in paths:
            seen.append(path)
            yield path

    evaluate(fake_recognizer(), clips, track)
    assert totals == [12]
    assert seen == sorted(clips.rglob("*.wav"))


@pytest.mark.parametrize(
    ("folder", "kind", "part"),
    [
        ("missing", DataError, "LABEL/*.wav"),
        ("yes/0.wav", DataError, "LABEL/*.wav"),
        ("empty", AudioError, "no audio"),
        ("unreadable", DataError, "yes, no, unknown, silence"),
    ],
)
def test_a_folder_without_clips_is_an_error(folder: str, kind: type[Exception], part: str, tmp_path: Path) -> None:
    write_clips(tmp_path, {"yes": ("yes",)})
    (tmp_path / "empty").mkdir()
    (tmp_path / "unreadable" / "yes").mkdir(parents=True)
    (tmp_path / "unreadable" / "yes" / "0.wav").touch()
    with pytest.raises(kind) as caught:
        evaluate(fake_recognizer(), tmp_path / folder)
    assert_one_line(caught.value, str(tmp_path / folder), part)


SPLIT_CLIPS = {"026290a7": "validation", "0c540988": "testing", "0cb74144": "testing", "004ae714": "training"}
"""Speakers, and where the hash of their names puts them."""


@pytest.mark.parametrize(("split", "n"), [("testing", 2), ("validation", 1), ("training", 4)])
def test_of_a_split_is_what_training_takes_for_it(split: Split, n: int, tmp_path: Path) -> None:
    for speaker in SPLIT_CLIPS:
        write_audio(tmp_path / "yes" / f"{speaker}_nohash_0.wav", word("yes", 1.0))
    write_audio(tmp_path / "_background_noise_" / "hum.wav", silence(3.0))
    by_hash = evaluate(fake_recognizer(), tmp_path, split=split)
    assert (by_hash.n, "_background_noise_" in by_hash.per_folder) == (n, split == "training")
    for listed in "validation", "testing":
        names = [f"yes/{name}_nohash_0.wav" for name in SPLIT_CLIPS if (name == "004ae714") == (listed == "testing")]
        (tmp_path / f"{listed}_list.txt").write_text("\n".join(names))
    by_list = evaluate(fake_recognizer(), tmp_path, split=split)
    assert by_list.n == {"validation": 3, "testing": 1, "training": 3}[split]


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["yes/0c540988_nohash_0.wav", "_unknown_/tree_0c540988_nohash_0.wav.wav"], "without a split"),
        (["yes/004ae714_nohash_0.wav"], "none of its 1 clips is of the testing split"),
    ],
)
def test_what_has_no_such_split_is_an_error(names: list[str], part: str, tmp_path: Path) -> None:
    for name in names:
        write_audio(tmp_path / name, word("yes", 1.0))
    with pytest.raises(DataError) as caught:
        evaluate(fake_recognizer(), tmp_path, split="testing")
    assert_one_line(caught.value, str(tmp_path), part)


def test_every_score_of_the_whole_has_an_interval_around_it(result: Evaluation) -> None:
    assert result.keyword_accuracy == pytest.approx(4 / 6)
    assert result.unknown_recall == pytest.approx(3 / 4)
    assert result.macro_f1 == pytest.approx((6 / 8 + 2 / 4 + 6 / 8 + 2 / 4) / 4)
    assert result.intervals.keys() == {"accuracy", "keyword_accuracy", "macro_f1", "unknown_recall"}
    for name, (low, high) in result.intervals.items():
        assert 0 <= low < getattr(result, name) < high <= 1
    assert (result.n_speakers, result.n_single_files) == (0, 12)


def test_each_class_has_its_scores(result: Evaluation) -> None:
    score = result.per_class["no"]
    assert (score.n, score.precision, score.recall, score.f1) == (2, 1 / 2, 1 / 2, 1 / 2)
    assert list(result.per_class) == result.labels


def test_keywords_are_told_from_other_clips(result: Evaluation) -> None:
    assert list(result.detection) == ["any keyword", "yes", "no"]
    assert [(found.n_targets, found.n_others) for found in result.detection.values()] == [(6, 6), (4, 6), (2, 6)]
    assert result.detection["any keyword"].equal_error_rate == pytest.approx(1 / 6)
    assert result.detection["yes"].miss_at_1_percent_false_alarms == pytest.approx(1)  # "marvin" sounds like it


@pytest.mark.parametrize("names", [("yes", "no"), ("marvin", "_silence_")])
def test_no_detection_is_measured_without_both_kinds_of_clips(names: tuple[str, str], tmp_path: Path) -> None:
    found = evaluate(fake_recognizer(), write_clips(tmp_path, {name: CLIPS[name] for name in names}))
    assert found.detection == {}


def test_calibration_counts_every_clip(result: Evaluation) -> None:
    assert sum(result.calibration.n) == 12
    assert result.calibration.expected_calibration_error == pytest.approx(1 / 3, abs=0.02)  # all but sure, 2/3 right


@pytest.mark.parametrize(
    ("names", "n_speakers", "n_single_files"),
    [
        (["yes/0c540988_nohash_0.wav", "no/0c540988_nohash_3.wav", "no/1a2b_nohash_0.wav"], 2, 0),
        (["_unknown_/tree_0c540988_nohash_0.wav.wav", "yes/0c540988_nohash_0.wav"], 1, 0),
        (["_silence_/1024.wav", "_silence_/1025.wav", "yes/0c540988_nohash_0.wav"], 1, 2),
    ],
)
def test_speakers_are_those_that_file_names_give(
    names: list[str], n_speakers: int, n_single_files: int, tmp_path: Path
) -> None:
    for name in names:
        write_audio(tmp_path / name, silence(0.5))
    found = evaluate(fake_recognizer(), tmp_path)
    assert (found.n_speakers, found.n_single_files) == (n_speakers, n_single_files)


def test_background_noise_is_cut_into_contexts_of_one_recording(tmp_path: Path) -> None:
    recording = np.concatenate([silence(2.4), word("yes", 0.6), silence(0.9)])
    write_audio(tmp_path / "_background_noise_" / "tap.wav", recording)
    found = evaluate(fake_recognizer(), tmp_path)
    assert found.per_folder == {"_background_noise_": FolderScore(3, 2, {"silence": 2, "yes": 1})}
    assert (found.n_single_files, found.failed) == (1, [])
    assert math.isnan(found.intervals["accuracy"][0])  # one recording says nothing of others


def test_clips_are_scored_earlier_as_they_are_and_later(tmp_path: Path) -> None:
    seen: list[Samples] = []
    samples = noise(12000)
    write_audio(tmp_path / "yes" / "0.wav", samples, subtype="FLOAT")
    found = evaluate(fake_recognizer(seen=seen), tmp_path)
    expected = [np.pad(samples, (2000 + shift, 2000 - shift)) for shift in (-1600, 0, 1600)]
    np.testing.assert_array_equal(seen, expected)
    assert [condition.shift_ms for condition in found.shift] == [-100, 0, 100]
    assert found.noise == []


def test_a_shift_that_loses_the_word_loses_the_clip(tmp_path: Path) -> None:
    write_audio(tmp_path / "yes" / "0.wav", np.concatenate([word("yes", 0.1), silence(0.9)]))
    write_audio(tmp_path / "marvin" / "0.wav", np.concatenate([silence(0.4), word("unknown"), silence(0.3)]))
    found = evaluate(fake_recognizer(), tmp_path)
    assert [(condition.accuracy, condition.keyword_accuracy) for condition in found.shift] == [(0.5, 0), (1, 1), (1, 1)]


@pytest.mark.parametrize(("n_samples", "expected"), [(0, [1, 2, 3]), (2, [0, 0, 1]), (-1, [2, 3, 0]), (3, [0, 0, 0])])
def test_a_shift_moves_zeros_in(n_samples: int, expected: list[int]) -> None:
    np.testing.assert_array_equal(shifted(np.array([1, 2, 3], np.float32), n_samples), expected)


@pytest.mark.parametrize("pause_s", [0.2, 0.5, 5.0])
def test_the_speech_level_does_not_depend_on_the_pauses(pause_s: float) -> None:
    samples = np.concatenate([silence(pause_s), sine(400, 0.4), silence(pause_s)])
    assert speech_power(samples + 0.001 * noise(len(samples)), RATE_HZ) == pytest.approx(0.5**2 / 2, rel=1e-3)


@pytest.mark.parametrize("snr_db", [20.0, 5.0, 0.0])
@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_noise_is_mixed_in_at_the_ratio_that_is_asked_for(snr_db: float, gain: float) -> None:
    samples = np.float32(gain) * np.concatenate([silence(0.3), sine(400, 0.4), silence(0.3)])
    mixed = add_noise(samples, noise(RATE_HZ), snr_db, RATE_HZ)
    assert np.abs(mixed).max() <= 1
    scale = np.float32(mixed @ (samples / (samples @ samples)))  # the noise is all but orthogonal to the sine
    added = mixed - scale * samples
    assert speech_power(scale * samples, RATE_HZ) / np.square(added).mean() == pytest.approx(
        10 ** (snr_db / 10), rel=0.05
    )


def test_noise_is_drawn_for_speech_alone_and_the_same_each_time(clips: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "hum.wav", noise(5 * RATE_HZ))
    first, second = (evaluate(fake_recognizer(), clips, noise=tmp_path).noise for _ in range(2))
    assert first == second
    assert [condition.snr_db for condition in first] == [None, 20, 10, 5, 0]
    assert {condition.n for condition in first} == {10}
    assert first[0].accuracy == pytest.approx(7 / 10)
    assert first[-1].accuracy < 7 / 10  # its levels drown


def test_faint_stretches_of_noise_are_not_used(tmp_path: Path) -> None:
    write_audio(tmp_path / "bark.wav", np.concatenate([noise(RATE_HZ), silence(2.0), 1e-3 * noise(RATE_HZ)]))
    write_audio(tmp_path / "short.wav", noise(RATE_HZ - 1))
    assert len(read_noise(tmp_path, RATE_HZ, RATE_HZ)) == 1


@pytest.mark.parametrize("samples", [silence(3), noise(100)], ids=["silent", "short"])
def test_noise_that_cannot_be_used_is_an_error(samples: Samples, tmp_path: Path) -> None:
    write_audio(tmp_path / "noise.wav", samples)
    with pytest.raises(DataError) as caught:
        read_noise(tmp_path, RATE_HZ, RATE_HZ)
    assert_one_line(caught.value, str(tmp_path), "at least 1 s", "-60 dB")


def test_the_level_of_speech_is_of_the_frames_within_20_db_of_the_loudest() -> None:
    frames = [np.full(320, amplitude, dtype=np.float32) for amplitude in (0.5, 0.25, 0.5 * 10**-1.5, 0.0)]
    assert speech_power(np.concatenate(frames), 16000) == pytest.approx((0.25 + 0.0625) / 2)
