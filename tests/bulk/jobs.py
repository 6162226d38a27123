"""What the tests of the bulk job share: folders of recordings, jobs that were begun, and what their rows hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from speechrnn.bulk.inputs import Columns, find_entries
from speechrnn.bulk.shards import Job, Row, all_rows, make_job
from speechrnn.bulk.store import open_store
from speechrnn.bulk.worker import Settings, load_model
from speechrnn.detector import Detection
from speechrnn.recognizer import find_model, load
from tests.helpers import noise, write_audio

SETTINGS = Settings(n_retries=1, timeout_s=600)


def clips(folder: Path, n: int) -> Path:
    """A folder of short recordings, in which nothing is found."""
    for number in range(n):
        write_audio(folder / f"clip{number:03}.wav", noise(1600, seed=number))
    return folder


def begin(place: str | Path, inputs: Iterable[str | Path], *, shard_files: int = 4, audio_column: str = "") -> Job:
    """List the inputs and begin a job that decides with commands10."""
    load_model.cache_clear()
    content = find_model("commands10").read_bytes()
    columns = Columns(audio=audio_column)
    wanted = Job(
        inputs=tuple(map(str, inputs)),
        path_column=columns.path,
        audio_column=columns.audio,
        model="commands10",
        model_sha256=hashlib.sha256(content).hexdigest(),
        options=load("commands10").info.options,
        has_posteriors=False,
        row_format="parquet",
        shard_files=shard_files,
        versions={},
    )
    return make_job(open_store(str(place)), wanted, find_entries(wanted.inputs, columns, print), content, "_input")


def rows_in(place: str | Path) -> list[Row]:
    """All rows of a folder of results."""
    from speechrnn.bulk.shards import open_job

    store = open_store(str(place))
    return list(all_rows(store, open_job(store)))


def content(rows: Iterable[Row]) -> list[tuple[int, str, float | None, tuple[Detection, ...], str | None]]:
    """What must be the same in every run."""
    return [(row.index, row.path, row.duration_s, row.detections, row.error_kind) for row in rows]
