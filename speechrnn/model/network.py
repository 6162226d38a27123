"""Features, normalisation and classifier as one network, and its checkpoint: plain data, no pickled code."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from speechrnn.errors import ModelFileError, first_line
from speechrnn.files import writing
from speechrnn.model.classifier import RecurrentClassifier
from speechrnn.model.features import FeatureNorm, build_front_end
from speechrnn.spec import ModelInfo, Spec


def _classifier_of(spec: Spec) -> RecurrentClassifier:
    return RecurrentClassifier(
        spec.classifier, spec.features.n_features, len(spec.labels.names), cepstral=spec.features.is_cepstral
    )


class RecognizerNet(nn.Module):
    """Waveform in, class scores out: the whole of what a model file computes."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.front_end = build_front_end(spec.features, spec.sample_rate_hz)
        self.norm = FeatureNorm(spec.features.n_features)
        self.classifier = _classifier_of(spec)

    def frames(self, samples: Tensor) -> Tensor:
        """Samples [B, T] in [-1, 1] to normalised frames [B, N, F]."""
        frames: Tensor = self.norm(self.front_end(samples))
        return frames

    def embed(self, samples: Tensor) -> Tensor:
        """Samples [B, T] in [-1, 1] to embeddings [B, D], of which the logits are a linear function."""
        embedding: Tensor = self.classifier.embed(self.frames(samples))
        return embedding

    def forward(self, samples: Tensor) -> Tensor:
        """Samples [B, T] in [-1, 1] to logits [B, C]."""
        logits: Tensor = self.classifier(self.frames(samples))
        return logits


def write_atomically(content: dict[str, Any], path: Path) -> None:
    """Save with torch so that a reader, or a run after kill -9, finds the old file or the new one, both whole.

    Raises OutputError where it cannot be written, as on a full disk; the old file stays.
    """
    part = path.with_name(path.name + ".part")
    packed = io.BytesIO()  # torch hides the reason of a write that fails
    torch.save(content, packed)
    with writing(path):
        try:
            with part.open("wb") as file:
                file.write(packed.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            part.unlink(missing_ok=True)
            raise
        part.replace(path)


def save_checkpoint(path: Path, net: RecognizerNet, info: ModelInfo) -> None:
    """Write a checkpoint: the weights, and everything else as one JSON text."""
    write_atomically({"info": msgspec.json.encode(info).decode(), "weights": net.state_dict()}, path)


def load_checkpoint(path: Path) -> tuple[RecognizerNet, ModelInfo]:
    """Read a checkpoint. Raises ModelFileError if it is missing, truncated, holds code, or is something else."""
    content = load_plain(path)
    if "optimizer" in content:
        raise ModelFileError(f"{path}: the state of a training run, not a model; give best.pt, which lies beside it")
    try:
        info = msgspec.json.decode(content["info"], type=ModelInfo)
        _check_size(info.spec, path.stat().st_size)
        net = RecognizerNet(info.spec)
        _check_kinds(content["weights"], net)
        net.load_state_dict(content["weights"])
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, msgspec.DecodeError) as error:
        raise ModelFileError(f"{path}: not a speechrnn checkpoint ({first_line(error)})") from None
    return net.eval(), info


def _check_size(spec: Spec, n_bytes: int) -> None:
    """Raise ValueError if a file of so many bytes cannot hold the weights of a network, before it is made."""
    with torch.device("meta"):
        classifier = _classifier_of(spec)
    needed = sum(parameter.numel() * parameter.element_size() for parameter in classifier.parameters())
    if needed > n_bytes:
        raise ValueError(f"expected weights of {needed} bytes for the network that it describes, got {n_bytes} in all")


def _check_kinds(weights: dict[str, Tensor], net: nn.Module) -> None:
    """Raise ValueError for a tensor of another kind than the network's, which torch would convert with a warning."""
    for name, own in net.state_dict().items():
        if name in weights and (weights[name].dtype, weights[name].layout) != (own.dtype, own.layout):
            raise ValueError(f"expected {name} as {own.dtype}, got {weights[name].dtype}, {weights[name].layout}")


def load_plain(path: Path) -> dict[str, Any]:
    """The dictionary in a file written by torch, tensors and plain data only. Raises ModelFileError otherwise."""
    _check_unpacked_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of files that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ModelFileError(f"{path}: cannot read the checkpoint ({error.strerror})") from None
    except pickle.UnpicklingError:
        raise ModelFileError(f"{path}: holds more than plain data, or is no checkpoint; refused") from None
    except Exception as error:  # unpickling damaged bytes raises nearly anything
        raise ModelFileError(f"{path}: damaged, or no checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ModelFileError(
            f"{path}: not a speechrnn checkpoint (expected a dictionary, got {type(content).__name__})"
        )
    return content


def _check_unpacked_size(path: Path) -> None:
    """Raise ModelFileError for a zip archive that unpacks to more than its own size; torch compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, struct.error):
        return  # torch says what is wrong
    if unpacked > path.stat().st_size:
        raise ModelFileError(f"{path}: unpacks to {unpacked} bytes, more than its own size; no file of torch, refused")
