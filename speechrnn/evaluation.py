"""Clip accuracy of a recognizer on a folder laid out as LABEL/*.wav, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np

from speechrnn.audio import find_audio, read
from speechrnn.errors import AudioError, DataError
from speechrnn.runtime import Recognizer


class FolderScore(msgspec.Struct):
    """How the clips of one folder were labelled."""

    n: int = 0
    correct: int = 0
    predicted: dict[str, int] = msgspec.field(default_factory=dict)


class Evaluation(msgspec.Struct):
    """Scores of a model on a folder of clips. `confusion` has the true class in rows, the predicted in columns."""

    accuracy: float
    n: int
    labels: list[str]
    confusion: list[list[int]]
    per_label: dict[str, FolderScore]
    failed: list[str]

    def recall(self, label: str) -> float:
        """Share of the clips of a class that got it; NaN if there are none."""
        row = self.confusion[self.labels.index(label)]
        return row[self.labels.index(label)] / sum(row) if sum(row) else float("nan")


Track = Callable[[Iterable[Path], int], Iterable[Path]]


def evaluate(recognizer: Recognizer, folder: Path, track: Track = lambda paths, n: paths) -> Evaluation:
    """Classify every clip below `folder`; the name of the folder that holds a clip is its true label.

    Folders that are no label of the model count as unknown. Clips that cannot be read are listed in `failed`.
    Raises DataError if no clip has a class in the model.
    """
    labels = list(recognizer.labels)
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    per_label: dict[str, FolderScore] = {}
    failed = []
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder laid out as LABEL/*.wav; for single clips: speechrnn classify")
    files = find_audio(folder)
    for file in track(files, len(files)):
        truth = recognizer.info.spec.labels.of_folder(file.parent.name)
        if truth is None:
            continue
        try:
            posteriors = recognizer.classify(read(file, recognizer.info.spec.sample_rate_hz))
        except AudioError as error:
            failed.append(str(error))
            continue
        predicted = labels[int(posteriors.argmax())]
        confusion[labels.index(truth), labels.index(predicted)] += 1
        score = per_label.setdefault(file.parent.name, FolderScore())
        score.n += 1
        score.correct += predicted == truth
        score.predicted[predicted] = score.predicted.get(predicted, 0) + 1
    n = int(confusion.sum())
    if n == 0:
        raise DataError(
            f"{folder}: no clip could be scored; expected {', '.join(labels)} as names of folders with audio"
        )
    return Evaluation(float(np.trace(confusion)) / n, n, labels, confusion.tolist(), per_label, failed)


def to_table(result: Evaluation) -> str:
    """Accuracy, recall of each class and of each folder with its commonest mistakes, for people."""
    lines = [f"accuracy {100 * result.accuracy:.2f} % of {result.n} clips", ""]
    width = max(map(len, [*result.per_label, "folder"]))
    lines.append(f"{'folder':<{width}}  {'clips':>6}  {'right':>7}  taken for")
    for folder, score in sorted(result.per_label.items()):
        others = sorted(score.predicted.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{label} {n}" for label, n in others[:4])
        lines.append(f"{folder:<{width}}  {score.n:>6}  {100 * score.correct / score.n:>6.2f}%  {shown}")
    lines.append("")
    cell = max(5, *map(len, result.labels)) + 1
    lines.append("confusion (rows: truth, columns: predicted)")
    lines.append(" " * cell + "".join(f"{label:>{cell}}" for label in result.labels))
    for label, row in zip(result.labels, result.confusion, strict=True):
        lines.append(f"{label:<{cell}}" + "".join(f"{n or '.':>{cell}}" for n in row))
    if result.failed:
        lines += ["", f"{len(result.failed)} clips could not be read:", *(f"  {line}" for line in result.failed)]
    return "\n".join(lines) + "\n"


def plot_confusion(result: Evaluation, path: Path) -> None:
    """Draw the confusion matrix as shares of each true class."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = np.array(result.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.55 * len(result.labels)
    figure, axis = plt.subplots(figsize=(size, size), layout="constrained")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=8)
    places = range(len(result.labels))
    axis.set_xticks(places, result.labels, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(places, result.labels)
    axis.set(xlabel="predicted", ylabel="truth", title=f"{100 * result.accuracy:.2f} % of {result.n} clips")
    figure.savefig(path, dpi=110)
    plt.close(figure)
