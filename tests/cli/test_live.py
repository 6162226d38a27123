"""The verbs that listen: what `doctor` finds, and what `listen` leaves alone."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from speechrnn.audio import Samples
from speechrnn.cli.doctor import check_speed
from speechrnn.recognizer import Recognizer
from tests.helpers import EXAMPLE, FAKE_INFO, assert_one_line, fake_recognizer, run


@pytest.mark.parametrize(("delay_s", "is_ok"), [(0.0, True), (0.06, False)])
def test_doctor_tells_a_machine_that_is_too_slow(delay_s: float, is_ok: bool) -> None:
    quick = fake_recognizer()

    def logits(samples: Samples) -> Samples:
        time.sleep(delay_s)
        return quick.logits(samples)

    finding = check_speed(Recognizer(FAKE_INFO, logits), "commands8")
    assert (finding.ok, FAKE_INFO.options.step_ms) == (is_ok, 100)
    assert "one every 100 ms" in finding.seen


def test_listen_does_not_record_over_its_source(tmp_path: Path) -> None:
    path = tmp_path / "audio.wav"
    shutil.copy(EXAMPLE, path)
    assert_one_line(run("listen", "--source", path, "--save", path), str(path), "give another name")
    assert path.read_bytes() == EXAMPLE.read_bytes()
