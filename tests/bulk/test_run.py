"""A job from its listing to its rows: each recording once, whatever is killed, broken, or done by others meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pyarrow.parquet
import pytest

import speechrnn
from speechrnn.bulk import reading, worker
from speechrnn.bulk.inputs import open_file
from speechrnn.bulk.run import WHOLE, Limit, Part, failed_tasks, left_tasks
from speechrnn.bulk.shards import Entry, Job, Task, done_shards, open_job, read_entries
from speechrnn.bulk.store import open_store
from speechrnn.bulk.worker import Counts, run_shard
from speechrnn.folders import find_audio
from tests.bulk.jobs import SETTINGS, begin, clips, content, rows_in
from tests.helpers import COMMAND, EXAMPLE, assert_one_line, run, write_audio


def run_all(place: Path, job: Job, part: Part = WHOLE) -> None:
    """What is left of a job, in this process."""
    for task in left_tasks(open_store(str(place)), job, part):
        run_shard(str(place), task, SETTINGS)


@pytest.mark.slow
def test_rows_hold_what_transcribe_finds(tmp_path: Path) -> None:
    files = find_audio(EXAMPLE.parent)
    run_all(tmp_path / "out", begin(tmp_path / "out", [EXAMPLE.parent], shard_files=2))
    rows = rows_in(tmp_path / "out")
    assert [row.path for row in rows] == list(map(str, files))
    for row, file in zip(rows, files, strict=True):
        expected = speechrnn.transcribe(file)
        times = [(found.label, found.start_s, found.end_s, found.decided_s) for found in row.detections]
        assert times == [(found.label, found.start_s, found.end_s, found.decided_s) for found in expected]
        scores = [found.score for found in row.detections]
        assert scores == pytest.approx([found.score for found in expected], abs=1.01e-4)
        status = file.stat()
        assert (row.error, row.etag) == (None, f"{status.st_mtime_ns:x}-{status.st_size:x}")


@pytest.mark.slow
def test_the_result_depends_on_no_size_of_shards_and_no_order_of_them(tmp_path: Path) -> None:
    clips(tmp_path / "audio", 9)
    write_audio(tmp_path / "audio" / "words.wav", *_samples(EXAMPLE))
    results = []
    for size in (1, 4, 100):
        place = tmp_path / f"out{size}"
        job = begin(place, [tmp_path / "audio"], shard_files=size)
        tasks = left_tasks(open_store(str(place)), job, WHOLE)
        for task in reversed(tasks):
            run_shard(str(place), task, SETTINGS)
        results.append(content(rows_in(place)))
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 10
    assert len(results[0][-1][3]) == len(speechrnn.transcribe(EXAMPLE))


def _samples(path: Path) -> tuple[speechrnn.audio.Samples, int]:
    from speechrnn.decoding import read

    return read(path, 16000), 16000


def test_what_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 2)
    (folder / "broken.wav").write_bytes(b"no audio at all")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "gone.wav").symlink_to(folder / "nowhere.wav")
    whole = EXAMPLE.read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    run_all(tmp_path / "out", begin(tmp_path / "out", [folder]))
    rows = {Path(row.path).stem: row for row in rows_in(tmp_path / "out")}
    kinds = {name: row.error_kind for name, row in rows.items()}
    assert kinds == {
        "broken": "unreadable",
        "clip000": None,
        "clip001": None,
        "empty": "unreadable",
        "gone": "missing",
        "truncated": "damaged",
    }
    assert rows["broken"].error is not None
    assert rows["broken"].error.startswith(f"{folder / 'broken.wav'}: not readable as audio")
    assert rows["broken"].duration_s is None
    assert rows["truncated"].detections


def test_what_failed_is_tried_again_and_the_rest_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = clips(tmp_path / "audio", 6)
    hidden = (folder / "clip001.wav").rename(tmp_path / "hidden.wav")
    (folder / "clip001.wav").symlink_to(hidden)
    content_ = hidden.read_bytes()
    hidden.unlink()
    job = begin(tmp_path / "out", [folder])
    run_all(tmp_path / "out", job)
    store = open_store(str(tmp_path / "out"))
    assert [row.error_kind for row in rows_in(tmp_path / "out")] == [None, "missing", None, None, None, None]
    hidden.write_bytes(content_)
    opened: list[str] = []
    real = reading.opened

    def counted(entry: Entry, n_retries: int, column: str) -> reading.Opened:
        opened.append(entry.path)
        return real(entry, n_retries, column)

    monkeypatch.setattr(reading, "opened", counted)
    for task in failed_tasks(store, job, WHOLE):
        run_shard(str(tmp_path / "out"), task, SETTINGS)
    rows = rows_in(tmp_path / "out")
    assert [row.error_kind for row in rows] == [None] * 6
    assert [row.index for row in rows] == [*range(6)]
    assert opened == [str(folder / "clip001.wav")]


def test_parts_do_all_shards_once(tmp_path: Path) -> None:
    job = begin(tmp_path / "out", [clips(tmp_path / "audio", 10)], shard_files=2)
    parts = [set(Part(number, 3).shards(job)) for number in (1, 2, 3)]
    assert sorted(shard for part in parts for shard in part) == [0, 1, 2, 3, 4]
    run_all(tmp_path / "out", job, Part(2, 3))
    assert done_shards(open_store(str(tmp_path / "out")), job) == {1, 4}


@pytest.mark.parametrize(("n", "size"), [(1, 16), (200, 16), (400, 25), (16_000, 1000), (16_001, 1000)])
def test_few_recordings_are_many_shards(tmp_path: Path, n: int, size: int) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{number}.wav\n" for number in range(n)))
    job = begin(tmp_path / "out", [tmp_path / "list.txt"], shard_files=0)
    assert (job.n_entries, job.shard_files) == (n, size)
    entries = [
        entry for shard in range(job.n_shards) for entry in read_entries(open_store(str(tmp_path / "out")), job, shard)
    ]
    assert [entry.path for entry in entries] == [str(tmp_path / f"{number}.wav") for number in range(n)]


def test_two_who_begin_at_once_share_one_listing(tmp_path: Path) -> None:
    clips(tmp_path / "audio", 5)
    jobs: list[Job] = []

    def start() -> None:
        jobs.append(begin(tmp_path / "out", [tmp_path / "audio"]))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert jobs[0] == jobs[1] == open_job(open_store(str(tmp_path / "out")))


def test_storage_that_fails_for_a_while_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_file = clips(tmp_path / "audio", 1) / "clip000.wav"
    failures = [OSError("slow down"), TimeoutError("no answer")]
    waits = list[float]()

    def failing(name: str) -> object:
        if failures:
            raise failures.pop()
        return open_file(str(store_file))

    monkeypatch.setattr(reading, "open_file", failing)
    monkeypatch.setattr(time, "sleep", waits.append)
    entry = Entry("s3://bucket/clip000.wav")
    reading.opened(entry, 2, "").audio.close()
    assert waits == [0.5, 1.0]
    failures += [OSError("slow down")] * 3
    with pytest.raises(reading.StorageError, match="its storage fails"):
        reading.opened(entry, 2, "")


def test_a_recording_that_kills_its_process_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `run_shard` is a process here; an exception that nothing catches is its death."""
    folder = clips(tmp_path / "audio", 5)
    begin(tmp_path / "out", [folder], shard_files=5)

    class DeathError(BaseException):
        pass

    def dying(blocks: object, rate_hz: int, entry: Entry) -> object:
        if entry.path.endswith("clip002.wav"):
            raise DeathError
        return reading.stretch(blocks, rate_hz, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "stretch", dying)
    for _ in range(2):  # the first read, and one retry
        with pytest.raises(DeathError):
            run_shard(str(tmp_path / "out"), Task(0, careful=True), SETTINGS)
    run_shard(str(tmp_path / "out"), Task(0, careful=True), SETTINGS)
    rows = rows_in(tmp_path / "out")
    assert [row.error_kind for row in rows] == [None, None, "crashed", None, None]
    assert_one_line(Exception(rows[2].error), "clip002.wav: 2 processes ended while they read it")


