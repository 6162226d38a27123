"""Audio in blocks of any size gives the same contexts, posteriors and detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.detector import Detection
from speechrnn.errors import AudioError, ConfigError
from speechrnn.recognizer import Recognizer, load
from speechrnn.spec import ModelInfo, Options
from speechrnn.spotter import KeywordSpotter, posteriors
from tests.helpers import (
    FAKE_INFO,
    RATE_HZ,
    SmallModel,
    assert_one_line,
    cut,
    cuts,
    every,
    fake_recognizer,
    noise,
    silence,
    word,
)

CONTEXT_SAMPLES = 16000
OPTIONS = Options(step_ms=100, smoothing_ms=300, threshold=0.6, refractory_ms=500, word_ms=300)
STEP_SAMPLES = 1600
SPEECH = np.concatenate(
    [
        silence(0.73),
        word("yes"),
        silence(1.71),
        word("no"),
        word("unknown"),
        silence(2.0),
        word("yes"),
        word("no"),
        0.02 * noise(5 * RATE_HZ),
        word("no"),
    ]
)


def found_in(blocks: Sequence[Samples], recognizer: Recognizer | None = None) -> list[Detection]:
    """All detections of a stream, its end included."""
    spotter = KeywordSpotter(recognizer or fake_recognizer(), OPTIONS)
    return [found for block in blocks for found in spotter.push(block)] + spotter.finish()


def rows_of(blocks: Sequence[Samples], recognizer: Recognizer | None = None) -> NDArray[np.float32]:
    """The posteriors [n, C] of a stream."""
    return np.array(list(posteriors(recognizer or fake_recognizer(), blocks)), dtype=np.float32).reshape(-1, 4)


def contexts_of(samples: Samples, n_silent: int = 0) -> Samples:
    """The contexts [n, T] that a spotter should look at: one per step, with silence before the stream."""
    padded = np.concatenate([np.zeros(CONTEXT_SAMPLES, np.float32), samples, np.zeros(n_silent, np.float32)])
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT_SAMPLES)[STEP_SAMPLES::STEP_SAMPLES]


def test_the_words_of_a_stream_are_found_where_they_are() -> None:
    found = found_in([SPEECH])
    assert [detection.label for detection in found] == ["yes", "no", "yes", "no", "no"]
    ends_s = [1.03, 3.04, 5.64, 5.94, len(SPEECH) / RATE_HZ]
    assert [detection.end_s for detection in found] == pytest.approx(ends_s, abs=0.3)


@given(places=cuts(len(SPEECH)))
def test_any_cutting_gives_the_contexts_and_detections_of_one_push(places: list[int]) -> None:
    seen_cut: list[Samples] = []
    seen_whole: list[Samples] = []
    found_cut = found_in(cut(SPEECH, places), fake_recognizer(seen=seen_cut))
    found_whole = found_in([SPEECH], fake_recognizer(seen=seen_whole))
    np.testing.assert_array_equal(seen_cut, seen_whole)
    assert found_cut == found_whole


def test_posteriors_are_those_of_the_plain_contexts() -> None:
    seen: list[Samples] = []
    rows_of([SPEECH], fake_recognizer(seen=seen))
    np.testing.assert_array_equal(seen, contexts_of(SPEECH)[: len(SPEECH) // STEP_SAMPLES])


def test_until_a_detection_push_looks_at_the_plain_contexts_and_then_only_at_what_follows() -> None:
    seen: list[Samples] = []
    samples = np.concatenate([0.02 * noise(RATE_HZ), word("yes"), 0.02 * noise(2 * RATE_HZ)])
    (found,) = KeywordSpotter(fake_recognizer(seen=seen), OPTIONS).push(samples)
    contexts = contexts_of(samples)
    n_plain = round(found.decided_s * RATE_HZ) // STEP_SAMPLES
    np.testing.assert_array_equal(seen[:n_plain], contexts[:n_plain])
    for context, plain, n_new in zip(seen[n_plain:], contexts[n_plain:], range(-100, 900, 100), strict=False):
        kept = max(0, n_new) * RATE_HZ // 1000
        assert not context[: CONTEXT_SAMPLES - kept].any()
        np.testing.assert_array_equal(context[CONTEXT_SAMPLES - kept :], plain[CONTEXT_SAMPLES - kept :])


def test_contexts_and_decide_are_the_two_halves_of_push() -> None:
    seen: list[Samples] = []
    recognizer = fake_recognizer(seen=seen)
    spotter, found = KeywordSpotter(recognizer, OPTIONS), []
    for n, context in enumerate(spotter.contexts(SPEECH), 1):
        assert spotter.decided_s == pytest.approx(n * STEP_SAMPLES / RATE_HZ)
        found += spotter.decide(recognizer.posteriors(context[None])[0])
    seen_by_push: list[Samples] = []
    whole = KeywordSpotter(fake_recognizer(seen=seen_by_push), OPTIONS)
    assert found == whole.push(SPEECH) != []
    np.testing.assert_array_equal(seen, seen_by_push)
    assert spotter.finish() == whole.finish()


def go_go() -> Samples:
    return np.concatenate([silence(0.5), word("yes"), silence(0.5), word("yes"), silence(0.5)])


def test_contexts_that_are_taken_before_the_decision_on_the_last_are_refused() -> None:
    spotter = KeywordSpotter(fake_recognizer(), OPTIONS)
    with pytest.raises(RuntimeError, match="decision on the last context first"):
        list(spotter.contexts(go_go()))
    with pytest.raises(RuntimeError, match="decision on the last context first"):
        spotter.push(go_go())
    spotter.reset()
    assert len(spotter.push(go_go())) == 2


def test_one_decision_belongs_to_each_context() -> None:
    recognizer = fake_recognizer()
    spotter = KeywordSpotter(recognizer, OPTIONS)
    row = recognizer.posteriors(silence(1)[None])[0]
    with pytest.raises(RuntimeError, match="expected a context"):
        spotter.decide(row)
    assert len(list(spotter.contexts(silence(0.1)))) == 1
    spotter.decide(row)
    with pytest.raises(RuntimeError, match="expected a context"):
        spotter.decide(row)


def test_contexts_that_were_not_asked_for_come_with_the_next_samples() -> None:
    recognizer = fake_recognizer()
    spotter, found = KeywordSpotter(recognizer, OPTIONS), []
    for block in every(16000, SPEECH):
        context = next(spotter.contexts(block))
        found += spotter.decide(recognizer.posteriors(context[None])[0])
    assert spotter.position_s == len(SPEECH) / RATE_HZ
    assert found + spotter.push(np.zeros(0, dtype=np.float32)) + spotter.finish() == found_in([SPEECH])


def test_a_model_that_is_interrupted_costs_one_decision_and_no_more() -> None:
    recognizer = fake_recognizer()
    spotter = KeywordSpotter(recognizer, OPTIONS)
    spotter.push(silence(1))
    spotter.recognizer = Recognizer(FAKE_INFO, lambda contexts: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        spotter.push(go_go())
    spotter.recognizer = recognizer
    assert [found.label for found in spotter.finish()] == ["yes", "yes"]


def test_posteriors_beside_a_spotter_change_nothing_in_it() -> None:
    recognizer = fake_recognizer()
    spotter, found = KeywordSpotter(recognizer, OPTIONS), []
    for block in every(1600, SPEECH):
        found += spotter.push(block)
        rows_of([block], recognizer)
    assert found + spotter.finish() == found_in([SPEECH])


@pytest.mark.parametrize("block_samples", [1000, 1600, 5000])
def test_a_step_holds_what_became_of_its_block(block_samples: int) -> None:
    rows = rows_of([silence(0.5)])
    spotter = KeywordSpotter(fake_recognizer(), OPTIONS)
    n_samples = 0
    for block in every(block_samples, silence(0.5)):
        n_before, n_samples = n_samples, n_samples + len(block)
        step = spotter.step(block)
        assert step.block is block
        assert (step.detections, step.position_s) == ([], n_samples / RATE_HZ)
        if n_samples // STEP_SAMPLES == n_before // STEP_SAMPLES:
            assert step.posteriors is None
        else:
            np.testing.assert_array_equal(step.posteriors, rows[n_samples // STEP_SAMPLES - 1])


@pytest.mark.parametrize("pause_s", [0.5, 0.8, 1.2])
def test_a_word_said_twice_is_detected_twice(pause_s: float) -> None:
    samples = np.concatenate([silence(0.5), word("yes"), silence(pause_s), word("yes"), silence(0.5)])
    assert [found.label for found in found_in([samples])] == ["yes", "yes"]


@pytest.mark.parametrize("block_samples", [1, 7, 160, 1599, 1600, 1601, 16000, 160000])
@pytest.mark.slow
def test_blocks_of_any_length_give_the_posteriors_and_detections_of_one_push(block_samples: int) -> None:
    blocks = every(block_samples, SPEECH)
    np.testing.assert_array_equal(rows_of(blocks), rows_of([SPEECH]))
    assert found_in(blocks) == found_in([SPEECH])


def test_posteriors_are_those_that_push_decides_by_until_a_detection() -> None:
    plain = rows_of([SPEECH])
    spotter = KeywordSpotter(fake_recognizer(), OPTIONS)
    decided_by, found = [], []
    for block in every(STEP_SAMPLES, SPEECH)[: len(plain)]:
        step = spotter.step(block)
        found += step.detections
        assert step.posteriors is not None
        decided_by.append(step.posteriors)
    n_plain = round(found[0].decided_s * RATE_HZ) // STEP_SAMPLES
    np.testing.assert_array_equal(decided_by[:n_plain], plain[:n_plain])
    assert plain[n_plain].argmax() == 0
    assert decided_by[n_plain].argmax() == 3


@pytest.mark.parametrize("n_samples", [0, 1, 1599, 1600, 1601, 15999, 16000, 50000])
def test_every_whole_step_is_one_decision(n_samples: int) -> None:
    assert rows_of([noise(n_samples)]).shape == (n_samples // STEP_SAMPLES, 4)


@pytest.mark.parametrize("n_samples", [0, 1, 1600, 1601, 50000])
def test_finish_completes_the_step_and_adds_one_context(n_samples: int) -> None:
    seen: list[Samples] = []
    found_in([noise(n_samples)], fake_recognizer(seen=seen))
    assert len(seen) == -(-n_samples // STEP_SAMPLES) + CONTEXT_SAMPLES // STEP_SAMPLES


def test_the_stream_starts_as_silence() -> None:
    seen: list[Samples] = []
    KeywordSpotter(fake_recognizer(seen=seen), OPTIONS).push(noise(STEP_SAMPLES))
    (context,) = seen
    assert not context[:-STEP_SAMPLES].any()
    np.testing.assert_array_equal(context[-STEP_SAMPLES:], noise(STEP_SAMPLES))


def test_finish_finds_a_word_at_the_very_end() -> None:
    spotter = KeywordSpotter(fake_recognizer(), OPTIONS)
    assert spotter.push(np.concatenate([silence(2), word("no", 0.15)])) == []
    assert [found.label for found in spotter.finish()] == ["no"]


@pytest.mark.parametrize("duration_s", [0.15, 0.99, 1.03, 2.0, 2.149])
def test_times_lie_within_the_audio(duration_s: float) -> None:
    samples = np.concatenate([silence(duration_s - 0.13), word("no", 0.13)])
    (found,) = found_in([samples])
    assert 0 <= found.start_s <= found.end_s <= found.decided_s <= len(samples) / RATE_HZ


def test_times_lie_within_the_audio_when_a_model_answers_late() -> None:
    def detects_half_a_second_later(contexts: Samples) -> Samples:
        is_late = contexts[:, :-8000].any(axis=1) & ~contexts[:, -8000:].any(axis=1)
        return np.outer(is_late, [20, 0, 0, 0]).astype(np.float32)

    (found,) = found_in([word("yes", 0.7)], Recognizer(FAKE_INFO, detects_half_a_second_later))
    assert (found.start_s, found.end_s, found.decided_s) == (0.7, 0.7, 0.7)


def test_after_finish_the_spotter_is_as_new() -> None:
    spotter = KeywordSpotter(fake_recognizer(), OPTIONS)
    spotter.push(SPEECH)
    spotter.finish()
    assert spotter.position_s == 0
    assert spotter.push(SPEECH) + spotter.finish() == found_in([SPEECH])


def test_reset_starts_a_new_stream() -> None:
    spotter = KeywordSpotter(fake_recognizer(), OPTIONS)
    spotter.push(SPEECH[:20001])
    spotter.reset()
    assert spotter.position_s == 0
    assert spotter.push(SPEECH) + spotter.finish() == found_in([SPEECH])


def test_the_position_is_the_length_of_what_was_pushed() -> None:
    spotter = KeywordSpotter(fake_recognizer())
    for block in every(777, silence(1.25)):
        spotter.push(block)
    assert spotter.position_s == 1.25


def test_two_spotters_share_a_recognizer() -> None:
    recognizer = fake_recognizer()
    other = SPEECH[::-1].copy()
    streams = {id(samples): (KeywordSpotter(recognizer, OPTIONS), samples) for samples in (SPEECH, other)}
    found: dict[int, list[Detection]] = {key: [] for key in streams}
    for start in range(0, len(SPEECH), 1000):
        for key, (spotter, samples) in streams.items():
            found[key] += spotter.push(samples[start : start + 1000])
    for key, (spotter, samples) in streams.items():
        assert found[key] + spotter.finish() == found_in([samples])


@pytest.mark.parametrize(
    "block",
    [
        np.full(5000, np.nan, np.float32),
        np.array([0, 0, np.inf], np.float32),
        np.zeros(5000),
        np.zeros(5000, np.int16),
        np.zeros((5000, 2), np.float32),
        np.float32(0),
    ],
    ids=["nan", "infinite", "float64", "int16", "two channels", "a number"],
)
def test_a_bad_block_is_refused_and_leaves_the_stream_as_it_was(block: NDArray[Any]) -> None:
    spotter = KeywordSpotter(fake_recognizer(), OPTIONS)
    found = spotter.push(SPEECH[:30001])
    with pytest.raises(AudioError) as caught:
        spotter.push(block)
    assert_one_line(caught.value, "audio block")
    assert spotter.position_s == 30001 / RATE_HZ
    assert found + spotter.push(SPEECH[30001:]) + spotter.finish() == found_in([SPEECH])


def test_a_block_is_copied() -> None:
    seen: list[Samples] = []
    spotter = KeywordSpotter(fake_recognizer(seen=seen), OPTIONS)
    block = np.ones(1000, np.float32)
    for _ in range(5):
        spotter.push(block)
        block += 1
    np.testing.assert_array_equal(seen[-1][-4800:], np.repeat([1, 2, 3, 4, 5], 1000)[:4800])


@pytest.mark.parametrize(("step_ms", "n"), [(50, 40), (100, 20), (250, 8), (1500, 1)])
def test_options_of_the_call_go_before_those_of_the_model(step_ms: int, n: int) -> None:
    seen: list[Samples] = []
    options = Options(step_ms=step_ms, smoothing_ms=step_ms)
    samples = noise(2 * RATE_HZ)
    KeywordSpotter(fake_recognizer(seen=seen), options).push(samples)
    assert len(seen) == n
    step_samples = step_ms * RATE_HZ // 1000
    np.testing.assert_array_equal(seen[-1], samples[: n * step_samples][-CONTEXT_SAMPLES:])


def test_options_default_to_those_of_the_model() -> None:
    recognizer = fake_recognizer(ModelInfo(spec=FAKE_INFO.spec, options=OPTIONS))
    assert KeywordSpotter(recognizer).options == OPTIONS


def test_a_threshold_for_what_is_no_keyword_is_refused() -> None:
    with pytest.raises(ConfigError, match="maybe"):
        KeywordSpotter(fake_recognizer(), Options(thresholds={"maybe": 0.5}))


@given(data=st.data())
def test_a_real_model_gives_the_same_however_the_stream_is_cut(small_model: SmallModel, data: st.DataObject) -> None:
    recognizer = load(small_model.onnx)
    samples = noise(20001)
    options = Options(threshold=0.2, smoothing_ms=100, refractory_ms=0)
    blocks = cut(samples, data.draw(cuts(len(samples))))
    whole, cut_up = KeywordSpotter(recognizer, options), KeywordSpotter(recognizer, options)
    np.testing.assert_array_equal(list(posteriors(recognizer, blocks)), list(posteriors(recognizer, [samples])))
    found = whole.push(samples)
    assert [detection for block in blocks for detection in cut_up.push(block)] == found
    assert len(found) >= 1


def test_the_contexts_that_end_a_stream_are_decided_elsewhere_as_finish_decides_them() -> None:
    samples = np.concatenate([silence(1.33), word("yes", 0.2)])
    spotter, whole = KeywordSpotter(fake_recognizer()), KeywordSpotter(fake_recognizer())
    found = []
    for contexts in (spotter.contexts(samples), spotter.last_contexts()):
        for context in contexts:
            found += spotter.decide(fake_recognizer().posteriors(context[None])[0])
    assert found == whole.push(samples) + whole.finish() != []
    assert max(detection.end_s for detection in found) <= len(samples) / 16000
    assert spotter.position_s == 0
