"""Model files to recognizers, and everything that can be wrong with a model file."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechrnn.audio import Samples
from speechrnn.errors import ConfigError, ModelFileError
from speechrnn.labels import Labels
from speechrnn.recognizer import METADATA_KEY, Recognizer, find_model, load, shipped_models
from speechrnn.spec import ModelInfo, OperatingPoint, Options, Spec
from tests.helpers import FAKE_INFO, RATE_HZ, SmallModel, assert_one_line, fake_recognizer, noise, silence, word

Break = Callable[[SmallModel, Path], None]


@pytest.mark.parametrize("n_contexts", [1, 5])
def test_onnx_equals_torch(small_model: SmallModel, n_contexts: int) -> None:
    contexts = noise(n_contexts, small_model.info.spec.context_samples, seed=7)
    with torch.inference_mode():
        expected = small_model.net(torch.from_numpy(contexts)).numpy()
    np.testing.assert_allclose(load(small_model.onnx).logits(contexts), expected, atol=1e-4)


def test_a_checkpoint_equals_the_onnx_made_of_it(small_model: SmallModel) -> None:
    checkpoint, exported = load(small_model.checkpoint), load(small_model.onnx)
    np.testing.assert_allclose(
        checkpoint.posteriors(small_model.contexts), exported.posteriors(small_model.contexts), atol=1e-4
    )


@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_a_file_carries_all_of_its_info(small_model: SmallModel, kind: str) -> None:
    recognizer = load(getattr(small_model, kind))
    assert recognizer.info == small_model.info
    assert recognizer.labels == ("yes", "nö, never", "unknown", "silence")


@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_a_row_does_not_depend_on_the_batch(small_model: SmallModel, kind: str) -> None:
    recognizer = load(getattr(small_model, kind))
    loud = np.concatenate([small_model.contexts[:1], 0.99 * np.sign(small_model.contexts[1:])])
    alone = recognizer.logits(small_model.contexts[:1])
    np.testing.assert_allclose(recognizer.logits(loud)[:1], alone, atol=1e-5)


@pytest.mark.parametrize(
    "logits", [[0.0, 0.0, 0.0, 0.0], [1e4, -1e4, 0.0, 3.0], [-1e4, -1e4, -1e4, -1e4], [1.0, 2.0, 3.0, 4.0]]
)
def test_posteriors_are_the_softmax_and_sum_to_one(logits: list[float]) -> None:
    recognizer = Recognizer(FAKE_INFO, lambda samples: np.array([logits] * len(samples), np.float32))
    rows = recognizer.posteriors(noise(3, RATE_HZ))
    np.testing.assert_allclose(rows, torch.tensor([logits] * 3).softmax(1).numpy(), atol=1e-6)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("n_samples", [0, 1, 800, 15999, 16000])
def test_a_short_clip_stands_in_the_middle_of_silence(n_samples: int) -> None:
    seen: list[Samples] = []
    posteriors = fake_recognizer(seen=seen).classify(noise(n_samples) + 1)
    assert posteriors.shape == (4,)
    (context,) = seen
    before = (RATE_HZ - n_samples) // 2
    np.testing.assert_array_equal(
        context, np.pad(noise(n_samples) + 1, (before, RATE_HZ - before - n_samples)).astype(np.float32)
    )


@pytest.mark.parametrize("label", ["yes", "no", "unknown"])
@pytest.mark.parametrize("duration_s", [1.0, 1.05, 2.5, 7.03])
@pytest.mark.parametrize("place", [0, 0.5, 1], ids=["start", "middle", "end"])
def test_a_word_anywhere_in_a_clip_labels_it(label: str, duration_s: float, place: float) -> None:
    samples, spoken = silence(duration_s), word(label, 0.2)
    start = round(place * (len(samples) - len(spoken)))
    samples[start : start + len(spoken)] = spoken
    recognizer = fake_recognizer()
    posteriors = recognizer.classify(samples)
    assert recognizer.labels[int(posteriors.argmax())] == label
    assert posteriors.sum() == pytest.approx(1, abs=1e-6)


def test_the_surest_keyword_decides_and_not_the_surest_context() -> None:
    def logits(contexts: Samples) -> Samples:
        unsure, silent = [0.6, 0.1, 0.2, 0.1], [0.001, 0.001, 0.001, 0.997]
        return np.log([unsure if context.any() else silent for context in contexts]).astype(np.float32)

    clip = np.concatenate([silence(1.5), word("yes"), silence(1.5)])
    np.testing.assert_allclose(Recognizer(FAKE_INFO, logits).classify(clip), [0.6, 0.1, 0.2, 0.1], atol=1e-6)


def test_a_long_clip_is_looked_at_every_step_to_its_end() -> None:
    seen: list[Samples] = []
    samples = noise(RATE_HZ + 2 * 1600 + 1)
    fake_recognizer(seen=seen).classify(samples)
    padded = np.pad(samples, (0, 1599))
    expected = [padded[start : start + RATE_HZ] for start in (0, 1600, 3200, 4800)]
    np.testing.assert_array_equal(seen, expected)


def test_many_clips_at_once_get_what_each_gets_alone(small_model: SmallModel) -> None:
    recognizer = load(small_model.onnx)
    lengths = [0, 4000, 8000, 8001, 30000, *[8000] * 40, 12345]
    clips = [noise(n_samples, seed=seed) for seed, n_samples in enumerate(lengths)]
    together = recognizer.classify_all(clips)
    assert together.shape == (len(clips), 4)
    np.testing.assert_allclose(together, [recognizer.classify(clip) for clip in clips], atol=1e-6)


def test_the_command_model_ships_and_is_the_default() -> None:
    assert "commands10" in shipped_models()
    assert load().info == load("commands10").info


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_loads_by_name(name: str) -> None:
    assert find_model(name).name == f"{name}.onnx"
    recognizer = load(name)
    context = np.zeros((1, recognizer.info.spec.context_samples), np.float32)
    assert recognizer.labels[int(recognizer.posteriors(context).argmax())] == "silence"


@pytest.mark.parametrize(
    "model", ["commands99", "commands10.onnx", "no/such/model.onnx", "../pretrained/commands10", "tests"]
)
def test_an_unknown_model_is_answered_with_those_that_ship(model: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        load(model)
    assert_one_line(caught.value, model, "no such model", *shipped_models())


def truncate_onnx(model: SmallModel, path: Path) -> None:
    whole = model.onnx.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def truncate_checkpoint(model: SmallModel, path: Path) -> None:
    whole = model.checkpoint.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def write_nothing(_: SmallModel, path: Path) -> None:
    path.touch()


def write_noise(_: SmallModel, path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def copy_checkpoint(model: SmallModel, path: Path) -> None:
    path.write_bytes(model.checkpoint.read_bytes())


def copy_onnx(model: SmallModel, path: Path) -> None:
    path.write_bytes(model.onnx.read_bytes())


def without_a_letter_of(name: str) -> Break:
    """The exported model with a byte that is no UTF-8 in one of its names."""

    def write(model: SmallModel, path: Path) -> None:
        path.write_bytes(model.onnx.read_bytes().replace(name.encode(), b"\xa6" + name[1:].encode(), 1))

    return write


def with_metadata(text: str | None) -> Break:
    """The exported model with another text in place of its info, or none."""

    def write(model: SmallModel, path: Path) -> None:
        proto = onnx.load(model.onnx)
        del proto.metadata_props[:]
        if text is not None:
            onnx.helper.set_model_props(proto, {METADATA_KEY: text})
        onnx.save(proto, path)

    return write


def with_content(**changes: Any) -> Break:
    """The checkpoint with other content under these names; None removes them."""

    def write(model: SmallModel, path: Path) -> None:
        content = torch.load(model.checkpoint, weights_only=True) | changes
        torch.save({name: value for name, value in content.items() if value is not None}, path)

    return write


def write_list(_: SmallModel, path: Path) -> None:
    torch.save([1, 2, 3], path)


def info_of(model: SmallModel, **changes: Any) -> str:
    """The JSON of a model's information with other values at these paths, `__` between the names."""
    tree = msgspec.to_builtins(model.info)
    for path, value in changes.items():
        *tables, key = path.split("__")
        table = tree
        for name in tables:
            table = table[name]
        table[key] = value
    return json.dumps(tree)


