"""What a model file says of itself, as text for people."""

from __future__ import annotations

from pathlib import Path

import msgspec

from speechrnn.runtime import find_model, load
from speechrnn.spec import ModelInfo, Struct


def describe_model(model: str | Path) -> str:
    """All that a model file carries besides its weights. Raises ModelFileError."""
    path = find_model(model)
    info = load(path).info
    lines = [f"{path.name}  {path.stat().st_size / 1000:.0f} kB, made {info.provenance.created}"]
    lines += _lines("spec", info.spec)
    lines += _lines("options", info.options)
    lines += _layers(info)
    for title, values in [
        ("data", info.provenance.data),
        ("scores", info.provenance.scores),
        ("training", info.provenance.config.get("train", {})),
        ("augmentation", info.provenance.config.get("augment", {})),
    ]:
        lines += ["", title, *(f"  {name:<24} {_text(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _lines(title: str, struct: Struct) -> list[str]:
    return ["", title, *(f"  {name:<24} {_text(value)}" for name, value in _flat(msgspec.to_builtins(struct)))]


def _flat(tree: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in tree.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [(prefix + name, value)]
    return rows


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else "-" if value in (None, {}) else str(value)


def _layers(info: ModelInfo) -> list[str]:
    """The network layer by layer, where torch is installed to build it."""
    try:
        from speechrnn.models import RecurrentClassifier, summarise
    except ModuleNotFoundError:
        return []
    spec = info.spec
    classifier = RecurrentClassifier(spec.classifier, spec.features.n_features, len(spec.labels.names))
    rows = summarise(classifier, spec.features.n_frames(spec.context_samples, spec.sample_rate_hz))
    lines = ["", f"  {'layer':<12} {'output':>12} {'parameters':>12} {'MACs':>12}"]
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        lines.append(f"  {row.name:<12} {shape:>12} {row.n_parameters:>12,} {row.n_macs:>12,}")
    total_parameters, total_macs = sum(row.n_parameters for row in rows), sum(row.n_macs for row in rows)
    return [*lines, f"  {'total':<12} {'':>12} {total_parameters:>12,} {total_macs:>12,}"]
