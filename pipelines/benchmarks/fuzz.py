"""Give malformed audio, models and configurations to the functions that load them, and count what becomes of them.

    python -m pipelines.benchmarks.fuzz 1000 1

So many inputs of each kind, the same for each seed. Right is what loads, or is refused with one line of error; anything
else that is raised is a fault, and ends the program with exit code 1. A crash or a hang ends it by itself.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import soundfile

from speechrnn.cli.console import run_program
from speechrnn.config import load_experiment
from speechrnn.decoding import open_audio
from speechrnn.errors import SpeechRnnError, first_line
from speechrnn.labels import Labels
from speechrnn.model.network import RecognizerNet
from speechrnn.recognizer import METADATA_KEY, find_model, load
from speechrnn.spec import Classifier, LogMel, ModelInfo, Spec

ROOT = Path(__file__).parents[2]
_MAX_MESSAGE = 2000
_FORMATS = (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"))
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    2**31,
    2**63,
    10**30,
    0.5,
    -1e308,
    1e-320,
    "",
    "x",
    "\0",
    "ü" * 5000,
    [],
    {},
    [1],
)
_LONG_TEXT, _DEEP_LIST = f'"{"a" * 5000}"', "[" * 2000 + "]" * 2000
_TOML = (
    *("0", "-1", "nan", "-inf", "1e308", "5e-324", "9" * 30, "9" * 4301, "0x" + "f" * 300, "true", '"x"', '"\\u0000"'),
    *("[]", "[nan, nan]", '["a", "a"]', '[""]', "{}", "1979-05-27", "(", _LONG_TEXT, _DEEP_LIST),
)


class Kind(NamedTuple):
    """One kind of input: the name of its file, what makes its content, and what loads it."""

    file: str
    content: Callable[[np.random.Generator], bytes]
    load: Callable[[Path], object]


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Content with some bytes changed, mostly near its beginning or end, or with a part cut out."""
    changed = bytearray(content)
    if random.random() < 0.3:
        start, end = sorted(random.integers(0, len(changed), 2))
        del changed[start : end if random.random() < 0.5 else None]
    for _ in range(int(random.choice([0, 1, 4, 40]))):
        if changed:
            reach = len(changed) if random.random() < 0.3 else min(len(changed), 500)
            at = int(random.integers(reach)) * (1 if random.random() < 0.7 else -1)
            changed[at] = int(random.integers(256))
    return bytes(changed)


def _with_other_values(tree: Any, random: np.random.Generator) -> None:
    """Put another value, or one of the wrong kind, in one or two places of a tree of JSON."""
    for _ in range(int(random.integers(1, 3))):
        node, key = tree, None
        while isinstance(node, dict | list) and node and (key is None or random.random() < 0.8):
            parent = node
            key = [*node][random.integers(len(node))] if isinstance(node, dict) else int(random.integers(len(node)))
            node = parent[key]
        if key is not None:
            parent[key] = deepcopy(_VALUES[random.integers(len(_VALUES))])  # for it may get other values inside


def _audio(random: np.random.Generator) -> bytes:
    name, subtype = _FORMATS[random.integers(len(_FORMATS))]
    written, samples = io.BytesIO(), random.normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(written, samples, 16000, format=name, subtype=subtype)
    return damaged(written.getvalue(), random)


def _decode(path: Path) -> None:
    with open_audio(path) as file:
        for block in file.blocks(16000):
            if not np.isfinite(block).all():
                raise FloatingPointError("samples that are not finite")


def _small_info() -> ModelInfo:
    features = LogMel(n_mels=16, f_max_hz=3800.0)
    return ModelInfo(spec=Spec(labels=Labels(("yes", "no")), features=features, classifier=Classifier(hidden_size=8)))


def _onnx(random: np.random.Generator) -> bytes:
    model = onnx.load(find_model("commands10"))
    if random.random() < 0.3:
        return damaged(model.SerializeToString(), random)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    info = msgspec.json.decode(entry.value)
    _with_other_values(info, random)
    entry.value = msgspec.json.encode(info).decode()
    return bytes(model.SerializeToString())


def _checkpoint(random: np.random.Generator) -> bytes:
    import torch

    info = _small_info()
    tree = msgspec.to_builtins(info)
    if random.random() < 0.6:
        _with_other_values(tree, random)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = dict(RecognizerNet(info.spec).state_dict())
    if random.random() < 0.3:
        name = [*weights][random.integers(len(weights))]
        weights[name] = [torch.zeros(0), weights[name].double(), weights[name] * np.nan, "x"][random.integers(4)]
    written = io.BytesIO()
    torch.save({"info": msgspec.json.encode(tree).decode(), "weights": weights}, written)
    return damaged(written.getvalue(), random) if random.random() < 0.3 else written.getvalue()


def _configuration(random: np.random.Generator) -> bytes:
    lines = (ROOT / "configs" / "base.toml").read_text(encoding="utf-8").splitlines()
    settings = [number for number, line in enumerate(lines) if re.match(r"\w+ *=", line)]
    for number in random.choice(settings, int(random.integers(1, 4))):
        lines[number] = f"{lines[number].split('=')[0]}= {_TOML[random.integers(len(_TOML))]}"
    content = '[model.labels]\nkeywords = ["yes", "no"]\n' + "\n".join(lines)
    return damaged(content.encode(), random) if random.random() < 0.2 else content.encode()


KINDS = {
    "audio": Kind("case.bin", _audio, _decode),
    "ONNX models": Kind("case.onnx", _onnx, load),
    "checkpoints": Kind("case.pt", _checkpoint, load),
    "configurations": Kind("case.toml", _configuration, load_experiment),
}


def outcome(kind: Kind, seed: int, number: int, folder: Path) -> str:
    """What becomes of one input: `loaded`, `refused`, or what was wrong."""
    path = folder / kind.file
    path.write_bytes(kind.content(np.random.default_rng([seed, number])))
    try:
        kind.load(path)
    except SpeechRnnError as error:
        message = str(error)
        return "refused" if "\n" not in message and len(message) < _MAX_MESSAGE else f"unclear: {message[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return "loaded"


def count(kind: Kind, n: int, seed: int) -> Counter[str]:
    """What becomes of `n` inputs of a kind."""
    with tempfile.TemporaryDirectory() as folder:
        return Counter(outcome(kind, seed, number, Path(folder)) for number in range(n))


def main() -> None:
    """Read the number and the seed, and print what became of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, help="inputs of each kind")
    parser.add_argument("seed", type=int)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=[*KINDS], metavar="KIND", help="these alone")
    arguments, n_faults = parser.parse_args(), 0
    for name in arguments.only:
        started, found = time.monotonic(), count(KINDS[name], arguments.n, arguments.seed)
        n_loaded, n_refused = found.pop("loaded", 0), found.pop("refused", 0)
        took_s = time.monotonic() - started
        print(f"{name}: {n_loaded} loaded, {n_refused} refused, {found.total()} faults, {took_s:.0f} s")
        for fault, n in found.items():
            print(f"  {n} times {fault}")
        n_faults += found.total()
    sys.exit(1 if n_faults else 0)


if __name__ == "__main__":
    run_program(main)
