"""A shard to its rows, in one process of one thread that computes: what every engine runs."""

from __future__ import annotations

import faulthandler
import functools
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import NamedTuple

import msgspec

from speechrnn.audio import Samples
from speechrnn.bulk.network import Network, cut
from speechrnn.bulk.reading import Opened, StorageError, opened_ahead, stretch
from speechrnn.bulk.shards import Entry, Job, Row, Task, open_job, read_entries, read_rows, write_rows
from speechrnn.bulk.spotting import FrameSpotter, run_contexts
from speechrnn.bulk.store import Store, as_file, open_store
from speechrnn.errors import (
    AudioError,
    DamagedAudioError,
    DataError,
    MissingAudioError,
    ModelFileError,
    SpeechRnnError,
    first_line,
)
from speechrnn.files import printable
from speechrnn.recognizer import Recognizer, load

_N_RECORDINGS = 8
_N_CONTEXTS = 32
_N_READY = 24  # a stretch gives ten at the usual step, and a turn takes four
_REARM_EVERY_S = 1.0


class Settings(msgspec.Struct, frozen=True):
    """How a run is done; nothing of it changes what is found."""

    n_retries: int = 2
    """How often a storage that fails is asked again, and a recording given again to a new process if one dies of it."""
    timeout_s: float = 600.0
    """A process that makes no progress for so long is given up, with the recording at hand."""


class Counts(NamedTuple):
    """What a shard held."""

    n_files: int
    """Recordings."""
    n_failed: int
    """Those that could not be read, or not whole."""
    audio_s: float
    """Seconds of audio that were read."""

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        n_files, n_failed = self.n_files + other.n_files, self.n_failed + other.n_failed
        return Counts(n_files, n_failed, self.audio_s + other.audio_s)


def counts_of(rows: list[Row]) -> Counts:
    """Count rows."""
    return Counts(len(rows), sum(row.error is not None for row in rows), sum(row.duration_s or 0.0 for row in rows))


class Model(NamedTuple):
    """What a worker loads once."""

    job: Job
    """The job."""
    recognizer: Recognizer
    """Its model."""
    network: Network
    """The model's network in two halves."""


@functools.lru_cache(maxsize=1)
def load_model(place: str) -> Model:
    """The model of the job in a folder. Raises DataError if its copy there is not the one that the job names."""
    store = open_store(place)
    job = open_job(store)
    with as_file(store, job.model_file) as path:
        if hashlib.sha256(path.read_bytes()).hexdigest() != job.model_sha256:
            raise DataError(f"{place}/{job.model_file}: is not the model of this job; give another --output")
        recognizer = load(path)
        return Model(job, recognizer, cut(recognizer, job.options.step_ms))


def run_shard(place: str, task: Task, settings: Settings, on_progress: Callable[[], None] = lambda: None) -> Counts:
    """Do a shard, unless it was done meanwhile, and write its rows; with failed rows there, do these again."""
    store, model = open_store(place), load_model(place)
    old = _old_rows(store, model.job, task.shard)
    if old and not task.again:
        return counts_of(old)
    known = {row.index: row for row in old if row.error is None}
    watch = _Watch(settings.timeout_s, on_progress)
    try:
        rows = list(_rows(store, model, task, settings, known.keys(), watch))
    finally:
        watch.stop()
    whole = sorted([*known.values(), *rows], key=lambda row: row.index)
    write_rows(store, model.job, task.shard, whole)
    store.remove(_note_name(task.shard))
    return counts_of(whole)


def _old_rows(store: Store, job: Job, shard: int) -> list[Row]:
    try:
        return read_rows(store, job, shard)
    except FileNotFoundError:
        return []


class _Watch:
    """Ends the process if it makes no progress for a time, also where it hangs in a library."""

    def __init__(self, timeout_s: float, on_progress: Callable[[], None]) -> None:
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._armed_s = -1e9
        self._null = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for as long as the process may be ended)
        self.progress()

    def progress(self) -> None:
        """Wait anew from now on."""
        now_s = time.monotonic()
        if now_s - self._armed_s > min(_REARM_EVERY_S, self._timeout_s / 4):
            faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=self._null)
            self._armed_s = now_s
            self._on_progress()

    def stop(self) -> None:
        """Wait no longer."""
        faulthandler.cancel_dump_traceback_later()
        self._null.close()


class _Note(msgspec.Struct):
    """What a careful worker writes down before it reads a recording, for the one after it if it dies."""

    index: int = -1
    """The recording that is read."""
    deaths: dict[int, int] = {}
    """How many processes died of which recording."""


def _note_name(shard: int) -> str:
    return f"_careful/shard-{shard:06}.json"


def _read_deaths(store: Store, shard: int) -> dict[int, int]:
    """How many processes died of which recording, the one before this one included."""
    try:
        note = msgspec.json.decode(store.read(_note_name(shard)), type=_Note)
    except FileNotFoundError:
        return {}
    return note.deaths | {note.index: note.deaths.get(note.index, 0) + 1}


