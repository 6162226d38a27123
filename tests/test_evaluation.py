"""Accuracy on a folder of clips, its table and its picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from speechrnn.errors import AudioError, DataError
from speechrnn.evaluation import Evaluation, FolderScore, evaluate, plot_confusion, to_table
from speechrnn.labels import Labels
from speechrnn.spec import ModelInfo, Spec
from tests.helpers import assert_one_line, fake_recognizer, silence, word, write_audio

CLIPS: dict[str, tuple[str, ...]] = {  # what is heard in the clips of each folder
    "yes": ("yes", "yes", "yes", "no"),
    "no": ("no", "silence"),
    "marvin": ("unknown", "unknown", "yes"),
    "_unknown_": ("unknown",),
    "_silence_": ("silence", "unknown"),
}


def write_clips(folder: Path, clips: dict[str, tuple[str, ...]]) -> Path:
    for name, heard in clips.items():
        for number, label in enumerate(heard):
            samples = silence(0.7) if label == "silence" else np.concatenate([silence(0.2), word(label)])
            write_audio(folder / name / f"{number}.wav", samples)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), CLIPS)


@pytest.fixture(scope="module")
def result(clips: Path) -> Evaluation:
    return evaluate(fake_recognizer(), clips)


def test_accuracy_is_the_share_of_clips_that_got_their_label(result: Evaluation) -> None:
    assert result.n == 12
    assert result.accuracy == pytest.approx(8 / 12)


def test_confusion_has_the_truth_in_rows(result: Evaluation) -> None:
    assert result.labels == ["yes", "no", "unknown", "silence"]
    assert result.confusion == [[3, 1, 0, 0], [0, 1, 0, 1], [1, 0, 3, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(("label", "recall"), [("yes", 3 / 4), ("no", 1 / 2), ("unknown", 3 / 4), ("silence", 1 / 2)])
def test_recall_is_the_share_of_a_row(result: Evaluation, label: str, recall: float) -> None:
    assert result.recall(label) == pytest.approx(recall)


def test_every_folder_is_counted_under_its_own_name(result: Evaluation) -> None:
    assert result.per_label == {
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
    assert (found.n, found.accuracy, [*found.per_label]) == (2, 1.0, ["yes"])
    assert [line.partition(": ")[0] for line in found.failed] == [
        str(tmp_path / "no" / "text.wav"),
        str(tmp_path / "yes" / "empty.wav"),
    ]
    assert math.isnan(found.recall("no"))
    assert "2 clips could not be read" in to_table(found)


def test_folders_without_a_class_in_the_model_are_left_out(clips: Path) -> None:
    info = ModelInfo(spec=Spec(labels=Labels(("yes", "no"), unknown=False)))
    found = evaluate(fake_recognizer(info), clips)
    assert found.per_label.keys() == {"yes", "no", "_silence_"}
    assert (found.n, len(found.confusion)) == (8, 3)


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


def test_the_table_tells_accuracy_folders_and_confusion(result: Evaluation) -> None:
    lines = to_table(result).splitlines()
    assert lines[0] == "accuracy 66.67 % of 12 clips"
    rows = [line.split(maxsplit=3) for line in lines]
    assert ["marvin", "3", "66.67%", "unknown 2, yes 1"] in rows
    assert {row[0] for row in rows if len(row) == 4} >= CLIPS.keys()
    matrix = [line.split() for line in lines[-4:]]
    assert matrix == [
        [label, *(str(count or ".") for count in row)]
        for label, row in zip(result.labels, result.confusion, strict=True)
    ]


def test_the_confusion_is_drawn_as_a_picture(result: Evaluation, tmp_path: Path) -> None:
    import matplotlib.image
    import matplotlib.pyplot as plt

    plot_confusion(result, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG\r\n")
    picture = matplotlib.image.imread(tmp_path / "confusion.png")
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].min() < 0.2 < 0.9 < picture[..., :3].max()
    assert plt.get_fignums() == []