@pytest.mark.slow
def test_a_process_that_makes_no_progress_ends(tmp_path: Path) -> None:
    begin(tmp_path / "out", [clips(tmp_path / "audio", 1)])
    code = (
        "import time, sys\n"
        "from speechrnn.bulk import worker\n"
        "from speechrnn.bulk.shards import Task\n"
        "worker.stretch = lambda *arguments: time.sleep(3600)\n"
        "worker.run_shard(sys.argv[1], Task(0), worker.Settings(timeout_s=1.0))\n"
    )
    started_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, check=False)
    assert done.returncode == 1
    assert time.monotonic() - started_s < 600
    assert done_shards(open_store(str(tmp_path / "out")), open_job(open_store(str(tmp_path / "out")))) == set()


@pytest.mark.parametrize(
    ("limit", "n_failed", "n_files", "expected"),
    [
        (Limit(), 10, 10, False),
        (Limit(n_failed=0), 0, 10, False),
        (Limit(n_failed=0), 1, 10, True),
        (Limit(rate=0.01), 10, 1000, False),
        (Limit(rate=0.01), 11, 1000, True),
    ],
)
def test_limits(limit: Limit, n_failed: int, n_files: int, expected: bool) -> None:
    assert limit.is_exceeded(n_failed, n_files) == expected


