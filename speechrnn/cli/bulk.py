"""The verb for archives: bulk."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Literal

import click
import msgspec

import speechrnn
from speechrnn.cli.console import (
    StatusLine,
    choose_options,
    in_speech_option,
    model_option,
    note,
    operating_point_option,
    threshold_option,
)
from speechrnn.errors import ConfigError
from speechrnn.files import printable

if TYPE_CHECKING:
    from speechrnn.bulk.engines import Engine
    from speechrnn.bulk.report import Report
    from speechrnn.bulk.run import Limit, Part, Progress
    from speechrnn.bulk.shards import Job, Task
    from speechrnn.bulk.store import Store
    from speechrnn.bulk.worker import Settings


@click.command(short_help="Find keywords in archives of any size.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--output",
    metavar="FOLDER",
    show_default="none, which will do with --status and --retry-failed",
    help="Folder of the results, or an address such as s3://bucket/folder.",
)
@model_option
@operating_point_option
@threshold_option
@in_speech_option
@click.option("--posteriors", is_flag=True, help="Keep the class probabilities of each step, too.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(("parquet", "jsonl")),
    default="parquet",
    show_default=True,
    help="Form of the results.",
)
@click.option("--path-column", metavar="NAME", default="path", show_default=True, help="Column of paths in tables.")
@click.option(
    "--audio-column",
    metavar="NAME",
    default="",
    show_default="none, so paths are read",
    help="Column of tables that holds audio files, as those of Hugging Face do.",
)
@click.option(
    "--shard-files",
    metavar="N",
    type=click.IntRange(1, 100_000),
    show_default="1000, fewer where there are few recordings",
    help="Recordings of a shard, which is done as a whole.",
)
@click.option(
    "--engine",
    type=click.Choice(("local", "ray")),
    default="local",
    show_default=True,
    help="Who does the work: processes of this machine, or Ray.",
)
@click.option(
    "--address",
    metavar="ADDRESS",
    show_default="none, so Ray is started on this machine",
    help="A cluster of Ray, such as auto or ray://head:10001.",
)
@click.option(
    "--workers", metavar="N", type=click.IntRange(1), show_default="one for each core", help="Shards at a time."
)
@click.option(
    "--part", "part_", metavar="I/N", default="1/1", show_default=True, help="Do every Nth shard, from the Ith."
)
@click.option(
    "--retries", metavar="N", type=click.IntRange(0), default=2, show_default=True,
    help="How often a storage that fails is asked again, and a recording tried again of which a process died.",
)  # fmt: skip
@click.option(
    "--max-errors", metavar="N|P%", show_default="no limit", help="Give up, with exit code 1, if more recordings fail."
)
@click.option(
    "--timeout", metavar="S", type=click.FloatRange(1), default=600.0, show_default=True,
    help="Seconds without progress after which a recording is given up.",
)  # fmt: skip
@click.option("--status", is_flag=True, help="Say how far the results in INPUT are, and end.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed in the results in INPUT.")
def bulk(
    inputs: tuple[str, ...],
    output: str | None,
    model: str,
    operating_point: str | None,
    threshold: tuple[str, ...],
    in_speech: bool,
    posteriors: bool,
    format_: str,
    path_column: str,
    audio_column: str,
    shard_files: int | None,
    engine: Literal["local", "ray"],
    address: str | None,
    workers: int | None,
    part_: str,
    retries: int,
    max_errors: str | None,
    timeout: float,
    status: bool,
    retry_failed: bool,
) -> None:
    """Find keywords in as many recordings as there are, into FOLDER; called again, go on with what is left.

    INPUT is a folder, a pattern, a list (.txt), a manifest of NeMo or cuts of Lhotse (.jsonl, .jsonl.gz), a table
    (.parquet), an archive (.tar), or an address that fsspec opens. A recording that cannot be read is a row with an
    error. The exit code is 0 if all went well, 3 if some failed, 1 if more than --max-errors did, 130 after Ctrl-C,
    which ends the run when the shards at hand are done, and at once the second time.
    """
    from speechrnn.bulk.run import failed_tasks, left_tasks
    from speechrnn.bulk.shards import open_job
    from speechrnn.bulk.store import open_store
    from speechrnn.bulk.worker import Settings

    part, limit = _part(part_), _limit(max_errors)
    if address is not None and engine != "ray":
        raise ConfigError(f"--address {address}: is for --engine ray")
    if status or retry_failed:
        store = open_store(_only(inputs, "--status" if status else "--retry-failed"))
        job = open_job(store)
        if status:
            _show(store, job, part)
            return
        tasks = failed_tasks(store, job, part)
    else:
        if output is None:
            raise ConfigError("--output: expected the folder of the results; give --output out/")
        if engine == "ray":
            import ray  # noqa: F401 (missing, it is said before the work)
        store = open_store(output)
        options = (model, operating_point, threshold, in_speech)
        job = _job(store, inputs, options, posteriors, format_, (path_column, audio_column), shard_files)
        tasks = left_tasks(store, job, part)
    with _stopped_by_interrupt() as is_stopped:
        start = functools.partial(
            _engine, engine, address, store.place, Settings(retries, timeout), workers, len(tasks)
        )
        done = not tasks or _run(job, tasks, limit, start, is_stopped)
    _end(store, job, part, limit, done, is_stopped)


def _only(inputs: tuple[str, ...], option: str) -> str:
    if len(inputs) != 1:
        raise ConfigError(f"{option}: expected one folder of results, got {len(inputs)}")
    return inputs[0]


def _part(text: str) -> Part:
    from speechrnn.bulk.run import Part

    number, slash, n_parts = text.partition("/")
    if not (slash and number.isdecimal() and n_parts.isdecimal() and 1 <= int(number) <= int(n_parts)):
        raise ConfigError(f"--part {text}: expected a part and the number of parts, such as 3/10")
    return Part(int(number), int(n_parts))


def _limit(text: str | None) -> Limit:
    from speechrnn.bulk.run import Limit

    if text is None:
        return Limit()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"--max-errors {text}: expected a number of recordings, or a rate such as 1%")
    return Limit(rate=value / 100) if text.endswith("%") else Limit(n_failed=value)


def _job(
    store: Store,
    inputs: tuple[str, ...],
    options: tuple[str, str | None, tuple[str, ...], bool],
    posteriors: bool,
    format_: str,
    columns: tuple[str, str],
    shard_files: int | None,
) -> Job:
    """The job in a folder, which is begun if there is none. Raises ConfigError if what is there is another."""
    from speechrnn.bulk.inputs import Columns, find_entries
    from speechrnn.bulk.shards import Job, check_same, make_job, read_job
    from speechrnn.bulk.store import is_remote
    from speechrnn.recognizer import find_model, load

    if format_ == "parquet":
        import pyarrow.parquet  # noqa: F401 (missing, it is said before the work)
    model, operating_point, threshold, in_speech = options
    recognizer, content = load(model, operating_point=operating_point), find_model(model).read_bytes()
    job = read_job(store)
    wanted = Job(
        inputs=tuple(name if is_remote(name) else os.path.abspath(name) for name in inputs),  # noqa: PTH100
        path_column=columns[0],
        audio_column=columns[1],
        model=model,
        model_sha256=hashlib.sha256(content).hexdigest(),
        options=choose_options(recognizer, threshold, in_speech=in_speech),
        has_posteriors=posteriors,
        row_format=format_,
        shard_files=shard_files or (job.shard_files if job else 0),
        versions={"speechrnn": speechrnn.__version__, "onnxruntime": version("onnxruntime")},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if job is None:
        entries = find_entries(inputs, Columns(*columns), note)
        started_s = time.monotonic()
        job = make_job(store, wanted, entries, content, f"_input-{uuid.uuid4().hex[:8]}")
        note(f"{job.n_entries} recordings listed in {time.monotonic() - started_s:.1f} s")
    check_same(store, job, msgspec.structs.replace(wanted, shard_files=wanted.shard_files or job.shard_files))
    return job


def _run(job: Job, tasks: list[Task], limit: Limit, start: Callable[[], Engine], is_stopped: _Interrupts) -> bool:
    from speechrnn.bulk.run import run

    with start() as engine, _Line(time.monotonic()) as line:
        return run(engine, job, tasks, limit, line, is_stopped)


def _engine(
    name: str, address: str | None, place: str, settings: Settings, n_workers: int | None, n_tasks: int
) -> Engine:
    if name == "ray":
        from speechrnn.bulk.ray_engine import RayEngine

        return RayEngine(place, settings, n_workers, address)
    from speechrnn.bulk.engines import LocalEngine

    return LocalEngine(place, settings, min(n_workers or _n_cores(), n_tasks))


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Interrupts:
    """Whether Ctrl-C was pressed; pressed again, it interrupts."""

    def __init__(self) -> None:
        self._n = 0

    def __call__(self) -> bool:
        return bool(self._n)

    def add(self, number: int, frame: FrameType | None) -> None:
        self._n += 1
        if self._n > 1:
            raise KeyboardInterrupt
        note("ending when the shards at hand are done; press Ctrl-C again to end now")


@contextmanager
def _stopped_by_interrupt() -> Iterator[_Interrupts]:
    interrupts = _Interrupts()
    handler = signal.signal(signal.SIGINT, interrupts.add)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, handler)


def _end(store: Store, job: Job, part: Part, limit: Limit, is_done: bool, is_stopped: _Interrupts) -> None:
    """Say what there is, and exit with the code that says how it went."""
    report = _show(store, job, part)
    if limit.is_exceeded(report.n_failed, report.n_done):
        note(f"speechrnn: {report.n_failed} of {report.n_done} recordings failed, more than --max-errors")
        raise SystemExit(1)
    if not is_done and is_stopped():
        note("interrupted; the same command goes on")
        raise SystemExit(130)
    if report.n_failed:
        again = f"speechrnn bulk --retry-failed {store.place}"
        note(f"speechrnn: {report.n_failed} recordings failed; to try them again: {again}")
        raise SystemExit(3)


def _show(store: Store, job: Job, part: Part) -> Report:
    from speechrnn.bulk.report import report_on, to_lines

    report = report_on(store, job, part)
    click.echo(printable("\n".join(to_lines(report))))
    return report


class _Line(StatusLine):
    """Progress of a run."""

    def __call__(self, progress: Progress) -> None:
        counts, elapsed_s = progress.counts, progress.elapsed_s
        left = timedelta(seconds=round(progress.n_left * elapsed_s / counts.n_files)) if counts.n_files else "?"
        line = (
            f"{counts.n_files} recordings, {counts.n_failed} failed, {progress.n_left} left  "
            f"{counts.n_files / elapsed_s:.1f} recordings/s  {counts.audio_s / elapsed_s:.0f} s of audio/s  {left} left"
        )
        self.show(line)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *details: object) -> None:
        self.end("\r\x1b[K")
