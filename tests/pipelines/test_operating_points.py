"""The pipelines that choose operating points and measure levels: each step on tables, and both on made material."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from pipelines import choose_operating_points as operating_points
from pipelines.benchmarks import robustness as levels
from pipelines.choose_operating_points import TARGETS, allocate_thresholds, tighten
from speechrnn.data.clips import Clip, Pack
from speechrnn.evaluation import streams as scoring
from speechrnn.evaluation.streams import StreamResult, spot_all
from speechrnn.evaluation.synthetic_streams import PRESETS, Material, Sound
from speechrnn.labels import Labels
from speechrnn.spec import OperatingPoint, Options
from tests.helpers import fake_recognizer, noise, silence, word

ERRORS = np.array([[0, 0, 1, 5], [0, 2, 4, 6]])
ALARMS = np.array([[9, 2, 0, 0], [3, 1, 0, 0]])


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(12, [0, 0]), (5, [1, 0]), (3, [1, 1]), (2, [1, 2]), (1, [2, 1]), (0, [2, 2])],
)
def test_alarms_are_allotted_where_they_save_most_errors(budget: int, expected: list[int]) -> None:
    places = allocate_thresholds(ERRORS, ALARMS, budget)
    cost = ERRORS[[0, 1], places].sum()
    assert ALARMS[[0, 1], places].sum() <= max(budget, 0)
    assert cost <= ERRORS[[0, 1], expected].sum()


def test_of_equally_good_thresholds_the_middle_is_taken() -> None:
    assert allocate_thresholds(np.array([[3, 1, 1, 1, 2]]), np.zeros((1, 5), dtype=np.int64), 0) == [2]


@pytest.mark.parametrize(("allowed", "expected"), [(0, [1, 0]), (1, [2, 0]), (2, [2, 1]), (9, [3, 3])])
def test_thresholds_are_raised_as_far_as_errors_allow(allowed: float, expected: list[int]) -> None:
    assert tighten(ERRORS, [0, 0], np.array([allowed, allowed])) == expected


def test_where_speech_shows_no_target_thresholds_rise_while_no_word_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(n_misses: int, n_false_alarms: int) -> SimpleNamespace:
        one = SimpleNamespace(n_spoken=40, n_hits=40 - n_misses, n_wrong=0, n_false_alarms=n_false_alarms)
        return SimpleNamespace(per_keyword={"yes": one})

    def sweep(heard: list[StreamResult], labels: Labels, options: Options, rule: str, levels: list[float]) -> list[Any]:
        if heard:  # the streams: from the 12th threshold on a word is missed for each false alarm less, later two more
            return [
                result(max(0, min(i - 11, 2)) + 2 * (i > 14), max(0, 2 - max(0, i - 11))) for i in range(len(levels))
            ]
        return [result(0, 1 if i < 1 else 0) for i in range(len(levels))]

    monkeypatch.setattr(operating_points, "sweep_thresholds", sweep)
    hour = StreamResult("", 3600.0, [], {})
    monkeypatch.setattr(operating_points.Recordings, "speech_hours", 1.0)
    recordings = operating_points.Recordings([hour], [])
    found = operating_points.candidates(recordings, Labels(("yes",)), Options())
    levels = [round(float(level), 3) for level in 1 / (1 + np.exp(-operating_points._LOGITS))]
    places = {name: levels.index(thresholds["yes"]) for name, thresholds in found.items()}
    assert places["balanced"] == 11  # none is missed there; 12 would miss one, with as few errors
    assert places["strict"] == 14  # 5 % of 40 words, and no more
    assert places["sensitive"] == 8  # the middle of those with fewest errors


def heard(*words: str) -> StreamResult:
    samples = np.concatenate([part for name in words for part in (silence(5), word(name))] + [silence(5)])
    found, duration_s, posteriors = spot_all([samples], fake_recognizer(), {"as set": Options()})
    return StreamResult("", duration_s, [], found, posteriors)


def test_of_equally_good_smoothings_the_longest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = scoring.score([], ("yes", "no"))
    monkeypatch.setattr(operating_points, "score_detector", lambda *_: nothing)
    monkeypatch.setattr(operating_points, "candidates", lambda *_: {name: {"yes": 0.9, "no": 0.8} for name in TARGETS})
    chosen = operating_points.choose(operating_points.Recordings([], []), Labels(keywords=("yes", "no")), Options())
    assert {one.options.smoothing_ms for one in chosen.values()} == {600}


def test_quiet_steps_can_be_left_out_of_speech() -> None:
    recording, labels = heard("yes", "unknown", "no", "yes"), fake_recognizer().info.spec.labels
    kept = operating_points.active_frames(recording, len(labels.keywords))
    assert len(kept.posteriors) < 0.8 * len(recording.posteriors)
    for smoothing_ms in (100, 300, 600):
        options = Options(smoothing_ms=smoothing_ms)
        counts = [scoring.score_detector([one], labels, options).n_false_alarms for one in (recording, kept)]
        assert counts == [3, 3]


def test_points_are_chosen_measured_and_read_back(made_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operating_points, "_SEEDS", (1,))
    monkeypatch.setattr(operating_points, "_SMOOTHINGS_MS", (300,))
    monkeypatch.setattr(operating_points, "_LOGITS", np.linspace(0, 4, 5))
    monkeypatch.setitem(PRESETS, "tensorflow", PRESETS["tensorflow"]._replace(duration_s=30.0))
    recognizer = fake_recognizer()
    recordings = operating_points.listen(recognizer, made_pack, {"as set": Options()})
    assert recordings.speech_hours > 0
    chosen = operating_points.choose(recordings, recognizer.info.spec.labels, Options())
    measured = operating_points.measure(recognizer, made_pack, {name: one.options for name, one in chosen.items()})
    assert len(operating_points.to_markdown(measured).splitlines()) == 2 + len(TARGETS)
    text = operating_points.to_toml({name: operating_points.to_point(one) for name, one in measured.items()})
    points = msgspec.convert(tomllib.loads(text)["operating_points"], dict[str, OperatingPoint])
    assert points.keys() == TARGETS.keys()
    for keyword in ("yes", "no"):
        thresholds = [points[name].thresholds[keyword] for name in ("sensitive", "balanced", "strict")]
        assert thresholds == sorted(thresholds)
    for name, point in points.items():
        assert point.thresholds.keys() == {"yes", "no"}
        assert point.applied_to(Options()).smoothing_ms == 300
        assert point.misses == pytest.approx(measured[name].in_streams.miss_rate, abs=1e-4)


def test_rates_are_of_speech_that_was_never_trained_on_where_there_is_any(made_pack: Pack) -> None:
    def kept(clip: Clip) -> Clip:
        is_kept = clip.kind == "speech" and clip.path.endswith("0.wav")
        source = msgspec.structs.replace(clip.source, split="validation" if is_kept else clip.split)
        return msgspec.structs.replace(clip, source=source)

    pack = made_pack._replace(clips=[kept(clip) for clip in made_pack.clips])
    n_kept = sum(clip.n_samples for clip in pack.clips if clip.kind == "speech" and clip.split == "validation")
    (measured,) = operating_points.measure(fake_recognizer(), pack, {"balanced": Options()}).values()
    assert measured.in_unheard is not None
    assert measured.in_unheard.hours == pytest.approx(n_kept / 16000 / 3600)
    assert measured.in_speech.hours > measured.in_unheard.hours
    assert operating_points.to_point(measured).measured_hours == round(measured.in_unheard.hours, 2)


def test_every_level_and_ratio_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "LEVELS_DB", (-12.0, -45.0))
    monkeypatch.setattr(levels, "SNRS_DB", (60.0,))
    sounds = {name: [Sound(name, partial(word, name))] for name in ("yes", "no", "unknown")}
    material = Material({name: sounds[name] for name in ("yes", "no")}, sounds["unknown"], [], [noise(80000)])
    conditions = levels.measure_all(fake_recognizer(), material, 0.5, (1, 2))
    assert [(c.what, c.db) for c in conditions] == [("level", -12), ("level", -45), ("speech over noise", 60)]
    assert [c.result.n_spoken for c in conditions] == [14, 14, 14]
    assert (conditions[1].result.miss_rate, conditions[2].result.miss_rate) == (1, 0)  # it knows words by level
    assert len(levels.to_markdown(conditions).splitlines()) == 5
    levels.draw(conditions, tmp_path / "levels.png")
    assert (tmp_path / "levels.png").read_bytes().startswith(b"\x89PNG")
