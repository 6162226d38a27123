"""Calibration: each step on tables, and the whole on made material, written into model files."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from speechrnn.cli.describe import describe_model
from speechrnn.cli.main import cli
from speechrnn.config import Calibration
from speechrnn.data.clips import Pack
from speechrnn.errors import ConfigError, DataError, ModelFileError
from speechrnn.evaluation import operating_points
from speechrnn.evaluation import streams as scoring
from speechrnn.evaluation.operating_points import TARGETS, Measured, allocate_thresholds, tighten
from speechrnn.evaluation.streams import StreamResult, spot_all
from speechrnn.evaluation.synthetic_streams import PRESETS, Material, Sound, of_pack, speech_of
from speechrnn.labels import Labels
from speechrnn.model.network import RecognizerNet, save_checkpoint
from speechrnn.recognizer import load, save_info
from speechrnn.spec import Classifier, Conv, ModelInfo, Options, Spec
from tests.helpers import SmallModel, assert_one_line, fake_recognizer, noise, silence, word

POINTS = ("strict", "balanced", "sensitive")
ERRORS = np.array([[0, 0, 1, 5], [0, 2, 4, 6]])
ALARMS = np.array([[9, 2, 0, 0], [3, 1, 0, 0]])


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(12, [0, 0]), (5, [1, 0]), (3, [1, 1]), (2, [1, 2]), (1, [2, 1]), (0, [2, 2])],
)
def test_alarms_are_allocated_where_they_save_most_errors(budget: int, expected: list[int]) -> None:
    places = allocate_thresholds(ERRORS, ALARMS, budget)
    cost = ERRORS[[0, 1], places].sum()
    assert ALARMS[[0, 1], places].sum() <= max(budget, 0)
    assert cost <= ERRORS[[0, 1], expected].sum()


def test_of_equally_good_thresholds_the_middle_is_taken() -> None:
    assert allocate_thresholds(np.array([[3, 1, 1, 1, 2]]), np.zeros((1, 5), dtype=np.int64), 0) == [2]


@pytest.mark.parametrize(("allowed", "expected"), [(0, [1, 0]), (1, [2, 0]), (2, [2, 1]), (9, [3, 3])])
def test_thresholds_are_tightened_as_far_as_errors_allow(allowed: float, expected: list[int]) -> None:
    assert tighten(ERRORS, [0, 0], np.array([allowed, allowed])) == expected


def test_where_speech_shows_no_target_thresholds_rise_while_no_word_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(n_misses: int, n_false_alarms: int) -> SimpleNamespace:
        one = SimpleNamespace(n_spoken=40, n_hits=40 - n_misses, n_wrong=0, n_false_alarms=n_false_alarms)
        return SimpleNamespace(per_keyword={"yes": one})

    def sweep(
        recordings: list[StreamResult], labels: Labels, options: Options, rule: str, levels: list[float]
    ) -> list[Any]:
        if recordings:  # the streams: from the 12th threshold on a word is missed for each false alarm less, later two
            return [
                result(max(0, min(i - 11, 2)) + 2 * (i > 14), max(0, 2 - max(0, i - 11))) for i in range(len(levels))
            ]
        return [result(0, 1 if i < 1 else 0) for i in range(len(levels))]

    monkeypatch.setattr(operating_points, "sweep_thresholds", sweep)
    hour = StreamResult("", 3600.0, [], {})
    monkeypatch.setattr(operating_points.Recordings, "speech_hours", 1.0)
    recordings = operating_points.Recordings([hour], [])
    found = operating_points.candidates(recordings, Labels(("yes",)), Options(), TARGETS)
    levels = [round(float(level), 3) for level in 1 / (1 + np.exp(-operating_points._LOGITS))]
    places = {name: levels.index(thresholds["yes"]) for name, thresholds in found.items()}
    assert places["balanced"] == 11  # none is missed there; 12 would miss one, with as few errors
    assert places["strict"] == 14  # 5 % of 40 words, and no more
    assert places["sensitive"] == 6  # the middle of those that miss none, whatever the false alarms in streams


def test_a_target_that_allows_few_alarms_places_one_threshold_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    keywords = ("yes", "no")

    def sweep(
        recordings: list[StreamResult], labels: Labels, options: Options, rule: str, levels: list[float]
    ) -> list[Any]:
        def at(i: int) -> SimpleNamespace:  # "yes" alarms up to the 20th threshold, "no" up to the 5th
            places = zip(keywords, (20, 5), strict=True)
            found = {
                word: SimpleNamespace(
                    n_spoken=40,
                    n_hits=40 if recordings[0].audio == "speech" else 40 - i,
                    n_wrong=0,
                    n_false_alarms=(3 if i < last else 0) if recordings[0].audio == "speech" else 0,
                )
                for word, last in places
            }
            return SimpleNamespace(per_keyword=found)

        return [at(i) for i in range(len(levels))]

    monkeypatch.setattr(operating_points, "sweep_thresholds", sweep)
    recordings = operating_points.Recordings(
        [StreamResult("streams", 60.0, [], {})], [StreamResult("speech", 3600.0, [], {})]
    )
    targets = Calibration(strict=1.0, balanced=1.5, sensitive=4.0)  # 1, 1.5 and 4 alarms, for two keywords
    found = operating_points.candidates(recordings, Labels(keywords), Options(), targets)
    levels = [round(float(level), 3) for level in 1 / (1 + np.exp(-operating_points._LOGITS))]
    places = {name: [levels.index(thresholds[word]) for word in keywords] for name, thresholds in found.items()}
    assert places == {"sensitive": [0, 5], "balanced": [20, 20], "strict": [20, 20]}


def recording_of(*words: str) -> StreamResult:
    samples = np.concatenate([part for name in words for part in (silence(5), word(name))] + [silence(5)])
    found, duration_s, posteriors = spot_all([samples], fake_recognizer(), {"as set": Options()})
    return StreamResult("", duration_s, [], found, posteriors)


def test_of_equally_good_smoothings_the_longest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = scoring.score([], ("yes", "no"))
    monkeypatch.setattr(operating_points, "score_detector", lambda *_: nothing)
    monkeypatch.setattr(operating_points, "candidates", lambda *_: {name: {"yes": 0.9, "no": 0.8} for name in POINTS})
    chosen = operating_points.choose(
        operating_points.Recordings([], []), Labels(keywords=("yes", "no")), Options(), TARGETS
    )
    assert {one.options.smoothing_ms for one in chosen.values()} == {600}


def test_quiet_steps_can_be_left_out_of_speech() -> None:
    recording, labels = recording_of("yes", "unknown", "no", "yes"), fake_recognizer().info.spec.labels
    kept = operating_points.active_frames(recording, len(labels.keywords))
    assert len(kept.posteriors) < 0.8 * len(recording.posteriors)
    for smoothing_ms in (100, 300, 600):
        options = Options(smoothing_ms=smoothing_ms)
        counts = [scoring.score_detector([one], labels, options).n_false_alarms for one in (recording, kept)]
        assert counts == [3, 3]


def test_decisions_that_come_late_cost_as_errors_do() -> None:
    nothing = scoring.score([], ("yes", "no"))
    words = msgspec.structs.replace(nothing, n_misses=2, n_wrong=1, n_false_alarms=1)
    speech = msgspec.structs.replace(nothing, n_false_alarms=3)
    measured = [
        Measured(Options(), msgspec.structs.replace(words, delay_p95_ms=delay_ms), speech)
        for delay_ms in (100.0, 400.0, 450.0)
    ]
    assert [one.cost("balanced") for one in measured] == [7, 7, 12]
    assert [one.cost("sensitive") for one in measured] == [3, 3, 8]  # its false alarms are what was asked for


def test_the_steps_near_a_keyword_are_kept_for_the_longest_smoothing() -> None:
    posteriors = np.zeros((101, 3), dtype=np.float32)
    posteriors[50, 1] = 0.06
    posteriors[:, 2] = np.arange(101)
    kept = operating_points.active_frames(StreamResult("", 10.1, [], {}, posteriors), n_keywords=2)
    assert kept.posteriors[:, 2].tolist() == list(range(35, 66))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and short things to try."""
    monkeypatch.setattr(operating_points, "_SEEDS", (1,))
    monkeypatch.setattr(operating_points, "_SMOOTHINGS_MS", (300,))
    monkeypatch.setattr(operating_points, "_LOGITS", np.linspace(0, 4, 5))
    monkeypatch.setitem(PRESETS, "tensorflow", PRESETS["tensorflow"]._replace(duration_s=30.0))
    monkeypatch.setitem(PRESETS, "clean", PRESETS["clean"]._replace(duration_s=30.0))


