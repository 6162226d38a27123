"""Recordings that are spotted many at once: the detections of the spotter, whatever is done ahead or together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
from speechrnn.labels import Labels
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import ArraySource, FileSource
from speechrnn.spec import Classifier, Conv, Conv2d, Mfcc, ModelInfo, Options, Spec
from speechrnn.spotter import posteriors
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
@pytest.mark.slow
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


@pytest.mark.parametrize("options", [Options(threshold=1.0), Options(threshold=1.0, step_ms=200)])
def test_posteriors_are_those_of_whole_contexts(options: Options) -> None:
    recognizer = load("commands10")
    network = cut(recognizer, options.step_ms)
    assert network.n_before == 14  # the frames that the convolutions before the first LSTM see beside one
    spotter = FrameSpotter(recognizer, options, network, keeps_posteriors=True)
    samples = np.concatenate([silence(3.0), *FileSource(EXAMPLE).blocks(RATE_HZ), silence(3.0)])
    spotter.push(samples)
    spotter.finish()
    while not spotter.is_done:
        run_contexts([spotter], network, 7)
    blocks = [samples, silence(1.0 + -len(samples) % (RATE_HZ * options.step_ms // 1000) / RATE_HZ)]
    expected = posteriors(recognizer, blocks, step_ms=options.step_ms)
    np.testing.assert_allclose(spotter.posteriors, [*expected], rtol=0, atol=1e-5)


def conv2d(*n_channels: int, kernel_frames: int = 9, stride_frames: int = 3) -> Conv2d:
    return Conv2d(n_channels, kernel_frames, stride_frames)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classifier", "step_ms", "n_before"),
    [
        (Classifier("lstm", hidden_size=8, conv2d=conv2d(4, 4, 4, kernel_frames=5, stride_frames=2)), 100, 12),
        (Classifier("lstm", hidden_size=8, conv2d=conv2d(4, stride_frames=4)), 100, 8),
        (Classifier("lstm", hidden_size=8, n_layers=1, bidirectional=False, conv=Conv(8)), 50, 4),
        (Classifier("lstm", hidden_size=8, conv=Conv(8, 7, 1), pooling="mean"), 10, 6),
        (Classifier("lstm", hidden_size=8, conv2d=conv2d(4, 4)), 500, 0),
        (Classifier("lstm", hidden_size=8), 100, 0),
        (Classifier("gru", hidden_size=8, conv2d=conv2d(4, 4)), 100, 0),
    ],
)
def test_networks_are_cut_where_that_saves_something(
    tmp_path: Path, classifier: Classifier, step_ms: int, n_before: int
) -> None:
    from speechrnn.model.network import RecognizerNet
    from speechrnn.training.export import export

    spec = Spec(labels=Labels(("yes", "no")), features=Mfcc(n_mels=16, n_coefficients=8), classifier=classifier)
    info = ModelInfo(spec=spec)
    export(RecognizerNet(spec).eval(), info, noise(4, spec.context_samples), tmp_path / "model.onnx")
    network = cut(load(tmp_path / "model.onnx"), step_ms)
    assert network.n_frames < 200
    assert network.n_before == n_before


def test_silence_is_not_computed() -> None:
    recognizer = load("commands10")
    network = cut(recognizer, 100)
    seen: list[int] = []

    def counted(contexts: Sequence[Samples] | Samples) -> Samples:
        seen.append(len(contexts))
        return network.posteriors(contexts)

    words = np.concatenate([*FileSource(EXAMPLE).blocks(RATE_HZ)])
    samples = np.concatenate([silence(20.0), words, silence(20.0), words[: 2 * RATE_HZ]])
    options = recognizer.info.options
    (found,) = spotted(recognizer, network._replace(posteriors=counted), options, [[samples]], 8)
    expected = speechrnn.transcribe(ArraySource(samples, RATE_HZ), model=recognizer)
    assert [(d.label, d.start_s, d.end_s) for d in found] == [(d.label, d.start_s, d.end_s) for d in expected]
    assert sum(seen) < 10 * (len(words) / RATE_HZ + 2 + 3) + 8 * len(found)


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
    recognizer = Recognizer(FAKE_INFO, lambda samples: samples[:, :4] / max(1e-3, np.abs(samples).max()))
    contexts = noise(3, RATE_HZ)[:, :, None] * np.array([1, 5, 25], dtype=np.float32)[:, None, None]
    alone = [recognizer.posteriors(context[None, :, 0])[0] for context in contexts]
    assert (whole(recognizer).posteriors(contexts) == np.stack(alone)).all()
    assert not np.allclose(recognizer.posteriors(contexts[:, :, 0]), np.stack(alone), atol=1e-3)
