"""The inputs of a score: recordings and written detections with their ground truth, and the detections in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from speechrnn.audio import Samples
from speechrnn.decoding import open_audio
from speechrnn.errors import DataError, Report, results_of
from speechrnn.evaluation.ground_truth import GroundTruth, find_ground_truth, read_detections, read_ground_truth
from speechrnn.evaluation.streams import StreamResult, spot_with_truth
from speechrnn.files import is_same, printable
from speechrnn.folders import find_audio
from speechrnn.formats import Transcript
from speechrnn.recognizer import Recognizer
from speechrnn.sources import FileSource
from speechrnn.spec import Options

AS_SET = "as set"
"""Name of the options with which written detections were found."""
WRITTEN_SUFFIXES = (".json", ".jsonl")

Track = Callable[[Iterable[Samples], int, str], Iterable[Samples]]
"""Shows progress through the blocks of a recording, given its length in seconds and its name."""


class Inputs(NamedTuple):
    """What can be scored."""

    written: list[tuple[Transcript, Path]]
    """Written detections, each with the file of its ground truth."""
    recordings: list[tuple[Path, Path]]
    """Recordings, each with the file of its ground truth."""

    @property
    def truths(self) -> list[Path]:
        """The files of ground truth."""
        return [truth for _, truth in (*self.written, *self.recordings)]

    @property
    def files(self) -> list[Path]:
        """All files that are read but the written detections."""
        return [*self.truths, *(file for file, _ in self.recordings)]


def find_inputs(
    audio: Sequence[Path],
    truth: Path | None,
    keywords: Sequence[str],
    report: Report,
    results: Iterable[tuple[Path, list[Transcript]]] = (),
) -> Inputs:
    """Find what can be scored of files and folders, with its ground truth: `truth`, or in that folder, or beside it.

    `results` are folders whose detections were read already. Files that cannot be read go to `report`. Raises
    DataError if a ground truth is missing or the scored file itself, or detections are of no keyword.
    """
    written = [path for path in audio if path.suffix in WRITTEN_SUFFIXES]
    others = [path for path in audio if path not in written]
    transcripts: list[Transcript] = []
    read = results_of(written, lambda path: (path, read_detections(path)), report)
    for path, found in (*results, *read):
        _check_labels(path, found, keywords)
        transcripts += found
    files = [file for found in results_of(others, find_audio, report) for file in found]
    inputs = Inputs(
        [(one, find_ground_truth(Path(one.audio), truth)) for one in transcripts],
        [(file, find_ground_truth(file, truth)) for file in results_of(files, _openable, report)],
    )
    for file in inputs.truths:
        if any(is_same(path, file) for path in audio):
            raise DataError(f"{file}: cannot be its own truth; give --truth")
    return inputs


def spot_inputs(
    recognizer: Recognizer, inputs: Inputs, choices: Mapping[str, Options], report: Report, track: Track
) -> list[StreamResult]:
    """What each of `choices` detects in the recordings, and what was written, beside the ground truth.

    Written detections are those of `AS_SET`. Recordings that turn out to be damaged go to `report`. Raises DataError
    before the first is decoded if a ground truth cannot be read.
    """
    written = [(one, read_ground_truth(path, Path(one.audio).stem)) for one, path in inputs.written]
    recordings = [(file, read_ground_truth(path, file.stem)) for file, path in inputs.recordings]

    def spot(recording: tuple[Path, GroundTruth]) -> StreamResult:
        file, truth = recording
        with FileSource(file) as source:
            blocks = source.blocks(recognizer.info.spec.sample_rate_hz)
            tracked = track(blocks, round(source.duration_s or 0.0), printable(file.name))
            return spot_with_truth(recognizer, tracked, truth, choices, printable(file))

    done = [StreamResult(one.audio, one.duration_s, truth, {AS_SET: one.detections}) for one, truth in written]
    return [*done, *results_of(recordings, spot, report)]


def _check_labels(path: Path, transcripts: Iterable[Transcript], keywords: Sequence[str]) -> None:
    others = {found.label for transcript in transcripts for found in transcript.detections} - {*keywords}
    if others:
        names = ", ".join(sorted(others))
        raise DataError(f"{path}: {names}: no keyword of this model; give the --model that found it")


def _openable(file: Path) -> Path:
    open_audio(file).close()
    return file
