"""Recordings that are spotted many at once: the detections of the spotter, whatever is done ahead or together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import speechrnn
from speechrnn.audio import Samples
from speechrnn.bulk.network import Network, cut, whole
from speechrnn.bulk.spotting import FrameSpotter, run_contexts
from speechrnn.detector import Detection
from speechrnn.folders import find_audio
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import ArraySource, FileSource
from speechrnn.spec import Options
from tests.helpers import EXAMPLE, FAKE_INFO, RATE_HZ, cuts, fake_recognizer, noise, silence, word
from tests.helpers import cut as cut_at


def spotted(
    recognizer: Recognizer, network: Network, options: Options, streams: list[list[Samples]], n_contexts: int
) -> list[list[Detection]]:
    """Detections of streams in blocks, read as a worker reads them."""
    spotters = [FrameSpotter(recognizer, options, network) for _ in streams]
    blocks = [iter(stream) for stream in streams]
    while not all(spotter.is_done for spotter in spotters):
        for spotter, following in zip(spotters, blocks, strict=True):
            while not spotter.n_ready and not spotter.is_finished:
                block = next(following, None)
                spotter.finish() if block is None else spotter.push(block)
        run_contexts([spotter for spotter in spotters if spotter.n_ready], network, n_contexts)
    return [spotter.result() for spotter in spotters]


words = st.lists(
    st.one_of(
        st.sampled_from(["yes", "no", "unknown"]).map(word),
        st.floats(0.01, 1.5).map(silence),
    ),
    max_size=8,
)


@given(st.lists(st.tuples(words, cuts(RATE_HZ)), min_size=1, max_size=3), st.integers(1, 12))
def test_recordings_together_give_what_each_gives_alone(
    recordings: list[tuple[list[Samples], list[int]]], n_contexts: int
) -> None:
    recognizer = fake_recognizer()
    streams = [(np.concatenate([silence(0.0), *parts]), places) for parts, places in recordings]
    alone = [speechrnn.transcribe(ArraySource(samples, RATE_HZ), model=recognizer) for samples, _ in streams]
    blocks = [cut_at(samples, places) for samples, places in streams]
    together = spotted(recognizer, whole(recognizer), recognizer.info.options, blocks, n_contexts)
    assert together == alone


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("n_contexts", [1, 7, 32])
def test_frames_that_are_computed_once_give_the_detections_of_whole_contexts(
    threshold: float | None, n_contexts: int
) -> None:
    recognizer = load("commands10")
    options = recognizer.info.options.with_choice(threshold=threshold)
    network = cut(recognizer, options.step_ms)
    assert network.n_frames < 200
    files = find_audio(EXAMPLE.parent)
    streams = [list(FileSource(file).blocks(RATE_HZ)) for file in files]
    found = spotted(recognizer, network, options, streams, n_contexts)
    for file, detections in zip(files, found, strict=True):
        expected = speechrnn.transcribe(file, model=recognizer, options=options)
        assert expected
        assert [(d.label, d.start_s, d.end_s, d.decided_s) for d in detections] == [
            (d.label, d.start_s, d.end_s, d.decided_s) for d in expected
        ]
        assert [d.score for d in detections] == pytest.approx([d.score for d in expected], abs=1.01e-4)


def test_a_batch_does_not_change_what_is_in_it() -> None:
    recognizer = load("commands10")
    network = cut(recognizer, 100)
    frames = network.frames(noise(12, RATE_HZ))
    together = network.posteriors(frames)
    for size in (2, 3, 5):
        parts = [network.posteriors(frames[start : start + size]) for start in range(0, 12 - size + 1, size)]
        assert (np.concatenate(parts) == together[: len(parts) * size]).all()


def test_a_step_that_is_no_multiple_of_the_hop_needs_the_whole_network() -> None:
    recognizer = load("commands10")
    assert cut(recognizer, 105).n_frames == RATE_HZ
    options = recognizer.info.options.with_choice(step_ms=105)
    blocks = list(FileSource(EXAMPLE).blocks(RATE_HZ))
    (found,) = spotted(recognizer, cut(recognizer, 105), options, [blocks], 8)
    expected = speechrnn.transcribe(EXAMPLE, model=recognizer, options=options)
    assert [d.label for d in found] == [d.label for d in expected]


def test_a_network_that_is_not_faithful_in_two_halves_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = load("commands10")
    monkeypatch.setattr("speechrnn.bulk.network._MAX_DIFFERENCE", 0.0)
    assert cut(recognizer, 100).n_frames == RATE_HZ


def test_a_network_that_scales_a_batch_as_a_whole_runs_contexts_one_by_one() -> None:
    """As networks in 8 bits do: the loudest context of a batch changes the others."""
    recognizer = Recognizer(FAKE_INFO, lambda samples: samples[:, :4] / np.abs(samples).max())
    contexts = noise(3, RATE_HZ)[:, :, None] * np.array([1, 5, 25], dtype=np.float32)[:, None, None]
    alone = [recognizer.posteriors(context[None, :, 0])[0] for context in contexts]
    assert (whole(recognizer).posteriors(contexts) == np.stack(alone)).all()
    assert not np.allclose(recognizer.posteriors(contexts[:, :, 0]), np.stack(alone), atol=1e-3)
