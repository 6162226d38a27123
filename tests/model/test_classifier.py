"""Recurrent classifiers: every cell with every pooling, with and without convolution, in one direction and in two."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
import torch
import torchaudio
from torch import Tensor, nn

from speechrnn.model.classifier import Conv2dStem, RecurrentClassifier, summarise
from speechrnn.spec import Classifier, Conv, Conv2d

N_FEATURES, N_CLASSES, N_FRAMES = 6, 4, 23
CONVS: dict[str, dict[str, Any]] = {
    "plain": {},
    "conv": {"conv": {"n_channels": 7, "kernel_frames": 5, "stride_frames": 3}},
    "conv2d": {"conv2d": {"n_channels": (3, 2), "kernel_frames": 5, "stride_frames": 3}},
}
SPECS = {
    f"{cell}-{'both' if bidirectional else 'one'}-{pooling}-{conv}": msgspec.convert(
        {
            "cell": cell,
            "pooling": pooling,
            "bidirectional": bidirectional,
            "hidden_size": 5,
            "dropout": 0.5,
            **CONVS[conv],
        },
        Classifier,
    )
    for cell, bidirectional, pooling, conv in itertools.product(
        ("rnn", "lstm", "gru"), (False, True), ("last", "mean", "attention"), CONVS
    )
}
SPECS["rnn-relu"] = Classifier(cell="rnn", nonlinearity="relu", hidden_size=5)
SPECS["deep"] = Classifier(cell="lstm", n_layers=3, hidden_size=5)
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def build(spec: Classifier) -> RecurrentClassifier:
    torch.manual_seed(0)
    return RecurrentClassifier(spec, N_FEATURES, N_CLASSES, cepstral=True)


def frames(n_rows: int = 3, n_frames: int = N_FRAMES) -> Tensor:
    return torch.randn(n_rows, n_frames, N_FEATURES, generator=torch.Generator().manual_seed(1))


@every_spec
@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("n_frames", [1, 2, N_FRAMES])
def test_each_row_of_frames_gets_one_row_of_logits(spec: Classifier, n_rows: int, n_frames: int) -> None:
    assert build(spec)(frames(n_rows, n_frames)).shape == (n_rows, N_CLASSES)


@every_spec
def test_padding_changes_nothing_when_lengths_are_given(spec: Classifier) -> None:
    model, padded, lengths = build(spec).eval(), frames(5), torch.tensor([9, N_FRAMES, 1, 15, 4])
    alone = torch.cat([model(row[None, :length]) for row, length in zip(padded, lengths.tolist(), strict=True)])
    torch.testing.assert_close(model(padded, lengths), alone, rtol=1e-5, atol=1e-6)


@every_spec
def test_what_stands_in_the_padding_changes_nothing(spec: Classifier) -> None:
    model, lengths = build(spec).eval(), torch.tensor([9, 15, 4])
    other = frames()
    for row, length in enumerate(lengths.tolist()):
        other[row, length:] = 1000.0
    torch.testing.assert_close(model(other, lengths), model(frames(), lengths), rtol=0, atol=0)


@every_spec
def test_full_lengths_are_the_same_as_none(spec: Classifier) -> None:
    model = build(spec).eval()
    torch.testing.assert_close(model(frames(), torch.full((3,), N_FRAMES)), model(frames()), rtol=1e-5, atol=1e-6)


@every_spec
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(spec: Classifier) -> None:
    model = build(spec)
    torch.autograd.backward(nn.functional.cross_entropy(model(frames(8)), torch.arange(8) % N_CLASSES))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name == "pooling.query.bias":  # a softmax does not change when the same number is added to every score
            assert parameter.grad.abs().max() < 1e-6
        else:
            assert parameter.grad.abs().max() > 1e-6, name


@every_spec
def test_evaluation_is_deterministic_and_training_is_not(spec: Classifier) -> None:
    model = build(spec)
    assert not torch.equal(model(frames()), model(frames()))
    model.eval()
    assert torch.equal(model(frames()), model(frames()))


@every_spec
def test_the_order_of_the_frames_matters(spec: Classifier) -> None:
    model = build(spec).eval()
    assert (model(frames()) - model(frames().flip(1))).abs().max() > 1e-4


@every_spec
def test_the_summary_counts_every_parameter_and_names_every_layer(spec: Classifier) -> None:
    model = build(spec)
    rows = summarise(model, N_FRAMES)
    assert sum(row.n_parameters for row in rows) == sum(p.numel() for p in model.parameters())
    expected = ["conv"] * bool(spec.conv or spec.conv2d)
    expected += [f"{spec.cell} {layer + 1}" for layer in range(spec.n_layers)]
    expected += ["attention"] * (spec.pooling == "attention") + ["output"]
    assert [row.name for row in rows] == expected


@every_spec
def test_the_summary_tells_the_shapes_that_the_layers_give(spec: Classifier) -> None:
    model = build(spec).eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: Any) -> None:
            shapes[name] = tuple((output[0] if isinstance(output, tuple) else output).shape[1:])

        return hook

    model.rnn.register_forward_hook(keep(f"{spec.cell} {spec.n_layers}"))
    model.output.register_forward_hook(keep("output"))
    if model.stem is not None:
        model.stem.register_forward_hook(keep("conv"))
    model(frames())
    told = {row.name: row.shape for row in summarise(model, N_FRAMES)}
    assert {name: told[name] for name in shapes} == shapes


def test_multiply_accumulates_of_a_small_network_by_hand() -> None:
    conv = Conv(n_channels=8, kernel_frames=5, stride_frames=4)
    spec = Classifier(cell="gru", hidden_size=3, n_layers=2, bidirectional=True, conv=conv, pooling="attention")
    rows = {row.name: row for row in summarise(RecurrentClassifier(spec, n_features=10, n_classes=4), n_frames=97)}
    n_frames = 25  # 97 / 4, rounded up
    assert rows["conv"].n_macs == n_frames * 8 * 10 * 5
    assert rows["gru 1"].n_macs == n_frames * 2 * 3 * (3 * 8 + 3 * 3)  # two directions, three gates
    assert rows["gru 2"].n_macs == n_frames * 2 * 3 * (3 * 6 + 3 * 3)
    assert rows["attention"].n_macs == n_frames * 6
    assert rows["output"].n_macs == 6 * 4
    assert rows["conv"].n_parameters == 8 * 10 * 5 + 8 + 2 * 8  # weights, biases, normalisation
    assert rows["gru 1"].n_parameters == 2 * 3 * (3 * 8 + 3 * 3 + 2 * 3)


def test_multiply_accumulates_of_convolutions_over_time_and_frequency_by_hand() -> None:
    spec = Classifier(hidden_size=3, conv2d=Conv2d(n_channels=(8, 6), kernel_frames=7, stride_frames=4))
    row = summarise(RecurrentClassifier(spec, n_features=10, n_classes=4, cepstral=True), n_frames=97)[0]
    n_frames = 25  # 97 / 4, rounded up; 10 bands are 5 after the first convolution, 3 after the second
    assert row.shape == (n_frames, 3 * 6)
    assert row.n_macs == 97 * 10 * 10 + n_frames * 5 * 8 * 7 * 5 + n_frames * 3 * 6 * 8 * 3 * 3
    weights = 10 * 10 + 8 * 7 * 5 + 6 * 8 * 3 * 3
    assert row.n_parameters == weights + 8 + 6 + 2 * 5 * 8 + 2 * 3 * 6  # biases, normalisation


def test_cepstral_coefficients_become_bands_again() -> None:
    bands = torch.randn(2, 9, 40)
    coefficients = bands @ torchaudio.functional.create_dct(40, 40, norm="ortho")
    spec = Classifier(hidden_size=2, conv2d=Conv2d())
    stem = RecurrentClassifier(spec, n_features=40, n_classes=2, cepstral=True).stem
    assert isinstance(stem, Conv2dStem)
    torch.testing.assert_close(stem.bands(coefficients), bands, rtol=1e-4, atol=1e-4)


def test_the_parameters_of_the_classic_example() -> None:
    """Embedding of 1000 words in 64 dimensions, LSTM of 128, dense layer of 10: Keras prints 164,106 parameters.

    Keras gives each gate one vector of biases. torch gives it two, one beside the input weights and one beside the
    recurrent ones, which are only ever added: 4 gates of 128 more, so 164,618 here, for the same set of functions.
    """
    embedding = nn.Embedding(1000, 64)
    spec = Classifier(cell="lstm", hidden_size=128, n_layers=1, bidirectional=False, pooling="last", conv=None)
    classifier = RecurrentClassifier(spec, n_features=64, n_classes=10)
    rows = {row.name: row.n_parameters for row in summarise(classifier, n_frames=20)}
    keras = {"embedding": 1000 * 64, "lstm": 4 * 128 * (64 + 128 + 1), "dense": 10 * (128 + 1)}
    assert sum(keras.values()) == 164_106
    assert embedding.weight.numel() == keras["embedding"]
    assert rows == {"lstm 1": keras["lstm"] + 4 * 128, "output": keras["dense"]}
    assert embedding.weight.numel() + sum(rows.values()) == 164_618
    assert classifier(embedding(torch.arange(40).reshape(2, 20))).shape == (2, 10)


@pytest.mark.parametrize("n_frames", range(1, 12))
@pytest.mark.parametrize("kernel_frames", [1, 3, 5])
def test_a_convolution_divides_the_frames_by_its_stride_and_rounds_up(n_frames: int, kernel_frames: int) -> None:
    for stride in range(1, kernel_frames + 1):
        for options in (
            {"conv": Conv(n_channels=2, kernel_frames=kernel_frames, stride_frames=stride)},
            {"conv2d": Conv2d(n_channels=(2, 1), kernel_frames=kernel_frames, stride_frames=stride)},
        ):
            stem = build(Classifier(hidden_size=2, **options)).stem
            assert stem is not None
            assert stem(frames(1, n_frames), None).shape == (1, -(-n_frames // stride), 2)


def test_recurrent_weights_start_orthogonal_and_forget_gates_open() -> None:
    model = build(Classifier(cell="lstm", hidden_size=5, n_layers=2))
    for name, parameter in model.rnn.named_parameters():
        if name.startswith("weight_hh"):
            for gate in torch.split(parameter, 5):
                torch.testing.assert_close(gate @ gate.T, torch.eye(5), rtol=0, atol=1e-5)
        elif name.startswith("bias_ih"):
            assert parameter.tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10  # input, forget, cell, output


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"n_layers": 0}, "n_layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"cell": "lstm", "nonlinearity": "relu"}, "nonlinearity"),
        ({"cell": "transformer"}, "transformer"),
        ({"pooling": "max"}, "max"),
        ({"conv": {"n_channels": 0}}, "n_channels"),
        ({"conv": {"kernel_frames": 4}}, "kernel_frames"),
        ({"conv": {"kernel_frames": 3, "stride_frames": 5}}, "stride_frames"),
        ({"hidden": 3}, "hidden"),
    ],
)
def test_a_specification_that_cannot_be_built_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(wrong, Classifier)