def with_info(**changes: Any) -> Break:
    """The exported model saying other things of its network."""
    return lambda model, path: with_metadata(info_of(model, **changes))(model, path)


def checkpoint_with_info(**changes: Any) -> Break:
    """The checkpoint saying other things of its network."""
    return lambda model, path: with_content(info=info_of(model, **changes))(model, path)


def with_nodes(*nodes: onnx.NodeProto, **constants: Any) -> Break:
    """The exported model whose logits, called `scores`, pass further nodes; the last gives `logits`."""

    def write(model: SmallModel, path: Path) -> None:
        proto = onnx.load(model.onnx)
        for node in proto.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        proto.graph.node.extend(nodes)
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(c), n) for n, c in constants.items())
        onnx.save(proto, path)

    return write


def endless() -> onnx.NodeProto:
    """A loop whose condition stays true."""
    info, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    inputs = [info("i", kinds.INT64, []), info("going", kinds.BOOL, []), info("a", kinds.FLOAT, None)]
    outputs = [info("going_on", kinds.BOOL, []), info("b", kinds.FLOAT, None)]
    steps = [
        onnx.helper.make_node("Identity", ["going"], ["going_on"]),
        onnx.helper.make_node("Identity", ["a"], ["b"]),
    ]
    body = onnx.helper.make_graph(steps, "body", inputs, outputs)
    return onnx.helper.make_node("Loop", ["", "always", "scores"], ["logits"], body=body)


