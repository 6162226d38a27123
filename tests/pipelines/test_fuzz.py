"""Malformed inputs, the same every time: each loads, or is refused with one line."""

from __future__ import annotations

import pytest

from pipelines.benchmarks.fuzz import KINDS, count


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "n"), [("audio", 700), ("ONNX models", 180), ("checkpoints", 400), ("configurations", 3000)]
)
def test_malformed_inputs_load_or_are_refused_with_one_line(kind: str, n: int) -> None:
    found = count(KINDS[kind], n, seed=1)
    assert set(found) == {"loaded", "refused"}
    assert found["refused"] > n / 10
    assert found["loaded"] > n / 100