@pytest.mark.usefixtures("quick")
def test_points_are_chosen_and_measured(made_pack: Pack) -> None:
    recognizer = fake_recognizer()
    material, speech = of_pack(made_pack, ("yes", "no")), speech_of(made_pack, "training")
    measured = operating_points.calibrate(recognizer, material, speech)
    info = operating_points.calibrated(recognizer.info, measured)
    points = info.operating_points
    assert list(points) == list(measured) == ["sensitive", "balanced", "strict"][::-1]
    thresholds = [points[name].threshold for name in POINTS[::-1]]
    assert thresholds == sorted(thresholds)
    for name, point in points.items():
        assert not point.thresholds  # so little speech places one threshold for both
        assert point.applied_to(Options()).smoothing_ms == 300
        assert point.misses == pytest.approx(measured[name].in_streams.miss_rate, abs=1e-4)
        assert point.n_keywords == 7
        assert point.n_false_alarms == measured[name].in_speech.n_false_alarms
    assert info.options == info.options_at("balanced")
    assert [row[0] for row in operating_points.to_table(measured, TARGETS).rows] == list(points)


@pytest.mark.usefixtures("quick")
def test_ends_are_reported_where_words_end_whatever_the_lag_was_before() -> None:
    sounds = {name: [Sound(name, partial(word, name))] for name in ("yes", "no", "unknown")}
    material = Material({name: sounds[name] for name in ("yes", "no")}, sounds["unknown"], [], [])
    for lag_ms in (0, 200):
        info = msgspec.structs.replace(fake_recognizer().info, options=Options(lag_ms=lag_ms))
        measured = operating_points.calibrate(fake_recognizer(info), material, [Sound("", partial(silence, 60.0))])
        assert abs(measured["balanced"].in_streams.end_error_p50_ms) < 50  # half a step
        chosen = operating_points.calibrated(info, measured).options.lag_ms
        assert -300 < chosen < -100  # it hears a word of 0.3 s after a tenth of a second