def with_weights(change: Callable[[torch.Tensor], Any]) -> Break:
    """The checkpoint with another tensor in place of the biases of its last layer."""

    def write(model: SmallModel, path: Path) -> None:
        content = torch.load(model.checkpoint, weights_only=True)
        content["weights"]["classifier.output.bias"] = change(content["weights"]["classifier.output.bias"])
        torch.save(content, path)

    return write


def compressed(model: SmallModel, path: Path) -> None:
    """The checkpoint with tensors that unpack to far more than their compressed size."""
    with zipfile.ZipFile(model.checkpoint) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, bytes(10**7) if "/data/" in entry.filename else whole.read(entry))


DIVISION = onnx.helper.make_node("Div", ["scores", "zero"], ["logits"])
OTHER_INFO = msgspec.json.encode(ModelInfo(spec=Spec(labels=Labels(("up", "down"))))).decode()


@pytest.mark.parametrize(
    ("name", "write", "part"),
    [
        ("truncated.onnx", truncate_onnx, "not an ONNX model"),
        ("empty.onnx", write_nothing, "not an ONNX model"),
        ("random.onnx", write_noise, "not an ONNX model"),
        ("checkpoint.onnx", copy_checkpoint, "not an ONNX model"),
        ("garbled_graph.onnx", without_a_letter_of("samples"), "not an ONNX model"),
        ("garbled_key.onnx", without_a_letter_of(METADATA_KEY), "not an ONNX model"),
        ("foreign.onnx", with_metadata(None), "not of speechrnn"),
        ("garbled.onnx", with_metadata("{"), "another version"),
        ("newer.onnx", with_metadata(OTHER_INFO.replace('"format":1', '"format":2')), "another version"),
        ("unknown_key.onnx", with_metadata(OTHER_INFO.replace('"format"', '"farmat"')), "farmat"),
        ("three_labels.onnx", with_info(spec__labels__keywords=["yes"], options={}, operating_points={}), "(1, 3)"),
        ("longer.onnx", with_info(spec__context_ms=1500), "cannot be run on contexts of 12000 samples"),
        ("huge.onnx", with_info(spec__context_ms=2**31), "context_ms from 10 to 60000, got 2147483648"),
        ("another_word.onnx", with_info(options__thresholds={"go": 0.5}), "go: no keyword of this model"),
        ("point.onnx", with_info(operating_points__strict={"threshold": 2}), "got threshold = 2"),
        (
            "nan.onnx",
            with_nodes(onnx.helper.make_node("Div", ["scores", "zero"], ["logits"]), zero=np.float32(0)),
            "finite",
        ),
        ("endless.onnx", with_nodes(endless(), always=True), "cannot be run on contexts of 8000 samples"),
        ("truncated.pt", truncate_checkpoint, "no checkpoint"),
        ("compressed.pt", compressed, "more than its own size"),
        ("nan.pt", with_weights(lambda bias: bias * np.nan), "not finite"),
        ("double.pt", with_weights(torch.Tensor.double), "as torch.float32, got torch.float64"),
        ("sparse.pt", with_weights(torch.Tensor.to_sparse), "torch.sparse"),
        ("text.pt", with_weights(str), "not a speechrnn checkpoint"),
        ("big.pt", checkpoint_with_info(spec__classifier__hidden_size=4096), "expected weights of 403801456 bytes"),
        ("empty.pt", write_nothing, "no checkpoint"),
        ("random.pt", write_noise, "no checkpoint"),
        ("model.pt", copy_onnx, "no checkpoint"),
        ("list.pt", write_list, "got list"),
        ("without_info.pt", with_content(info=None), "info"),
        ("garbled_info.pt", with_content(info="{"), "not a speechrnn checkpoint"),
        ("without_weights.pt", with_content(weights=None), "weights"),
        ("other_info.pt", with_content(info=OTHER_INFO), "not a speechrnn checkpoint"),
        ("wrong_weights.pt", with_content(weights={7: torch.zeros(1)}), "not a speechrnn checkpoint"),
    ],
)
def test_a_bad_model_file_is_one_line_that_names_it(
    small_model: SmallModel,
    name: str,
    write: Break,
    part: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "endless.onnx":
        monkeypatch.setattr("speechrnn.recognizer._MAX_FIRST_RUN_S", 0.5)  # of a context that takes a millisecond
    write(small_model, tmp_path / name)
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path / name)
    assert_one_line(caught.value, str(tmp_path / name), part)
    assert capfd.readouterr() == ("", "")


