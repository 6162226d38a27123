"""Recurrent classifiers: frames [B, N, F] to logits [B, C]. Knows nothing of audio, features or labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torchaudio.functional
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from speechrnn.spec import Classifier

_CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class ConvStem(nn.Module):
    """Convolution over time, layer normalisation and ReLU. N frames become ceil(N / stride)."""

    def __init__(self, n_features: int, n_channels: int, kernel_frames: int, stride_frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_features, n_channels, kernel_frames, stride_frames, padding=kernel_frames // 2)
        self.norm = nn.LayerNorm(n_channels)
        self.n_outputs, self.stride_frames = n_channels, stride_frames

    def forward(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """Frames [B, N, F] to [B, ceil(N / stride), n_channels], zero where the mask of the latter [B, N'] is."""
        convolved: Tensor = self.conv(frames.transpose(1, 2))
        states = torch.relu(self.norm(convolved.transpose(1, 2)))
        return states if mask is None else states * mask.unsqueeze(-1)

    def n_macs(self, n_frames: int) -> int:
        """Multiply-accumulates for so many frames."""
        return -(-n_frames // self.stride_frames) * self.conv.weight.numel()


class Conv2dStem(nn.Module):
    """Convolutions over time and frequency, each with layer normalisation and ReLU.

    The first shortens N frames to ceil(N / stride), and each halves the bands. Cepstral coefficients, normalised as
    they come, are made bands again first, by a linear layer that starts as the inverse cosine transform: another voice
    moves a word along the bands, where a convolution finds it, and coefficients do not show it.
    """

    def __init__(
        self, n_features: int, n_channels: tuple[int, ...], kernel_frames: int, stride_frames: int, *, cepstral: bool
    ) -> None:
        super().__init__()
        self.bands = nn.Linear(n_features, n_features, bias=False) if cepstral else nn.Identity()
        if isinstance(self.bands, nn.Linear):
            self.bands.weight.data = torchaudio.functional.create_dct(n_features, n_features, norm="ortho")
        n_bands = [-(-n_features // 2**layer) for layer in range(1, len(n_channels) + 1)]
        first = nn.Conv2d(1, n_channels[0], (kernel_frames, 5), (stride_frames, 2), (kernel_frames // 2, 2))
        others = [nn.Conv2d(n, m, 3, (1, 2), 1) for n, m in itertools.pairwise(n_channels)]
        convs = [first, *others]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList([nn.LayerNorm([*shape]) for shape in zip(n_bands, n_channels, strict=True)])
        self.n_outputs, self.stride_frames = n_bands[-1] * n_channels[-1], stride_frames
        self._n_macs_per_frame: int = sum(n * conv.weight.numel() for n, conv in zip(n_bands, convs, strict=True))

    def forward(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        """Frames [B, N, F] to [B, ceil(N / stride), n_outputs], zero where the mask of the latter [B, N'] is."""
        states = self.bands(frames).unsqueeze(1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            normed = torch.relu(norm(conv(states).permute(0, 2, 3, 1)))  # [B, N', bands, channels]
            if mask is not None:
                normed = normed * mask[:, :, None, None]
            states = normed.permute(0, 3, 1, 2)
        flat: Tensor = states.permute(0, 2, 3, 1).flatten(2)
        return flat

    def n_macs(self, n_frames: int) -> int:
        """Multiply-accumulates for so many frames."""
        n_macs = n_frames * self.bands.weight.numel() if isinstance(self.bands, nn.Linear) else 0
        return n_macs + -(-n_frames // self.stride_frames) * self._n_macs_per_frame


def _build_stem(spec: Classifier, n_features: int, *, cepstral: bool) -> ConvStem | Conv2dStem | None:
    conv, conv2d = spec.conv, spec.conv2d
    if conv2d:
        channels, kernel, stride = conv2d.n_channels, conv2d.kernel_frames, conv2d.stride_frames
        return Conv2dStem(n_features, channels, kernel, stride, cepstral=cepstral)
    return ConvStem(n_features, conv.n_channels, conv.kernel_frames, conv.stride_frames) if conv else None


class AttentionPooling(nn.Module):
    """Weighted mean over time, the weights being a softmax of each frame's product with one learned query."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.query = nn.Linear(n_features, 1, bias=False)  # which the softmax would take out again

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """States [B, N, D] and a mask [B, N] of real frames (None: all) to [B, D]."""
        scores = self.query(states)
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(-1), float("-inf"))
        pooled: Tensor = (states * scores.softmax(dim=1)).sum(dim=1)
        return pooled


class RecurrentClassifier(nn.Module):
    """[convolution] -> recurrent layers -> pooling over time -> linear layer, as `spec` says."""

    def __init__(self, spec: Classifier, n_features: int, n_classes: int, *, cepstral: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.stem = _build_stem(spec, n_features, cepstral=cepstral)
        n_inputs = self.stem.n_outputs if self.stem else n_features
        options: dict[str, Any] = {"nonlinearity": spec.nonlinearity} if spec.cell == "rnn" else {}
        self.rnn: nn.RNNBase = _CELLS[spec.cell](
            n_inputs,
            spec.hidden_size,
            spec.n_layers,
            batch_first=True,
            dropout=spec.dropout if spec.n_layers > 1 else 0.0,
            bidirectional=spec.bidirectional,
            **options,
        )
        n_states = spec.hidden_size * (2 if spec.bidirectional else 1)
        self.pooling = AttentionPooling(n_states) if spec.pooling == "attention" else None
        self.dropout = nn.Dropout(spec.dropout)
        self.output = nn.Linear(n_states, n_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Orthogonal recurrent weights (Saxe et al., 2013), LSTM forget gates open (Jozefowicz et al., 2015)."""
        size = self.spec.hidden_size
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("weight_hh"):
                for gate in torch.split(parameter.data, size):
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
                if self.spec.cell == "lstm" and name.startswith("bias_ih"):
                    parameter.data[size : 2 * size] = 1.0

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames [B, N, F], of which `lengths` [B] are real in each row (None: all), to logits [B, C]."""
        logits: Tensor = self.output(self.dropout(self.embed(frames, lengths)))
        return logits

    def embed(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames [B, N, F], of which `lengths` [B] are real in each row (None: all), to what is classified [B, D]."""
        mask = None
        if lengths is not None:
            mask = _mask(lengths, frames.shape[1])
            frames = frames * mask.unsqueeze(-1)
        if self.stem is not None:
            if lengths is not None:
                lengths = -(-lengths // self.stem.stride_frames)
                mask = _mask(lengths, -(-frames.shape[1] // self.stem.stride_frames))
            frames = self.stem(frames, mask)
        if lengths is None:
            states, _ = self.rnn(frames)
        else:
            packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=frames.shape[1])
        return self._pool(states, mask)

    def _pool(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """States [B, N, D] to [B, D]."""
        if self.pooling is not None:
            pooled: Tensor = self.pooling(states, mask)
            return pooled
        if self.spec.pooling == "mean":
            return states.mean(1) if mask is None else states.sum(1) / mask.sum(1, keepdim=True)
        last = states[:, -1] if mask is None else states[torch.arange(len(states)), mask.sum(1) - 1]
        if not self.spec.bidirectional:
            return last
        size = self.spec.hidden_size  # the backward direction has read everything at the first frame
        return torch.cat([last[:, :size], states[:, 0, size:]], dim=1)


def _mask(lengths: Tensor, n_frames: int) -> Tensor:
    return torch.arange(n_frames, device=lengths.device) < lengths.unsqueeze(1)


class LayerSummary(NamedTuple):
    """The cost of one layer."""

    name: str
    """Name of the layer."""
    shape: tuple[int, ...]
    """Shape of its output without the batch."""
    n_parameters: int
    """Trainable parameters."""
    n_macs: int
    """Multiply-accumulates."""


def summarise(classifier: RecurrentClassifier, n_frames: int) -> list[LayerSummary]:
    """Layers of a classifier with their cost for one sequence of `n_frames` frames.

    Multiply-accumulates count the matrix products alone, not biases, activations or the pooling.
    """

    def n_parameters(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

    spec, stem, rows = classifier.spec, classifier.stem, []
    if stem is not None:
        n_macs, n_frames = stem.n_macs(n_frames), -(-n_frames // stem.stride_frames)
        rows.append(LayerSummary("conv", (n_frames, stem.n_outputs), n_parameters(stem), n_macs))
    n_directions = 2 if spec.bidirectional else 1
    for layer in range(spec.n_layers):
        named = [
            (name, p)
            for name, p in classifier.rnn.named_parameters()
            if name.partition("_l")[2].split("_")[0] == str(layer)
        ]
        n_weights = sum(p.numel() for name, p in named if name.startswith("weight"))
        rows.append(
            LayerSummary(
                f"{spec.cell} {layer + 1}",
                (n_frames, spec.hidden_size * n_directions),
                sum(p.numel() for _, p in named),
                n_frames * n_weights,
            )
        )
    if classifier.pooling is not None:
        query = classifier.pooling.query
        rows.append(LayerSummary("attention", (query.in_features,), n_parameters(query), n_frames * query.in_features))
    output = classifier.output
    rows.append(LayerSummary("output", (output.out_features,), n_parameters(output), output.weight.numel()))
    return rows
