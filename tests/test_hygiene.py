"""What keeps the house in order: the import map, what importing costs and does, and what the package shows."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import speechrnn

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "speechrnn"

# The rooms that each room imports, at its top or inside a function. A test holds that they are these, no more or fewer.
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
    "runtime": {"audio", "errors", "recognizer", "spec"},
    "spotter": {"audio", "detector", "runtime", "spec"},
    "formats": {"detector"},
    "truth": {"detector", "errors", "formats"},
    "scoring": {"detector", "labels", "spec", "truth"},
    "metrics": {"errors"},
    "evaluation": {"audio", "dataset", "errors", "labels", "metrics", "runtime"},
    "report": {"evaluation", "plots"},
    "describe": {"models", "runtime", "spec"},
    "outputs": {"errors"},
    "cli": {
        *("audio", "config", "dataset", "describe", "detector", "doctor", "errors", "evaluation", "export", "formats"),
        *("listening", "outputs", "plots", "recognizer", "report", "runtime", "scoring", "sources", "spotter"),
        *("training", "truth", "view", "__init__"),
        *("server", "service"),
    },
    "confusables": {"errors"},
    "synthesis": {"audio", "config", "confusables", "errors"},
    "dataset": {"audio", "config", "errors", "labels", "synthesis"},
    "channels": {"audio", "config", "dataset"},
    "contexts": {"audio", "channels", "config", "dataset", "errors", "labels", "spec"},
    "protocol": {"audio", "detector", "errors", "spec"},
    "batching": {"audio", "runtime"},
    "uploads": {"audio", "detector", "errors", "formats", "listening", "runtime", "sources", "spec", "spotter"},
    "service": {"audio", "batching", "detector", "errors", "protocol", "runtime", "spec", "spotter", "uploads"},
    "server": {"errors", "protocol", "service"},
}
TRAINING = {
    "features": {"spec"},
    "models": {"spec"},
    "recognizer": {"errors", "features", "models", "spec"},
    "augment": {"config"},
    "training": {
        "augment",
        "audio",
        "config",
        "contexts",
        "dataset",
        "errors",
        "labels",
        "metrics",
        "recognizer",
        "spec",
        "__init__",
    },
    "plots": {"evaluation", "metrics", "scoring"},
    "export": {"audio", "errors", "features", "recognizer", "runtime", "spec"},
}
HEAVY = {
    "torch",
    "torchaudio",
    "lightning_fabric",
    "onnx",
    "onnxscript",
    "matplotlib",
    "tomli_w",
    "scipy",
    "librosa",
    "filelock",
}


def _statements(node: ast.AST, *, everywhere: bool) -> Iterator[ast.AST]:
    """What runs when a file is imported, or everything in it, but for what only the type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        if everywhere or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(child, everywhere=everywhere)


def _imports(path: Path, *, everywhere: bool = False) -> set[str]:
    """Modules that a file imports when it is imported itself, or `everywhere` in it."""
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text()), everywhere=everywhere):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "speechrnn" else node.module for alias in node.names
            }
    return found


def _rooms(room: str, *, everywhere: bool = False) -> set[str]:
    """The rooms that a room imports."""
    imported = _imports(PACKAGE / f"{room}.py", everywhere=everywhere)
    rooms = {name.removeprefix("speechrnn.") for name in imported if name.split(".")[0] == "speechrnn"}
    return {"__init__" if name == "speechrnn" else name for name in rooms}


def test_the_map_names_every_room() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert rooms == INFERENCE.keys() | TRAINING.keys()


@pytest.mark.parametrize(("room", "named"), [*INFERENCE.items(), *TRAINING.items()])
def test_a_room_imports_the_rooms_that_the_map_names_beside_it(room: str, named: set[str]) -> None:
    assert _rooms(room, everywhere=True) == named


def test_rooms_import_downward_only() -> None:
    order = TopologicalSorter({room: _rooms(room) for room in INFERENCE.keys() | TRAINING.keys()})
    assert {*order.static_order()} > INFERENCE.keys()


@pytest.mark.parametrize("room", INFERENCE)
def test_inference_needs_nothing_of_the_train_extra(room: str) -> None:
    assert not {name.split(".")[0] for name in _imports(PACKAGE / f"{room}.py")} & HEAVY
    assert not _rooms(room) & TRAINING.keys()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_the_library_knows_no_pipeline(path: Path) -> None:
    assert not any(name.split(".")[0] == "pipelines" for name in _imports(path, everywhere=True))


def test_the_names_of_the_package_are_there_and_cost_nothing_until_they_are_used() -> None:
    code = (
        "import json, sys, speechrnn\n"
        "before = [name for name in sys.modules if name.startswith('speechrnn.') or name == 'numpy']\n"
        "print(json.dumps([before, {name: getattr(speechrnn, name).__module__ for name in sorted(speechrnn._ROOMS)}]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    before, homes = json.loads(output)
    assert before == []
    assert homes == {name: f"speechrnn.{room}" for name, room in speechrnn._ROOMS.items()}
    assert {*speechrnn._ROOMS} < {*dir(speechrnn)}
    with pytest.raises(AttributeError, match="lissten"):
        getattr(speechrnn, "lissten")  # noqa: B009


def test_the_type_checker_reads_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    shown = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    del shown["TYPE_CHECKING"], shown["import_module"]
    assert shown == {name: f"speechrnn.{room}" for name, room in speechrnn._ROOMS.items()}


def test_transcribing_loads_no_torch_and_changes_nothing_in_the_process() -> None:
    code = (
        "import json, logging, signal, sys, threading\n"
        "before = (logging.root.handlers[:], signal.getsignal(signal.SIGINT), threading.active_count())\n"
        "import speechrnn.cli, speechrnn.spotter, speechrnn.sources, speechrnn.formats, speechrnn.report\n"
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
    assert all(path.with_suffix(".md").exists() and path.stat().st_size < 5_000_000 for path in models)


def test_nothing_tracked_is_audio_of_the_data_set() -> None:
    names = [path.name for folder in ("examples", "tests", "speechrnn") for path in (ROOT / folder).rglob("*")]
    assert names
    assert not [name for name in names if "_nohash_" in name]