def test_without_words_that_have_times_the_lag_stays() -> None:
    assert operating_points.typical_lag_ms(Options(lag_ms=-90), scoring.score([], ("yes", "no"))) == -90


def test_what_cannot_be_calibrated_on_is_one_line(made_pack: Pack) -> None:
    material, speech = of_pack(made_pack, ("yes", "no")), speech_of(made_pack, "training")
    without_no = material._replace(keywords={"yes": material.keywords["yes"]})
    cases = [((without_no, speech), "clips of every keyword, got none of no"), ((material, []), "running speech")]
    for given, part in cases:
        with pytest.raises(DataError) as caught:
            operating_points.calibrate(fake_recognizer(), *given)
        assert_one_line(caught.value, part)


def test_a_model_of_another_rate_is_not_calibrated(small_model: SmallModel) -> None:
    with pytest.raises(DataError) as caught:
        operating_points.calibrate(load(small_model.onnx), Material({}, [], [], []), [])
    assert_one_line(caught.value, "expected a model of 16000 Hz, got one of 8000")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained network for yes and no, as a checkpoint."""
    classifier = Classifier(hidden_size=8, n_layers=1, conv=Conv(8, kernel_frames=25, stride_frames=25))
    spec = Spec(labels=Labels(("yes", "no")), classifier=classifier)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "a.pt", RecognizerNet(spec).eval(), ModelInfo(spec=spec, options=Options(lag_ms=-90)))
    return tmp_path / "a.pt"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("output", [None, "b.pt"])
@pytest.mark.slow
def test_the_command_writes_operating_points_into_the_model(
    output: str | None, checkpoint: Path, made_dir: Path
) -> None:
    words = made_dir / "SpeechCommands" / "speech_commands_v0.02"
    target = checkpoint if output is None else checkpoint.with_name(output)
    arguments = ["calibrate", str(checkpoint), "--words", str(words), "--speech", str(made_dir / "speech" / "training")]
    arguments += ["--target", "1", "20", "1000", *(["--output", str(target)] if output else [])]
    before = load(checkpoint)
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    after = load(target)
    assert after.info.operating_points.keys() == set(POINTS)
    assert after.info.options == after.info.options_at("balanced")
    assert after.info.options.lag_ms == -90
    context = noise(16000)[None]
    np.testing.assert_array_equal(after.logits(context), before.logits(context))
    assert output is None or load(checkpoint).info == before.info
    assert [line.split()[:2] for line in result.output.splitlines() if line.split()[0] in POINTS] == [
        ["strict", "1"],
        ["balanced", "20"],
        ["sensitive", "1000"],
    ]
    assert "95 % upper bound" in describe_model(target)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["commands10"], "commands10: is shipped with the program; give --output FILE.onnx"),
        (["MODEL", "--output", "b.onnx"], "b.onnx: expected a name that ends in .pt, as a.pt does"),
        (
            ["MODEL", "--target", "5", "1", "0.1"],
            "--target: expected 0 < strict <= balanced <= sensitive, got 5, 1, 0.1",
        ),
    ],
)
def test_where_and_for_what_to_calibrate_is_checked_before_the_work(
    arguments: list[str], part: str, checkpoint: Path
) -> None:
    arguments = [str(checkpoint) if argument == "MODEL" else argument for argument in arguments]
    with pytest.raises(ConfigError) as caught:
        cli.main(["calibrate", *arguments, "--words", "none", "--speech", "none"], standalone_mode=False)
    assert_one_line(caught.value, part)


@pytest.mark.parametrize("kind", ["onnx", "checkpoint"])
def test_other_information_leaves_the_network_as_it_is(kind: str, small_model: SmallModel, tmp_path: Path) -> None:
    source = getattr(small_model, kind)
    target = tmp_path / f"new{source.suffix}"
    info = msgspec.structs.replace(small_model.info, options=Options(threshold=0.9))
    save_info(source, target, info)
    after = load(target)
    assert after.info == info
    np.testing.assert_array_equal(after.logits(small_model.contexts), load(source).logits(small_model.contexts))
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("kind", "extra"), [("onnx", "teach"), ("checkpoint", "train")])
def test_a_missing_library_is_named_with_its_extra(
    kind: str, extra: str, small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx" if kind == "onnx" else "torch", None)
    monkeypatch.delitem(sys.modules, "speechrnn.model.network")
    with pytest.raises(ModelFileError) as caught:
        save_info(getattr(small_model, kind), tmp_path / "new", small_model.info)
    assert_one_line(caught.value, "is not installed", f"speechrnn[{extra}]")