def _rows(
    store: Store, model: Model, task: Task, settings: Settings, known: Collection[int], watch: _Watch
) -> Iterator[Row]:
    """The rows of the shard's entries but those that are `known`, in any order."""
    first = task.shard * model.job.shard_files
    numbered = enumerate(read_entries(store, model.job, task.shard), first)
    left = [(index, entry) for index, entry in numbered if index not in known]
    if task.careful:
        yield from _one_by_one(store, model, task, settings, left, watch)
    else:
        yield from _in_batches(model, left, settings, watch)


def _one_by_one(
    store: Store, model: Model, task: Task, settings: Settings, entries: list[tuple[int, Entry]], watch: _Watch
) -> Iterator[Row]:
    """The rows of entries, each noted before it is read; those of which too many processes died are not read."""
    deaths = _read_deaths(store, task.shard)
    for index, entry in entries:
        if deaths.get(index, 0) > settings.n_retries:
            yield _crashed(index, entry, deaths[index], settings)
        else:
            store.write(_note_name(task.shard), msgspec.json.encode(_Note(index, deaths)))
            yield from _in_batches(model, [(index, entry)], settings, watch)


def _crashed(index: int, entry: Entry, n_deaths: int, settings: Settings) -> Row:
    error = (
        f"{entry.path}: {n_deaths} processes ended while they read it: they crashed, or made no progress for "
        f"{settings.timeout_s:g} s"
    )
    return Row(index, entry.path, entry.etag, entry.offset_s, None, None, (), error, "crashed", 0.0)


def _in_batches(model: Model, entries: list[tuple[int, Entry]], settings: Settings, watch: _Watch) -> Iterator[Row]:
    """The rows of entries, several of which are read at a time, as they are done."""
    waiting = opened_ahead(entries, settings.n_retries, model.job.audio_column)
    reading: list[_Reading] = []
    while True:
        while len(reading) < _N_RECORDINGS and (following := next(waiting, None)):
            reading.append(_Reading(model, *following))
            watch.progress()
        if not reading:
            return
        started_s = time.perf_counter()
        run_contexts([one.spotter for one in reading], model.network, _N_CONTEXTS)
        took_s = (time.perf_counter() - started_s) / len(reading)
        for one in [*reading]:
            one.took_s += took_s
            one.fill()
            watch.progress()
            if one.is_done:
                reading.remove(one)
                yield one.row()


class _Reading:
    """A recording that is being read: its spotter always has contexts, until it is done."""

    def __init__(self, model: Model, index: int, entry: Entry, future: Future[Opened]) -> None:
        self._model, self._index, self._entry = model, index, entry
        self.spotter = FrameSpotter(
            model.recognizer, model.job.options, model.network, keeps_posteriors=model.job.has_posteriors
        )
        self.took_s = 0.0
        self._opened: Opened | None = None
        self._error: SpeechRnnError | None = None
        try:
            self._opened = future.result()
            rate_hz = model.recognizer.info.spec.sample_rate_hz
            self._blocks: Iterator[Samples] = stretch(self._opened.audio.blocks(rate_hz), rate_hz, entry)
            self.fill()
        except Exception as error:  # whatever one recording raises, it is a row
            self._fail(error)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to decide."""
        return self.spotter.is_done

    def fill(self) -> None:
        """Read until there are steps to be decided, enough of them that frames come in whole stretches."""
        started_s = time.perf_counter()
        try:
            while self.spotter.n_ready < _N_READY and not self.spotter.is_finished:
                block = next(self._blocks, None)
                if block is None:
                    self.spotter.finish()
                else:
                    self.spotter.push(block)
        except DamagedAudioError as error:
            self._error = error
            self.spotter.finish()
        except Exception as error:
            self._fail(error)
        self.took_s += time.perf_counter() - started_s

    def _fail(self, error: Exception) -> None:
        if isinstance(error, ModelFileError):
            raise error
        if not isinstance(error, SpeechRnnError):
            error = AudioError(f"{self._entry.path}: cannot be read ({first_line(error)})")
        self._error = error
        self.spotter.abandon()

    def row(self) -> Row:
        """What was found, or went wrong."""
        entry, job = self._entry, self._model.job
        posteriors = tuple(tuple(map(float, row)) for row in self.spotter.posteriors)
        row = Row(
            index=self._index,
            path=entry.path,
            etag=entry.etag,
            offset_s=entry.offset_s,
            duration_s=None,
            sample_rate_hz=None,
            detections=tuple(self.spotter.result()),
            error=None if self._error is None else printable(str(self._error)),
            error_kind=None if self._error is None else _kind(self._error),
            took_s=round(self.took_s, 4),
            posteriors=posteriors if job.has_posteriors else None,
        )
        return row if self._opened is None else self._with_audio(row, self._opened)

    def _with_audio(self, row: Row, opened: Opened) -> Row:
        opened.audio.close()
        is_part = bool(row.offset_s) or self._entry.duration_s is not None
        return msgspec.structs.replace(
            row,
            etag=opened.etag,
            duration_s=self.spotter.duration_s if is_part else opened.audio.duration_s,
            sample_rate_hz=opened.audio.rate_hz,
        )


def _kind(error: SpeechRnnError) -> str:
    kinds = {
        MissingAudioError: "missing",
        DamagedAudioError: "damaged",
        AudioError: "unreadable",
        StorageError: "storage",
    }
    return next(name for kind, name in kinds.items() if isinstance(error, kind))
