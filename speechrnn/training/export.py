"""Checkpoint to ONNX: the front-end inside, the batch dynamic, all else in the metadata, parity checked."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import msgspec
import numpy as np
import torch
from onnxscript.optimizer import optimize
from torch import Tensor, nn

from speechrnn.audio import Samples
from speechrnn.errors import ModelFileError
from speechrnn.files import write_whole
from speechrnn.model.features import fold_spectrograms
from speechrnn.model.network import RecognizerNet
from speechrnn.recognizer import METADATA_KEY, load
from speechrnn.spec import ModelInfo, Spec
from speechrnn.training.quantization import recordings_of

MAX_DIFFERENCE = 1e-4


def export(net: RecognizerNet, info: ModelInfo, contexts: Samples, path: Path) -> float:
    """Write `net` with `info` as one self-contained ONNX file, checked on real audio [B, context_samples].

    Returns the largest difference of a logit between ONNX Runtime and torch, one context at a time and all at once.
    Raises ModelFileError, and writes nothing, if it exceeds 1e-4.
    """
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "model.onnx"
        _write(net, info, part)
        recognizer = load(part)
        with torch.inference_mode():
            expected = net(torch.from_numpy(contexts)).numpy()
        singly = np.concatenate([recognizer.logits(row[None]) for row in contexts])
        difference = float(np.abs(np.stack([singly, recognizer.logits(contexts)]) - expected).max())
        if not difference <= MAX_DIFFERENCE:
            raise ModelFileError(
                f"{path}: not written: the exported model differs from torch by {difference:.2g} on real audio, "
                f"at most {MAX_DIFFERENCE:g} is allowed"
            )
        write_whole(path, part.read_bytes())
    return difference


def contexts_of(folder: Path, spec: Spec, n: int = 64) -> Samples:
    """The beginnings of some `n` recordings, spread evenly over a folder, as contexts [B, context_samples].

    Shorter recordings are padded with zeros; a file is a folder of one. Raises AudioError if one cannot be read.
    """
    length = spec.context_samples
    clips = [clip[:length] for clip in recordings_of(folder, spec.sample_rate_hz, n)]
    return np.stack([np.pad(clip, (0, length - len(clip))) for clip in clips])


class _WithEmbedding(nn.Module):
    """A network that gives its embedding beside the logits."""

    def __init__(self, net: RecognizerNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [B, T] in [-1, 1] to logits [B, C] and embeddings [B, D]."""
        embedding = self.net.embed(samples)
        return self.net.classifier.output(embedding), embedding


def _write(net: RecognizerNet, info: ModelInfo, path: Path) -> None:
    samples = torch.zeros(2, net.spec.context_samples)
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            program = torch.onnx.export(
                fold_spectrograms(_WithEmbedding(net)).eval(),
                (samples,),
                dynamo=True,
                dynamic_shapes={"samples": {0: torch.export.Dim("batch")}},
                input_names=["samples"],
                output_names=["logits", "embedding"],
                optimize=False,
                verbose=False,
            )
            assert program is not None
            optimize(program.model, output_size_limit=4096)  # larger constants are cheaper to compute than to store
    finally:
        registration.setLevel(level)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces of the exporting machine
    program.model.metadata_props[METADATA_KEY] = msgspec.json.encode(info).decode()
    program.save(path)
