"""What keeps the house in order: the import map, what importing costs and does, and what the package shows."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "speechrnn"

# Each room may import, when it is imported itself, only the rooms named beside it.
INFERENCE = {
    "errors": set[str](),
    "labels": set[str](),
    "spec": {"labels"},
    "config": {"errors", "spec"},
    "audio": {"errors"},
    "detector": {"errors", "labels", "spec"},
    "sources": {"audio", "errors"},
    "listening": {"audio", "detector", "errors", "formats", "runtime", "sources", "spec", "spotter"},
    "view": {"audio", "detector", "sources", "spotter"},
    "doctor": {"audio", "errors", "runtime", "sources", "__init__"},
    "runtime": {"audio", "errors", "spec"},
    "spotter": {"audio", "detector", "runtime", "spec"},
    "formats": {"detector"},
    "evaluation": {"audio", "errors", "runtime", "spec", "spotter", "labels", "sources", "dataset"},
    "describe": {"runtime", "spec"},
    "cli": {"errors", "__init__"},
    "protocol": {"audio", "detector", "errors", "spec"},
    "batching": {"audio", "runtime"},
    "uploads": {"audio", "detector", "errors", "formats", "runtime", "sources", "spec", "spotter"},
    "service": {"audio", "batching", "detector", "errors", "protocol", "runtime", "spec", "spotter", "uploads"},
    "server": {"errors", "protocol", "service"},
    "dataset": {"audio", "config", "errors", "labels", "spec"},
}
TRAINING = {
    "features": {"spec"},
    "models": {"spec"},
    "recognizer": {"errors", "features", "models", "spec"},
    "augment": {"config"},
    "training": {"augment", "audio", "config", "dataset", "errors", "labels", "recognizer", "spec", "__init__"},
    "export": {"audio", "errors", "features", "recognizer", "runtime", "spec"},
}
HEAVY = {"torch", "torchaudio", "lightning_fabric", "onnx", "onnxscript", "matplotlib", "tomli_w", "scipy", "librosa"}


def _imports(path: Path) -> set[str]:
    """Modules that a file imports at its top level, outside TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "speechrnn" else node.module for alias in node.names
            }
    return found


def test_the_map_names_every_room() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert rooms == INFERENCE.keys() | TRAINING.keys()


@pytest.mark.parametrize(("room", "allowed"), [*INFERENCE.items(), *TRAINING.items()])
def test_rooms_import_downward_only(room: str, allowed: set[str]) -> None:
    imported = {name.removeprefix("speechrnn.") for name in _imports(PACKAGE / f"{room}.py") if "speechrnn" in name}
    assert {"__init__" if name == "speechrnn" else name for name in imported} <= allowed


@pytest.mark.parametrize("room", INFERENCE)
def test_inference_needs_nothing_of_the_train_extra(room: str) -> None:
    assert not {name.split(".")[0] for name in _imports(PACKAGE / f"{room}.py")} & HEAVY


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_the_library_knows_no_pipeline(path: Path) -> None:
    assert not any(name.startswith("pipelines") for name in _imports(path))


def test_transcribing_loads_no_torch_and_changes_nothing_in_the_process() -> None:
    code = (
        "import json, logging, signal, sys, threading\n"
        "before = (logging.root.handlers[:], signal.getsignal(signal.SIGINT), threading.active_count())\n"
        "import speechrnn.cli, speechrnn.spotter, speechrnn.sources, speechrnn.formats, speechrnn.evaluation\n"
        "after = (logging.root.handlers[:], signal.getsignal(signal.SIGINT), threading.active_count())\n"
        "print(json.dumps([before == after, sorted(sys.modules)]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    unchanged, modules = json.loads(output)
    assert unchanged
    assert not HEAVY & {name.split(".")[0] for name in modules}
    assert "onnxruntime" not in modules  # loaded with the first model


def test_the_command_line_starts_with_few_imports() -> None:
    code = "import sys, speechrnn.cli; print(len(sys.modules), 'numpy' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    n_modules, has_numpy = output.split()
    assert has_numpy == "False"
    assert int(n_modules) < 250


def test_the_package_says_it_is_typed_and_ships_a_model_with_its_card() -> None:
    assert (PACKAGE / "py.typed").exists()
    models = sorted((PACKAGE / "pretrained").glob("*.onnx"))
    assert [path.stem for path in models] == ["commands8"]
    assert all(path.with_suffix(".md").exists() and path.stat().st_size < 3_000_000 for path in models)


def test_nothing_tracked_is_audio_of_the_data_set() -> None:
    names = [path.name for folder in ("examples", "tests", "speechrnn") for path in (ROOT / folder).rglob("*")]
    assert names
    assert not [name for name in names if "_nohash_" in name]