def test_counts_are_of_all_rows(tmp_path: Path) -> None:
    begin(tmp_path / "out", [clips(tmp_path / "audio", 3), EXAMPLE])
    counts = run_shard(str(tmp_path / "out"), Task(0), SETTINGS)
    assert counts == Counts(4, 0, sum(row.duration_s or 0 for row in rows_in(tmp_path / "out")))
    assert run_shard(str(tmp_path / "out"), Task(0), SETTINGS) == counts


def test_a_store_of_objects_holds_the_same(tmp_path: Path) -> None:
    clips(tmp_path / "audio", 5)
    run_all(tmp_path / "out", begin(tmp_path / "out", [tmp_path / "audio"]))
    place = f"memory://results-{os.getpid()}"
    job = begin(place, [tmp_path / "audio"])
    for task in left_tasks(open_store(place), job, WHOLE):
        run_shard(place, task, SETTINGS)
    assert left_tasks(open_store(place), job, WHOLE) == []
    assert content(rows_in(place)) == content(rows_in(tmp_path / "out"))
    assert begin(place, [tmp_path / "audio"]) == job


# ---- the command line


def bulk(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("bulk", *arguments)


@pytest.mark.slow
def test_the_verb_does_all_says_what_it_found_and_goes_on(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 3)
    write_audio(folder / "words.wav", *_samples(EXAMPLE))
    command = (folder, "--output", tmp_path / "out", "--workers", "2", "--shard-files", "2")
    done = bulk(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "4 of 4 recordings done, 0 failed, 0 left"
    assert "stop 1" in done.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert len(before) == 2
    again = bulk(*command)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")} == before
    assert bulk("--status", tmp_path / "out").stdout == done.stdout
    table = pyarrow.parquet.read_table(tmp_path / "out" / "part-000001.parquet")
    assert table.column("detections").to_pylist()[1][0]["label"] in done.stdout
    for changed in (("--threshold", "0.5"), ("--posteriors",), ("--format", "jsonl"), ("--shard-files", "3")):
        assert_one_line(bulk(*command, *changed), "holds results with other settings", "give another --output")


@pytest.mark.slow
def test_failures_are_an_exit_code_and_can_be_tried_again(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 3)
    content_ = (folder / "clip001.wav").read_bytes()
    (folder / "clip001.wav").write_bytes(b"no audio")
    command = (folder, "--output", tmp_path / "out", "--workers", "1", "--format", "jsonl", "--posteriors")
    done = bulk(*command)
    assert done.returncode == 3
    assert "errors: unreadable 1" in done.stdout
    assert "--retry-failed" in done.stderr
    assert bulk(*command, "--max-errors", "10%").returncode == 1
    assert bulk(*command, "--max-errors", "1").returncode == 3
    (folder / "clip001.wav").write_bytes(content_)
    assert bulk("--retry-failed", tmp_path / "out", "--workers", "1").returncode == 0
    lines = (tmp_path / "out" / "part-000000.jsonl").read_bytes().splitlines()
    rows = [msgspec.json.decode(line) for line in lines]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert {(len(row["posteriors"]), len(row["posteriors"][0])) for row in rows} == {(11, 12)}


def test_the_results_are_scored_as_what_transcribe_writes(tmp_path: Path) -> None:
    run_all(tmp_path / "out", begin(tmp_path / "out", [EXAMPLE]))
    (tmp_path / "written.json").write_text(run("transcribe", EXAMPLE, "--format", "json").stdout)
    truth = ("--truth", EXAMPLE.with_name("commands.labels.txt"), "--model", "commands10")
    done = run("score", tmp_path / "out", *truth)
    assert done.returncode == 0, done.stderr
    assert done.stdout == run("score", tmp_path / "written.json", *truth).stdout
    assert_one_line(run("score", tmp_path / "out", *truth, "--threshold", "0.5"), "changes nothing in detections")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("x.wav",), ["--output"]),
        (("x.wav", "--output", "out"), ["x.wav: no such file"]),
        (("x.wav", "--output", "out", "--part", "4/3"), ["--part 4/3"]),
        (("x.wav", "--output", "out", "--max-errors", "many"), ["--max-errors many"]),
        (("--status", "."), ["no results of speechrnn bulk"]),
        (("--status", "a", "b"), ["expected one folder"]),
    ],
)
def test_misuse_is_one_line(tmp_path: Path, arguments: tuple[str, ...], parts: list[str]) -> None:
    assert_one_line(run("bulk", *arguments, cwd=tmp_path), *parts)


