"""A job and its ledger: the listing in shards, and for each shard that is done a file of rows, which is the record.

Nothing else says what was done, so any number of processes, machines and runs can work on one job, and any of them may
be killed: a shard's file appears whole, once, and whoever does a shard twice replaces it by the same rows.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from speechrnn.bulk.store import Store
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, DataError
from speechrnn.spec import Options, Struct

JOB = "_job.json"
_MAX_SHARD_FILES = 1000
_MIN_SHARD_FILES = 16
_MIN_SHARDS = 16


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A recording of the listing."""

    path: str
    """Its name in the results: a file, or the file that holds it, /, and its name in there."""
    file: str = ""
    """The file that holds it, if that holds several."""
    raw: bytes | None = None
    """The name of what is opened, if it is no UTF-8."""
    part: tuple[int, int] | None = None
    """Where it is in `file`: first byte and size in a tar file, row group and row in a Parquet file."""
    offset_s: float = 0.0
    """Where it begins in the recording, in s."""
    duration_s: float | None = None
    """Its length in s; None for all that there is."""
    etag: str = ""
    """Version of the object, as its store gives it; empty for files, of which it is taken when they are read."""
    problem: str = ""
    """Why it cannot be read, where the listing knows already."""

    @property
    def opened(self) -> str:
        """The name of what is opened."""
        return self.file or (os.fsdecode(self.raw) if self.raw else self.path)


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a recording."""

    index: int
    """Its number in the listing, from 0."""
    path: str
    """Its name."""
    etag: str
    """Version of the file: that of its store, or time and size."""
    offset_s: float
    """Where it begins in the file, in s; the times of detections are counted from there."""
    duration_s: float | None
    """Length in s of what was read."""
    sample_rate_hz: int | None
    """Rate of the file."""
    detections: tuple[Detection, ...]
    """What was detected, in order of time."""
    error: str | None
    """What went wrong; of a damaged file the detections are those of the rest."""
    error_kind: str | None
    """One of missing, unreadable, damaged, storage, crashed."""
    took_s: float
    """Time that it took."""
    posteriors: tuple[tuple[float, ...], ...] | None = None
    """Class probabilities of each step, if they were asked for."""


class Job(Struct, frozen=True):
    """What a folder of results holds. A run that would give other results refuses to go on with it."""

    inputs: tuple[str, ...]
    """What was to be read."""
    path_column: str
    """Column of tables that holds paths."""
    audio_column: str
    """Column of tables that holds audio; empty if none."""
    model: str
    """Name of the model."""
    model_sha256: str
    """Hash of the model file, a copy of which lies beside this file."""
    options: Options
    """How detections are decided."""
    has_posteriors: bool
    """Whether posteriors are kept."""
    row_format: str
    """parquet or jsonl."""
    shard_files: int
    """Entries of a shard."""
    versions: dict[str, str]
    """Versions of what decides."""
    n_entries: int = 0
    """Entries of the listing."""
    listing: str = ""
    """Folder of the listing."""
    listing_sha256: str = ""
    """Hash of the listing."""
    created: str = ""
    """When the listing was made, ISO 8601."""

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.n_entries // self.shard_files)

    @property
    def model_file(self) -> str:
        """Name of the copy of the model."""
        return "_model.pt" if self.model.endswith(".pt") else "_model.onnx"

    def n_in(self, shard: int) -> int:
        """Entries of a shard."""
        return min(self.shard_files, self.n_entries - shard * self.shard_files)


_IDENTITY = (
    "inputs",
    "path_column",
    "audio_column",
    "model_sha256",
    "options",
    "has_posteriors",
    "row_format",
    "shard_files",
    "versions",
)


class Task(NamedTuple):
    """A shard that is to be done."""

    shard: int
    """Its number."""
    careful: bool = False
    """One recording after the other, each noted before it is read: after the process that read it has died."""
    again: bool = False
    """Do what failed of a shard that is done."""


def read_job(store: Store) -> Job | None:
    """The job of a folder; None if there is none. Raises DataError for one of another version."""
    try:
        return msgspec.json.decode(store.read(JOB), type=Job)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise DataError(f"{store.place}/{JOB}: made by another version of speechrnn ({error})") from None


def open_job(store: Store) -> Job:
    """The job of a folder. Raises DataError if there is none."""
    job = read_job(store)
    if job is None:
        raise DataError(f"{store.place}: no results of speechrnn bulk are here; give the folder that was its --output")
    return job


def check_same(store: Store, job: Job, wanted: Job) -> None:
    """Raise ConfigError, naming the first difference, if a run would give other results than those that are there."""
    for name in _IDENTITY:
        have, want = getattr(job, name), getattr(wanted, name)
        if have != want:
            text = f"{name.replace('_', ' ')} {_short(have)}, now {_short(want)}"
            raise ConfigError(f"{store.place}: holds results with other settings: {text}; give another --output")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def make_job(store: Store, wanted: Job, entries: Iterable[Entry], model: bytes, listing: str) -> Job:
    """List everything, in shards, and begin the job; the one that another process began meanwhile, if there is one.

    With `shard_files` of 0, shards are small where there are few entries, so that every worker has some. Raises
    DataError if there is nothing to do.
    """
    entries = iter(entries)
    first = list(itertools.islice(entries, _MAX_SHARD_FILES * _MIN_SHARDS))
    size = wanted.shard_files or min(_MAX_SHARD_FILES, max(_MIN_SHARD_FILES, -(-len(first) // _MIN_SHARDS)))
    wanted = msgspec.structs.replace(wanted, shard_files=size)
    digest, shard, n_entries = hashlib.sha256(), list[bytes](), 0
    for entry in itertools.chain(first, entries):
        shard.append(msgspec.json.encode(entry))
        n_entries += 1
        if len(shard) == wanted.shard_files:
            _write_listing(store, listing, n_entries - 1, wanted, shard, digest)
    if shard:
        _write_listing(store, listing, n_entries - 1, wanted, shard, digest)
    if not n_entries:
        raise DataError(f"{', '.join(wanted.inputs)}: no recordings found")
    job = msgspec.structs.replace(wanted, n_entries=n_entries, listing=listing, listing_sha256=digest.hexdigest())
    store.write(job.model_file, model)
    if not store.create(JOB, msgspec.json.format(msgspec.json.encode(job), indent=2)):
        store.remove(listing)
        return open_job(store)
    return job


def _write_listing(store: Store, listing: str, last: int, job: Job, shard: list[bytes], digest: Any) -> None:
    content = b"\n".join(shard) + b"\n"
    digest.update(content)
    store.write(f"{listing}/{_number(last // job.shard_files)}.jsonl", content)
    shard.clear()


def _number(shard: int) -> str:
    return f"shard-{shard:06}"


def read_entries(store: Store, job: Job, shard: int) -> list[Entry]:
    """The entries of a shard."""
    lines = store.read(f"{job.listing}/{_number(shard)}.jsonl").splitlines()
    return [msgspec.json.decode(line, type=Entry) for line in lines]


def rows_name(job: Job, shard: int) -> str:
    """The file of a shard's rows."""
    return f"part-{shard:06}.{job.row_format}"