def test_a_bad_model_file_of_which_nothing_is_said_is_one_line_too(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime raises its InvalidArgument without a message on Python 3.11.2, which Debian 12 has."""

    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    copy_onnx(small_model, tmp_path / "silent.onnx")
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path / "silent.onnx")
    assert_one_line(caught.value, str(tmp_path / "silent.onnx"), "not an ONNX model (ValueError)")


def test_scores_that_turn_out_not_to_be_finite_are_an_error_and_no_silence(small_model: SmallModel) -> None:
    def logits(contexts: Samples) -> Samples:
        scores = np.zeros((len(contexts), 4), np.float32)
        scores[contexts.any(axis=1)] = np.nan
        return scores

    recognizer = Recognizer(FAKE_INFO, logits, small_model.onnx)
    np.testing.assert_allclose(recognizer.posteriors(np.zeros((1, RATE_HZ), np.float32)), 0.25)
    with pytest.raises(ModelFileError) as caught:
        recognizer.posteriors(noise(1, RATE_HZ))
    assert_one_line(caught.value, str(small_model.onnx), "not finite")


def test_the_name_of_a_shipped_model_means_it_whatever_lies_in_the_folder(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_onnx(small_model, tmp_path / "commands10")
    monkeypatch.chdir(tmp_path)
    assert find_model("commands10").parent.name == "pretrained"
    assert load("./commands10").info == small_model.info


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60).map(lambda tail: b"\x80\x02" + tail))
def test_no_pickle_can_raise_another_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert_one_line(caught.value, str(path))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


def save_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [torch.save, save_pickle])
def test_code_in_a_checkpoint_is_refused_and_not_run(save: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    save({"info": Bomb(tmp_path / "ran"), "weights": {}}, tmp_path / "bomb.pt")
    with pytest.raises(ModelFileError) as caught:
        load(tmp_path / "bomb.pt")
    assert_one_line(caught.value, "bomb.pt", "refused")
    assert not (tmp_path / "ran").exists()
    with suppress(RuntimeError):
        torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "ran").exists(), "the file was meant to hold code"


def test_a_checkpoint_without_torch_says_what_to_install(
    small_model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelFileError) as caught:
        load(small_model.checkpoint)
    assert_one_line(caught.value, str(small_model.checkpoint), "pip install 'speechrnn[train]'")


def test_a_torch_that_cannot_be_imported_is_one_line(small_model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MetaPathFinder):
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "torch":
                raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModelFileError) as caught:
        load(small_model.checkpoint)
    assert_one_line(caught.value, str(small_model.checkpoint), "torch cannot be imported (libcudart.so.13: cannot open")


def test_an_operating_point_changes_what_it_gives_and_leaves_the_rest(small_model: SmallModel) -> None:
    options = load(small_model.onnx, operating_point="strict").info.options
    expected = msgspec.structs.replace(small_model.info.options, threshold=0.9, thresholds={}, release=0.5)
    assert options == expected
    point = OperatingPoint(threshold=0.8, thresholds={"yes": 0.7}, smoothing_ms=500, refractory_ms=900)
    given = msgspec.structs.replace(Options(lag_ms=30), threshold=0.8, thresholds={"yes": 0.7})
    assert point.applied_to(Options(lag_ms=30)) == msgspec.structs.replace(given, smoothing_ms=500, refractory_ms=900)


@pytest.mark.parametrize(("model", "has"), [("small", "strict"), ("fake", "none")])
def test_an_operating_point_that_a_model_does_not_have_is_one_line(
    model: str, has: str, small_model: SmallModel
) -> None:
    recognizer = load(small_model.onnx) if model == "small" else fake_recognizer()
    with pytest.raises(ConfigError) as caught:
        recognizer.at("lax")
    assert_one_line(caught.value, "lax", f"which has: {has}")


def test_a_model_file_without_operating_points_is_read() -> None:
    old = msgspec.to_builtins(FAKE_INFO)
    del old["operating_points"]
    assert msgspec.convert(old, ModelInfo, strict=False) == FAKE_INFO


@pytest.mark.parametrize("model", ["commands10", "commands10.int8"])
def test_a_context_has_the_same_scores_whatever_it_is_run_with(model: str) -> None:
    recognizer = load(model)
    contexts = noise(32000).reshape(2, 16000) * np.array([[0.01], [1.0]], dtype=np.float32)
    together = recognizer.logits(contexts)
    alone = np.concatenate([recognizer.logits(contexts[:1]), recognizer.logits(contexts[1:])])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(recognizer.embed(contexts)[0], recognizer.embed(contexts[:1])[0], atol=1e-4)
