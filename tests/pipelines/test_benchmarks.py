"""The benchmarks and the ablation: what they compute and print, without the hours that they take."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from pipelines.benchmarks import attacks, bulk, load, ratios, speed
from pipelines.studies import ablation
from speechrnn.config import load_experiment
from tests.conftest import CONFIGS
from tests.helpers import PATIENCE_S, fake_recognizer, wait_until
from tests.serving.server import EXAMPLES, Serving, counters


def test_the_made_pack_is_what_the_configuration_trains_on() -> None:
    pack = speed.made_pack(load_experiment(CONFIGS / "smoke.toml"))
    commands = [clip for clip in pack.clips if clip.kind == "command"]
    assert {clip.word: sum(one.word == clip.word for one in commands) for clip in commands} == {
        "yes": 40,
        "no": 40,
        "other": 40,
    }
    assert sum(clip.split == "training" for clip in commands) == 3 * 36
    assert [clip.n_samples for clip in pack.clips if clip.kind in ("noise", "room")] == [960000, 16000, 16000, 16000]
    assert [clip.offset for clip in pack.clips] == [0, *np.cumsum([clip.n_samples for clip in pack.clips])[:-1]]
    assert len(pack.samples) == sum(clip.n_samples for clip in pack.clips)


def test_the_mean_leaves_two_calls_out() -> None:
    calls: list[int] = []
    assert speed._mean_s(lambda: calls.append(1), 3) < 10
    assert len(calls) == 5


def test_figures_of_speed_become_a_table() -> None:
    row = ratios.Row("`classify`", "0.5 s", "torch: 2.0 s", "4.0 times faster", "under 0.7 s")
    assert ratios.to_table([row]).to_markdown() == [
        "| what | measured | against | ratio | aim |",
        "|---|---|---|---|---|",
        "| `classify` | 0.5 s | torch: 2.0 s | 4.0 times faster | under 0.7 s |",
    ]


def test_figures_of_load_become_a_table() -> None:
    row = load.Row(40, 2, 399.6, 30.2, 99.7, 120.4, 76, 76, 1.254, 141.6)
    assert load.to_table([row]).to_markdown()[2] == (
        "| 40 | 2 | 400 | 30 ms | 100 ms | 120 ms | 76 of 76 | 1.25 cores | 142 MB |"
    )


def test_the_usage_of_a_process_is_in_seconds_and_megabytes() -> None:
    cpu_s, memory_mb = load.usage(os.getpid())
    times = os.times()
    assert cpu_s == pytest.approx(times.user + times.system, abs=0.5)
    assert 20 < memory_mb < 100_000


def test_clients_are_counted_with_their_decisions_words_and_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_WARM_UP_S", 0.15)
    monkeypatch.setattr(load, "_NEWCOMERS_PER_S", 100)
    n_clients = 0

    async def answer(websocket: ServerConnection) -> None:
        """Refuse the third client, send the fourth away; give the others a decision each 100 ms, the second a word."""
        nonlocal n_clients
        n_clients += 1
        number = n_clients
        assert json.loads(await websocket.recv()) == {"type": "start", "rate_hz": 48000}
        if number == 3:
            await websocket.send('{"type": "error"}')
            return
        await websocket.send('{"type": "started", "detections": []}')
        if number == 4:
            await websocket.send('{"type": "error", "message": "too slow"}')
            await websocket.close(1013)
            return
        for n_blocks in (2, 4):
            for _ in range(2):
                assert await websocket.recv() == bytes(4800)
            found = [{"label": "yes"}] if n_blocks == 4 else []
            decision = {"type": "decision", "time_s": n_blocks / 20, "detections": found}
            await websocket.send(json.dumps(decision))
        assert await websocket.recv() == '{"type": "finish"}'

    async def measure() -> load.Row:
        async with serve(answer, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            return await load.measure(load.Server(port, os.getpid()), 4, [bytes(4800)], 0.2, 1)

    row = asyncio.run(measure())
    assert (row.n_clients, row.n_refused, row.n_words, row.n_expected) == (4, 2, 2, 2)
    assert row.decisions_per_s == pytest.approx(2 / 0.05)
    assert 0 <= row.p50_ms <= row.p99_ms <= row.max_ms < 1000 * PATIENCE_S


def test_figures_of_attacks_become_a_table() -> None:
    row = attacks.Row("empty messages", 7, 8, 6.6, 31.5, 115.4, 8)
    assert attacks.to_table([row]).to_markdown()[2] == "| empty messages | 7 of 8 | 7 ms | 32 ms | 115 MB | 8 |"


def test_who_is_refused_or_ended_with_an_error_counts_as_refused() -> None:
    metrics = """
        # TYPE speechrnn_refusals_total counter
        speechrnn_refusals_total{status="403"} 3.0
        speechrnn_refusals_total{status="404"} 4.0
        # TYPE speechrnn_ends_total counter
        speechrnn_ends_total{how="finished"} 10.0
        speechrnn_ends_total{how="left"} 20.0
        speechrnn_ends_total{how="malformed"} 5.0
    """
    assert attacks.count_refused(metrics.replace("        ", "")) == 12


REACTIONS = {
    "empty messages": 'speechrnn_ends_total{how="malformed"}',
    "empty fragments": 'speechrnn_ends_total{how="malformed"}',
    "text flood": 'speechrnn_ends_total{how="malformed"}',
    "ping flood": 'speechrnn_ends_total{how="left"}',
    "random frames": 'speechrnn_ends_total{how="malformed"}',
    "start and finish": 'speechrnn_ends_total{how="finished"}',
    "audio too fast, answers never read": "speechrnn_decisions_total",
    "half-open conversations": 'speechrnn_ends_total{how="left"}',
    "refused handshakes": 'speechrnn_refusals_total{status="403"}',
    "HTTP flood": 'speechrnn_refusals_total{status="404"}',
}


def reacts(running: Serving, name: str, seconds: float) -> bool:
    """Whether a server has been reached by an attack that lasts so long."""
    asyncio.run(attacks.attack(name, running.port, seconds))
    with suppress(AssertionError):
        wait_until(lambda: counters(running).get(REACTIONS[name], 0) > 0, seconds)
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", REACTIONS)
def test_an_attack_is_what_it_is_called_and_leaves_a_server_that_answers(name: str) -> None:
    with Serving(fake_recognizer()) as running:
        assert any(reacts(running, name, seconds) for seconds in (0.3, 1, 3, 10, 30))  # as long as the machine needs
        wait_until(lambda: running.health()["clients"] == 0)


@pytest.mark.slow
def test_the_words_of_a_client_that_nobody_disturbs_are_right() -> None:
    row = attacks.measure("none", load.blocks_of(EXAMPLES / "commands.wav"), 2.5)
    assert (row.n_right, row.n_expected, row.n_refused) == (1, 1, 0)
    assert 0 < row.p50_ms <= row.p99_ms
    assert 20 < row.memory_mb < 1000


@pytest.mark.parametrize("name", ablation.ROWS)
def test_every_row_of_the_ablation_changes_the_shipped_recipe(name: str) -> None:
    whole, changed = (
        load_experiment(CONFIGS / "commands10.toml", list(changes)) for changes in ((), ablation.ROWS[name])
    )
    assert (changed == whole) == (name == "the whole recipe")


def test_a_row_of_the_ablation_is_in_per_cent(tmp_path: Path) -> None:
    scores = {
        "validation_balanced_accuracy": 0.9512,
        "validation yes": 0.96,
        "validation no": 0.98,
        "validation unknown": 0.9,
        "validation silence": 1.0,
    }
    assert ablation.row("whole", scores, ("yes", "no")) == ("whole", "95.1", "97.0", "90.0", "-", "100.0")


@pytest.mark.slow
def test_the_bulk_benchmark_measures_what_it_says(tmp_path: Path) -> None:
    parts = ["speed", "ledger", "memory", "listing", "network"]
    rows = bulk.measured(parts, tmp_path, n_files=1, n_entries=2000, hours=0.01)
    assert [row.what.split(",")[0] for row in rows] == [
        "`bulk`",
        "one core",
        "listing of 2000 entries",
        "to half",
        "resumed to the end",
        "--status",
        "memory of a worker",
        "listing of 20000 entries of a manifest",
        "a decision",
        "a decision",
        "a decision",
        "contexts in a batch",
    ]
    assert rows[3].what == "to half, then kill -9: 1 shards done"
    assert rows[4].ratio == "0 rows lost, 0 twice"
    assert 50 < int(rows[6].measured.removesuffix(" MB")) < 400
