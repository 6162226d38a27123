"""What keeps the house in order: which room imports which, what importing costs, and what the package shows."""

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

# Which rooms each room may import besides itself. The core is what lies at the root; pipelines are outside.
MAY_IMPORT = {
    "core": set[str](),
    "model": {"core"},
    "data": {"core"},
    "evaluation": {"core", "data"},
    "training": {"core", "data", "model", "evaluation.metrics"},
    "clients": {"core"},
    "serving": {"core", "clients", "teaching.judging"},
    "wyoming": {"core", "clients"},
    "sinks": {"core"},
    "bulk": {"core"},
    "teaching": {"core", "data", "evaluation.metrics", "evaluation.tables"},
    "cli": {
        "bulk",
        "clients",
        "core",
        "data",
        "evaluation",
        "model",
        "serving",
        "sinks",
        "teaching",
        "training",
        "wyoming",
    },
}
EXCEPTIONS = {("recognizer", "model.network")}
"""The recognizer loads a checkpoint inside a function."""
WITH_TORCH = {"model", "training"}
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


def _is_folder(module: str) -> bool:
    """Whether what is imported from a module may be modules itself."""
    return module.split(".", maxsplit=1)[0] in ("speechrnn", "pipelines") and (ROOT / module.replace(".", "/")).is_dir()


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
            found |= {f"{node.module}.{alias.name}" if _is_folder(node.module) else node.module for alias in node.names}
    return found


def _modules(path: Path, *, everywhere: bool = False) -> set[str]:
    """The modules of the package that a file imports, as `room.module`, or `module` of the core."""
    imported = _imports(path, everywhere=everywhere)
    return {name.removeprefix("speechrnn.") for name in imported if name.startswith("speechrnn.")}


def _room(module: str) -> str:
    return module.split(".", maxsplit=1)[0] if module.split(".", maxsplit=1)[0] in MAY_IMPORT else "core"


FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_the_rooms_below_its_own(module: str) -> None:
    allowed = MAY_IMPORT[_room(module)] | {_room(module)}
    others = {name for name in _modules(FILES[module], everywhere=True) if (module, name) not in EXCEPTIONS}
    assert not {name for name in others if not {_room(name), name} & allowed and module != "__main__"}


def test_pipelines_import_the_console_of_the_command_line_and_nothing_else_of_it() -> None:
    imported = {name for path in (ROOT / "pipelines").rglob("*.py") for name in _modules(path, everywhere=True)}
    assert {name for name in imported if _room(name) == "cli"} == {"cli.console"}


@pytest.mark.parametrize("module", FILES)
def test_the_train_extra_is_imported_where_it_belongs(module: str) -> None:
    if _room(module) not in WITH_TORCH and module != "evaluation.plots":
        assert not {name.split(".")[0] for name in _imports(FILES[module])} & HEAVY
        assert not {_room(name) for name in _modules(FILES[module])} & WITH_TORCH


def test_modules_import_downward_only() -> None:
    order = TopologicalSorter({module: _modules(path) for module, path in FILES.items()})
    assert {*order.static_order()} >= FILES.keys()


def test_a_room_holds_three_to_twelve_files_and_its_init_is_empty() -> None:
    for room in MAY_IMPORT.keys() - {"core"}:
        files = {path.name for path in (PACKAGE / room).glob("*.py")} - {"__init__.py"}
        assert 3 <= len(files) <= (14 if room == "cli" else 12)  # a file of verbs for each topic, and what they share
        assert not (PACKAGE / room / "__init__.py").read_text()


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
    assert [*speechrnn.__all__] == ["__version__", *sorted(speechrnn._ROOMS)]
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
        "import speechrnn.cli.main, speechrnn.spotter, speechrnn.sources, speechrnn.evaluation.report\n"
        "after = (logging.root.handlers[:], signal.getsignal(signal.SIGINT), threading.active_count())\n"
        "print(json.dumps([before == after, sorted(sys.modules)]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    unchanged, modules = json.loads(output)
    assert unchanged
    assert not HEAVY & {name.split(".")[0] for name in modules}
    assert "onnxruntime" not in modules  # loaded with the first model


def test_the_command_line_starts_with_few_imports() -> None:
    code = "import sys, speechrnn.cli.main; print(len(sys.modules), 'numpy' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    n_modules, has_numpy = output.split()
    assert has_numpy == "False"
    assert int(n_modules) < 250


def test_the_package_says_it_is_typed_and_ships_a_model_with_its_card() -> None:
    assert (PACKAGE / "py.typed").exists()
    models = sorted((PACKAGE / "pretrained").glob("*.onnx"))
    assert {path.name.split(".")[0] for path in models} == {"commands10"}
    assert all(path.with_name(path.name.split(".")[0] + ".md").exists() for path in models)
    assert all(path.stat().st_size < 5_000_000 for path in models)


def test_nothing_tracked_is_audio_of_the_data_set_or_large() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    assert PACKAGE / "__init__.py" in paths
    recorded = [path for path in paths if ROOT / "examples" not in path.parents]  # voices of a synthesiser lie there
    assert not [path for path in recorded if "_nohash_" in path.name]
    assert not [path for path in paths if path.name.endswith((".pt", ".zip", ".tar.gz"))]
    assert not [path for path in paths if path.is_file() and path.stat().st_size > 5_000_000]


def _fields_without_a_line(tree: ast.Module) -> Iterator[str]:
    """The fields of the public structures in a file that have no docstring after them."""
    structures = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for structure in structures:
        if not any("Struct" in ast.unparse(base) or "NamedTuple" in ast.unparse(base) for base in structure.bases):
            continue
        for field, following in zip(structure.body, [*structure.body[1:], None], strict=True):
            is_documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and not is_documented:
                yield f"{structure.name}.{ast.unparse(field.target)}"


def test_every_field_of_a_public_structure_is_documented_on_its_own_line() -> None:
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    assert [field for tree in trees for field in _fields_without_a_line(tree)] == []
    source = "class A(NamedTuple):\n    a: int\n    b: int\n    'Last.'\n"
    assert list(_fields_without_a_line(ast.parse(source))) == ["A.a"]
