"""A model as a folder for others: the ONNX files, what they say as JSON, the weights, and a card that the Hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save

from speechrnn.files import write_whole
from speechrnn.hub import INT8_FILE, MODEL_FILE
from speechrnn.labels import Labels
from speechrnn.recognizer import load
from speechrnn.spec import ModelInfo

FREE_LICENCES = frozenset({"apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "isc", "mit", "unlicense"})
"""Identifiers of the Hub for licences under which weights may be sold."""
_VALIDATION = "validation split of the training data"
_TAGS = ("keyword-spotting", "speech-commands", "wake-word", "onnx", "speechrnn")
_FILES = {
    MODEL_FILE: "the model: waveform in, class scores and embedding out; labels and thresholds in its metadata",
    INT8_FILE: "the same with LSTM layers in 8 bits",
    "config.json": "what the metadata say",
    "model.safetensors": "the weights",
}


class Card(NamedTuple):
    """What a card says that no model file knows."""

    name: str
    """Name of the model."""
    licence: str
    """Licence of the weights, an identifier of the Hub such as `mit`."""
    text: str = ""
    """What follows the title in Markdown, its first paragraph about licences; made of what the model says if empty."""


def write(folder: Path, weights: Mapping[str, np.ndarray], card: Card) -> None:
    """Write config.json, model.safetensors and README.md beside the model.onnx of a folder, and perhaps an int8 one.

    Raises ModelFileError if model.onnx is none, OutputError where nothing can be written.
    """
    info = load(folder / MODEL_FILE).info
    tensors = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    (folder / "model.safetensors").write_bytes(save(tensors))
    write_whole(folder / "config.json", json.dumps(to_config(info), indent=2, ensure_ascii=False) + "\n")
    infos = {file: load(folder / file).info for file in (MODEL_FILE, INT8_FILE) if (folder / file).is_file()}
    write_whole(folder / "README.md", to_markdown(infos, card))


def weights_of(model: Path) -> dict[str, np.ndarray]:
    """The weights of a checkpoint by the names of its layers; of an ONNX file its tensors, as the graph names them."""
    if model.suffix == ".pt":
        from speechrnn.model.network import load_checkpoint

        return {name: value.numpy() for name, value in load_checkpoint(model)[0].state_dict().items()}
    tensors = onnx.load(model).graph.initializer
    return {tensor.name.removeprefix("net."): numpy_helper.to_array(tensor) for tensor in tensors if tensor.dims}


def to_config(info: ModelInfo) -> dict[str, Any]:
    """What other programs look for in config.json, and, under `speechrnn`, the metadata of the model file."""
    names = info.spec.labels.names
    return {
        "model_type": "speechrnn",
        "architectures": ["RecurrentClassifier"],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "sampling_rate": info.spec.sample_rate_hz,
        "speechrnn": msgspec.to_builtins(info),
    }


def to_markdown(infos: Mapping[str, ModelInfo], card: Card) -> str:
    """README.md: the head that the Hub reads, licences first, how the model is used, and what is measured of it."""
    info = infos[MODEL_FILE]
    head = [f"{key}: {_yaml(value)}" for key, value in _head(info, card.licence).items()]
    results = [f"  - {_yaml(result)}" for result in _results(info)]
    index = ["model-index:", f"- name: {_yaml(card.name)}", "  results:", *results] if results else []
    text = card.text.strip() or _text(info, card.licence)
    return "\n".join(["---", *head, *index, "---", "", f"# {card.name}", "", text, "", _usage(infos, card.name)])


def _yaml(value: object) -> str:
    """A value as JSON, which is YAML, too."""
    return json.dumps(value, ensure_ascii=False)


def licence_line(licence: str) -> str:
    """What a card says first where nobody has written one."""
    free = "which allows commercial use" if licence in FREE_LICENCES else "read it before commercial use"
    return f"Licence of the weights: {licence}, {free}. That of the recordings is theirs who made the model to state."


def _head(info: ModelInfo, licence: str) -> dict[str, object]:
    head: dict[str, object] = {
        "license": licence,
        "library_name": "speechrnn",
        "pipeline_tag": "audio-classification",
        "tags": [*_TAGS],
    }
    if info.provenance.config.get("data", {}).get("commands"):
        head |= {"language": ["en"], "datasets": ["google/speech_commands"]}
    return head


def _results(info: ModelInfo) -> Iterator[dict[str, object]]:
    """What was measured, as entries of the model index."""
    for name, value in info.provenance.scores.items():
        if "accuracy" in name or "clips right" in name:
            metric, _, dataset = name.partition(" of ")
            yield _result(dataset or _VALIDATION, "accuracy", metric, value)
    for name, point in info.operating_points.items():
        speech = f"{point.measured_hours or 0:g} h of running speech"
        if point.misses is not None:
            yield _result("spoken keywords", "false_reject_rate", f"misses at {name}", point.misses)
        if point.false_alarms_per_hour is not None:
            rate = point.false_alarms_per_hour
            yield _result(speech, "false_alarms_per_hour", f"false alarms per hour at {name}", rate)


def _result(dataset: str, kind: str, metric: str, value: float) -> dict[str, object]:
    return {
        "task": {"type": "audio-classification", "name": "Keyword spotting"},
        "dataset": {"type": "google/speech_commands" if "speech_commands" in dataset else "audio", "name": dataset},
        "metrics": [{"type": kind, "name": metric, "value": value}],
    }


def _text(info: ModelInfo, licence: str) -> str:
    """A card of what the model says of itself."""
    spec, provenance = info.spec, info.provenance
    clips = _table(
        ("training clips of", ""), ((name.removeprefix("training "), n) for name, n in provenance.data.items())
    )
    scores = _table(("score", ""), provenance.scores.items())
    return (
        f"{licence_line(licence)}\n\n{_classes(spec.labels)}, in {spec.context_ms / 1000:g} s of audio at "
        f"{spec.sample_rate_hz / 1000:g} kHz. Made {provenance.created or 'at an unknown date'} with speechrnn "
        f"{provenance.speechrnn_version}.\n\n{clips}{scores}"
    ).strip()


def _classes(labels: Labels) -> str:
    others = labels.names[len(labels.keywords) :]
    return f"Recognises **{'**, **'.join(labels.keywords)}**" + "".join(f", {name}" for name in others)


def _table(head: tuple[str, str], rows: Any) -> str:
    """A table in Markdown, or nothing without rows."""
    lines = [f"| {name} | {value:.10g} |" for name, value in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines, "", ""]) if lines else ""


def _usage(infos: Mapping[str, ModelInfo], name: str) -> str:
    files = [f"| `{file}` | {what} |" for file, what in _FILES.items() if file != INT8_FILE or file in infos]
    int8 = infos[INT8_FILE].provenance.scores.items() if INT8_FILE in infos else ()
    checked = _table(("8 bits against float32", ""), [item for item in int8 if item[0].startswith("int8: ")])
    return (
        "## How to use it\n\n"
        "```console\n$ pip install 'speechrnn[hub,mic]'\n"
        f"$ speechrnn listen --model OWNER/{name}\n```\n\n"
        f'```python\nimport speechrnn\n\nfound = speechrnn.transcribe("talk.wav", model="OWNER/{name}")\n```\n\n'
        + "\n".join(["| file | |", "|---|---|", *files])
        + (f"\n\n{checked}" if checked else "\n").rstrip("\n")
        + "\n"
    )
