"""Ray as the engine: the same rows, also when a worker of its is killed. Ray is started here, on two CPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from speechrnn.bulk.run import WHOLE, left_tasks
from speechrnn.bulk.store import open_store
from speechrnn.bulk.worker import run_shard
from tests.bulk.jobs import SETTINGS, begin, clips, content, rows_in
from tests.helpers import COMMAND, EXAMPLE, assert_one_line, run

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def command(folder: Path, place: Path) -> list[str]:
    arguments = [str(folder), str(EXAMPLE), "--output", str(place), "--engine", "ray", "--workers", "2"]
    return [*COMMAND, "bulk", *arguments, "--shard-files", "5"]


def expected(folder: Path, place: Path) -> list[object]:
    job = begin(place, [folder, EXAMPLE], shard_files=100)
    for task in left_tasks(open_store(str(place)), job, WHOLE):
        run_shard(str(place), task, SETTINGS)
    return list(content(rows_in(place)))


def test_ray_gives_the_rows_of_one_process(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 12)
    done = subprocess.run(command(folder, tmp_path / "out"), capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("13 of 13 recordings done, 0 failed")
    assert content(rows_in(tmp_path / "out")) == expected(folder, tmp_path / "clean")


def test_a_worker_of_ray_that_is_killed_costs_its_shard_alone(tmp_path: Path) -> None:
    folder = clips(tmp_path / "audio", 150)
    killed: set[int] = set()
    with subprocess.Popen(command(folder, tmp_path / "out"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            at_work = _workers_of(process.pid) - killed if len(killed) < 2 else set[int]()
            for worker_id in sorted(at_work)[:1]:
                os.kill(worker_id, signal.SIGKILL)
                killed.add(worker_id)
            time.sleep(0.3)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len(killed) == 2
    assert [row.index for row in rows_in(tmp_path / "out")] == [*range(151)]


def _workers_of(driver: int) -> set[int]:
    """The processes below a driver in which Ray runs a shard now."""
    listed = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [
        (int(pid), int(parent), args) for pid, parent, args in (line.split(None, 2) for line in listed.splitlines())
    ]
    family = {driver}
    for _ in range(5):
        family |= {pid for pid, parent, _ in rows if parent in family}
    return {pid for pid, _, args in rows if pid in family and "ray::run_shard" in args}


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    clips(tmp_path / "audio", 1)
    arguments = ("--output", tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1")
    run("bulk", tmp_path / "audio", *arguments)
    again = run("bulk", tmp_path / "audio", *arguments)  # without the line on what was listed
    assert_one_line(again, "127.0.0.1:1: no cluster answers there (")
    assert_one_line(run("bulk", tmp_path / "audio", "--output", tmp_path / "out", "--address", "auto"), "--engine ray")