def done_shards(store: Store, job: Job) -> set[int]:
    """The shards whose rows are there."""
    names = store.names("part-")
    return {int(name[5:11]) for name in names if name.endswith(f".{job.row_format}") and name[5:11].isdecimal()}


def write_rows(store: Store, job: Job, shard: int, rows: list[Row]) -> None:
    """Write the rows of a shard, which is done by that."""
    encode = _to_parquet if job.row_format == "parquet" else _to_jsonl
    store.write(rows_name(job, shard), encode(rows, job))


def read_rows(store: Store, job: Job, shard: int) -> list[Row]:
    """The rows of a shard that is done."""
    content = store.read(rows_name(job, shard))
    if job.row_format == "jsonl":
        return [msgspec.json.decode(line, type=Row) for line in content.splitlines()]
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))  # read_table leaves threads behind
    return [msgspec.convert(row, Row) for row in file.read(use_threads=False).to_pylist()]


def all_rows(store: Store, job: Job) -> Iterator[Row]:
    """The rows of all shards that are done, in the order of the listing."""
    for shard in sorted(done_shards(store, job)):
        yield from read_rows(store, job, shard)


def _to_jsonl(rows: list[Row], job: Job) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _to_parquet(rows: list[Row], job: Job) -> bytes:
    import pyarrow
    import pyarrow.parquet

    plain = [msgspec.to_builtins(row) | {"posteriors": row.posteriors} for row in rows]
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(plain, schema=_schema(job))
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _schema(job: Job) -> Any:
    import pyarrow as pa

    names = ("start_s", "end_s", "score", "decided_s")
    detection = pa.struct([("label", pa.string()), *((name, pa.float64()) for name in names)])
    fields = [
        ("index", pa.int64()),
        ("path", pa.string()),
        ("etag", pa.string()),
        ("offset_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("sample_rate_hz", pa.int32()),
        ("detections", pa.list_(detection)),
        ("error", pa.string()),
        ("error_kind", pa.string()),
        ("took_s", pa.float64()),
    ]
    if job.has_posteriors:
        fields.append(("posteriors", pa.list_(pa.list_(pa.float32()))))
    return pa.schema(fields)