@pytest.mark.parametrize(
    ("modules", "arguments", "extra"),
    [
        (("pyarrow", "pyarrow.parquet"), (EXAMPLE,), "bulk"),
        (("fsspec",), ("s3://bucket/calls",), "bulk"),
        (("ray",), (EXAMPLE, "--engine", "ray"), "ray"),
    ],
)
def test_a_missing_library_names_the_extra(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    modules: tuple[str, ...],
    arguments: tuple[str | Path, ...],
    extra: str,
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    assert_one_line(bulk(*arguments, "--output", tmp_path / "out"), f"pip install 'speechrnn[{extra}]'")


@pytest.mark.slow
def test_killed_at_any_point_the_union_is_that_of_a_clean_run(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 60)
    write_audio(folder / "words.wav", *_samples(EXAMPLE))
    (folder / "broken.wav").write_bytes(b"no audio")
    run_all(tmp_path / "clean", begin(tmp_path / "clean", [folder], shard_files=7))
    command = [*COMMAND, "bulk", str(folder), "--output", str(tmp_path / "out"), "--shard-files", "7", "--workers", "2"]
    random_ = random.Random(0)
    for attempt in range(5):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as p:
            while len(list((tmp_path / "out").glob("part-*"))) < attempt:
                assert p.poll() is None
                time.sleep(0.01)
            time.sleep(random_.random() * 0.5)
            if attempt % 2:
                os.killpg(p.pid, signal.SIGKILL)
            else:
                p.kill()  # its workers are left alone
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert content(rows_in(tmp_path / "out")) == content(rows_in(tmp_path / "clean"))
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.slow
def test_two_parts_that_begin_at_once_give_the_whole(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 30)
    command = [*COMMAND, "bulk", str(folder), "--output", str(tmp_path / "out"), "--shard-files=4", "--workers=1"]
    parts = [subprocess.Popen([*command, "--part", f"{number}/2"], stderr=subprocess.PIPE) for number in (1, 2)]
    for part in parts:
        _, errors = part.communicate(timeout=1800)
        assert part.returncode == 0, errors
    assert [row.index for row in rows_in(tmp_path / "out")] == [*range(30)]
    assert len(list((tmp_path / "out").glob("_input-*"))) == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_shard_alone(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 40)
    command = [
        *COMMAND,
        "bulk",
        str(folder),
        "--output",
        str(tmp_path / "out"),
        "--shard-files",
        "10",
        "--workers",
        "2",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        killed: set[int] = set()
        while process.poll() is None:
            for worker_id in [*_workers(process.pid) - killed][: 3 - len(killed)]:
                os.kill(worker_id, signal.SIGKILL)
                killed.add(worker_id)
            time.sleep(0.05)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert killed
    assert [row.index for row in rows_in(tmp_path / "out")] == [*range(40)]


def _workers(parent: int) -> set[int]:
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    )
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line}


@pytest.mark.slow
def test_an_interrupt_ends_after_the_shards_at_hand(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 60)
    command = [*COMMAND, "bulk", str(folder), "--output", str(tmp_path / "out"), "--shard-files", "5", "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "out").glob("part-*")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=1800)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    n_rows = len(rows_in(tmp_path / "out"))
    assert n_rows % 5 == 0
    assert 0 < n_rows < 60
    assert f"{n_rows} of 60 recordings done" in output
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.endswith(".part")]


@pytest.mark.slow
def test_an_s3_server_gives_and_takes_what_a_folder_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto_server = pytest.importorskip("moto.server")
    boto3, _ = pytest.importorskip("boto3"), pytest.importorskip("s3fs")
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="archive")
        folder = clips(tmp_path / "audio", 5)
        for path in [*folder.iterdir(), EXAMPLE]:
            client.upload_file(str(path), "archive", f"calls/{path.name}")
        command = ("s3://archive/calls", "--output", "s3://archive/out", "--workers", "1", "--shard-files", "4")
        done = bulk(*command)
        assert done.returncode == 0, done.stderr
        assert bulk(*command).stdout == done.stdout
        rows = rows_in("s3://archive/out")
        names = sorted(path.name for path in [*folder.iterdir(), EXAMPLE])
        assert [row.path for row in rows] == [f"s3://archive/calls/{name}" for name in names]
        assert len(rows[-1].detections) == len(speechrnn.transcribe(EXAMPLE))
        assert all(len(row.etag) == 32 for row in rows)
    finally:
        server.stop()
