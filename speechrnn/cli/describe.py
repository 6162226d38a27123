"""What a model file says of itself, as text for people."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from speechrnn.errors import missing_extra
from speechrnn.evaluation.metrics import poisson_upper_bound
from speechrnn.recognizer import find_model, load
from speechrnn.spec import ModelInfo, OperatingPoint


def describe_model(model: str | Path) -> str:
    """All that a model file carries besides its weights. Raises ModelFileError."""
    path = find_model(model)
    info = load(path).info
    provenance = info.provenance
    kind = "training checkpoint" if path.suffix == ".pt" else "ONNX model"
    head = [
        f"{path.name}  {path.stat().st_size / 1000:.0f} kB",
        f"{kind}, format {info.format}, made {provenance.created} by speechrnn {provenance.speechrnn_version}",
    ]
    trees = {
        "spec": msgspec.to_builtins(info.spec),
        "options": msgspec.to_builtins(info.options),
        **{f"operating point: {name}": _point(point) for name, point in info.operating_points.items()},
        "clips": provenance.data,
        "scores": provenance.scores,
        **{f"trained with: {part}": provenance.config.get(part, {}) for part in ("data", "augment", "train")},
    }
    sections = {title: _flat(tree) for title, tree in trees.items()}
    width = max(len(name) for rows in sections.values() for name, _ in rows)
    spec, *others = (_lines(title, rows, width) for title, rows in sections.items())
    return "\n".join([*head, *spec, *_layers(info), *itertools.chain(*others)]) + "\n"


def _point(point: OperatingPoint) -> dict[str, object]:
    """The choices of an operating point, and what it rests on, with the 95 % upper bound of its false alarms."""
    rests_on = ("misses", "n_keywords", "false_alarms_per_hour_bound", "n_false_alarms", "measured_hours")
    tree = msgspec.to_builtins(point)
    given = {field: value for field, value in tree.items() if value not in (None, {}) and field not in rests_on}
    if point.misses is not None:
        of_how_many = f" of {point.n_keywords} keywords" if point.n_keywords is not None else ""
        given["misses"] = f"{100 * point.misses:.1f} %{of_how_many}"
    rate, hours = point.false_alarms_per_hour, point.measured_hours
    if rate is not None and hours:
        n = round(rate * hours) if point.n_false_alarms is None else point.n_false_alarms
        bound = poisson_upper_bound(n) / hours
        given["false_alarms_per_hour"] = f"{rate:.10g} ({n} in {hours:.10g} h; 95 % upper bound {bound:.2g})"
    return given


def _lines(title: str, rows: Iterable[tuple[str, object]], width: int) -> list[str]:
    return ["", title, *(f"  {name:<{width}}  {_text(value)}" for name, value in rows)]


def _flat(tree: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in tree.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [(prefix + name, value)]
    return rows


def _text(value: object) -> str:
    if value is None or value in ([], (), {}):
        return "-"
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _layers(info: ModelInfo) -> list[str]:
    """The network layer by layer, where torch is installed to build it."""
    try:
        from speechrnn.model.classifier import RecurrentClassifier, summarise
    except ModuleNotFoundError as error:
        return ["", f"layers: not shown, for {missing_extra(error.name)}"]
    spec = info.spec
    features, n_classes = spec.features, len(spec.labels.names)
    classifier = RecurrentClassifier(spec.classifier, features.n_features, n_classes, cepstral=features.is_cepstral)
    rows = summarise(classifier, features.n_frames(spec.context_samples, spec.sample_rate_hz))
    lines = ["", "layers", f"  {'layer':<12} {'output':>12} {'parameters':>12} {'MACs':>12}"]
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        lines.append(f"  {row.name:<12} {shape:>12} {row.n_parameters:>12,} {row.n_macs:>12,}")
    total_parameters, total_macs = sum(row.n_parameters for row in rows), sum(row.n_macs for row in rows)
    return [*lines, f"  {'total':<12} {'':>12} {total_parameters:>12,} {total_macs:>12,}"]
