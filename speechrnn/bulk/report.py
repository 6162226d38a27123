"""What a folder of results holds, for people: how far it is, what was found, what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import msgspec

from speechrnn.bulk.run import Part
from speechrnn.bulk.shards import Job, all_rows, done_shards, read_rows, rows_name
from speechrnn.bulk.store import Store
from speechrnn.formats import Transcript

_N_RECENT = 50
_MIN_RECENT = 5
_N_EXAMPLES = 3


class Report(msgspec.Struct):
    """The state of a job, or of a part of it."""

    n_files: int
    """Recordings that there are."""
    n_done: int = 0
    """Those that were tried."""
    audio_s: float = 0.0
    """Seconds of audio that were read."""
    took_s: float = 0.0
    """Time that it took, in s of one core."""
    words: Counter[str] = msgspec.field(default_factory=Counter)
    """Detections of each keyword."""
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    """Recordings that failed, by the kind of error."""
    examples: list[str] = msgspec.field(default_factory=list)
    """The first errors."""
    files_per_s: float = 0.0
    """Recordings a second, all workers together, over the last shards; 0 if not known."""

    @property
    def n_failed(self) -> int:
        """Recordings that failed."""
        return self.errors.total()


def report_on(store: Store, job: Job, part: Part) -> Report:
    """Count what there is of a part of a job; all of its rows are read."""
    own = part.shards(job)
    shards = sorted(done_shards(store, job) & {*own})
    report = Report(sum(job.n_in(shard) for shard in own))
    for shard in shards:
        for row in read_rows(store, job, shard):
            report.n_done += 1
            report.audio_s += row.duration_s or 0.0
            report.took_s += row.took_s
            report.words.update(found.label for found in row.detections)
            if row.error_kind:
                report.errors[row.error_kind] += 1
                report.examples += [str(row.error)] if len(report.examples) < _N_EXAMPLES else []
    report.files_per_s = _files_per_s(store, job, shards)
    return report


def _files_per_s(store: Store, job: Job, shards: list[int]) -> float:
    """Recordings a second between the ends of the last shards."""
    ends = sorted((store.written_s(rows_name(job, shard)), shard) for shard in shards)[-_N_RECENT:]
    if len(ends) < _MIN_RECENT or not ends[0][0] or ends[-1][0] <= ends[0][0]:
        return 0.0
    return sum(job.n_in(shard) for _, shard in ends[1:]) / (ends[-1][0] - ends[0][0])


def to_lines(report: Report) -> Iterator[str]:
    """The report as text."""
    yield (
        f"{report.n_done} of {report.n_files} recordings done, {report.n_failed} failed, "
        f"{report.n_files - report.n_done} left"
    )
    speed = f", {report.audio_s / report.took_s:.0f} times real time in each worker" if report.took_s else ""
    yield f"{report.audio_s / 3600:.2f} hours of audio{speed}"
    if report.files_per_s and report.n_done < report.n_files:
        left = timedelta(seconds=round((report.n_files - report.n_done) / report.files_per_s))
        yield f"{report.files_per_s:.1f} recordings a second, {left} left at that rate"
    yield _counted("words", report.words)
    if report.errors:
        yield _counted("errors", report.errors)
        yield from (f"  {example}" for example in report.examples)


def _counted(what: str, counts: Counter[str]) -> str:
    return f"{what}: " + (", ".join(f"{name} {n}" for name, n in counts.most_common()) or "none")


def transcripts(store: Store, job: Job) -> list[Transcript]:
    """What was detected in each recording that could be read."""
    return [
        Transcript(row.path, row.duration_s, row.detections)
        for row in all_rows(store, job)
        if row.duration_s is not None
    ]
