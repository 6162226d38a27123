"""The documentation is true: its Python runs, its commands exist, its links lead somewhere, and its site builds."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

import speechrnn
from speechrnn import sources
from speechrnn.cli.main import cli
from speechrnn.config import load_experiment
from tests.conftest import CONFIGS
from tests.helpers import PATIENCE_S, PlayedSound
from tests.test_project import PROJECT, TARGETS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
OTHER_PROGRAMS = {"apt-get", "arecord", "cp", "curl", "docker", "journalctl", "systemctl"}
WORDS = ["yes", "no", "up", "down", "left", "right", "stop"]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    fence = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    found = [Block(page.name, *match.groups()) for page in PAGES for match in fence.finditer(page.read_text())]
    return [block for block in found if block.language in languages]


def commands() -> Iterator[tuple[str, str]]:
    """Each command of the pages with the page it is on; both sides of a pipe."""
    for block in blocks("console"):
        text = block.text.replace("\\\n", " ")
        for line in re.findall(r"^ *\$ (.*)$", text, re.MULTILINE):
            yield from ((block.page, part.strip()) for part in line.split(" | "))


COMMANDS = [*dict.fromkeys(commands())]


@pytest.fixture
def played_sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PlayedSound:
    """A microphone that plays the first example, in a folder that has `examples/`."""
    sound = PlayedSound(ROOT / "examples" / "audio" / "commands.wav")
    monkeypatch.setattr(sources, "_import_sounddevice", lambda: sound)
    monkeypatch.setattr("builtins.input", lambda prompt: sound.ended.wait(PATIENCE_S))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return sound


@pytest.mark.usefixtures("played_sound")
@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.page)
def test_python_in_the_pages_finds_the_words_of_the_example(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block.text, block.page, "exec"), {})
    printed = capsys.readouterr().out.split()
    assert [word for word in dict.fromkeys(printed) if word in WORDS] == WORDS


@pytest.mark.usefixtures("played_sound")
@pytest.mark.parametrize("block", blocks("pycon"), ids=lambda block: block.text.splitlines()[-1].strip())
def test_sessions_in_the_pages_print_what_they_show(block: Block) -> None:
    examples = doctest.DocTestParser().get_doctest(block.text, {}, block.page, block.page, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(examples, out=report.append)
    assert "".join(report) == ""


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.page)
def test_configurations_in_the_pages_load(block: Block, tmp_path: Path) -> None:
    for path in CONFIGS.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "shown.toml").write_text(block.text)
    assert load_experiment(tmp_path / "shown.toml").model.labels.keywords


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_in_the_pages_exist(page: str, command: str) -> None:
    path, *arguments = shlex.split(command, comments=True)
    program = Path(path).name
    if program == "speechrnn":
        check_speechrnn(arguments)
    elif program == "make":
        assert {argument for argument in arguments if "=" not in argument} <= TARGETS
    elif program == "python":
        check_module(arguments)
    elif program == "pip":
        assert {*re.findall(r"\[(\w+)\]", command)} <= PROJECT["project"]["optional-dependencies"].keys()
    else:
        assert program in OTHER_PROGRAMS


def check_speechrnn(arguments: list[str]) -> None:
    verb, *rest = arguments
    if verb not in cli.commands:
        assert verb in ("--help", "--version")
        return
    cli.commands[verb].make_context(verb, rest)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")])
def test_pipelines_named_in_the_pages_exist(page: Path) -> None:
    named = {*re.findall(r"pipelines(?:\.[a-z_]+)+", page.read_text())}
    assert [name for name in sorted(named) if find_spec(name) is None] == []


def check_module(arguments: list[str]) -> None:
    """That a module can be run, and that it, or what all pipelines share, has the options."""
    assert arguments[0] == "-m"
    spec = find_spec(arguments[1])
    assert spec is not None
    assert spec.origin is not None
    known = Path(spec.origin).read_text() + (ROOT / "pipelines" / "inputs.py").read_text()
    assert not [option for option in arguments if option.startswith("--") and f'"{option}"' not in known]


def needs_only_what_is_here(command: str) -> bool:
    words = shlex.split(command, comments=True)
    needed = [word for word in words[2:] if "/" in word or "." in word]
    return words[:1] == ["speechrnn"] and words[1] in ("transcribe", "classify", "describe", "score") and all(
        (ROOT / word).exists() for word in needed
    )  # fmt: skip


@pytest.mark.usefixtures("played_sound")
@pytest.mark.parametrize("command", sorted({command for _, command in COMMANDS if needs_only_what_is_here(command)}))
def test_commands_that_need_only_what_is_here_run(command: str) -> None:
    arguments = shlex.split(command, comments=True)[1:]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists() or name == "notebooks/one_second.ipynb", target
        assert not anchor or anchor in anchors(path), target


def test_every_public_name_has_an_entry_with_an_example_that_is_run() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    described = {
        name: section
        for section in sections
        for name in re.findall(r"auto\w+:: speechrnn\.(\w+)$", section, re.MULTILINE)
    }
    assert described.keys() == {*speechrnn.__all__} - {"__version__"}
    assert [name for name, section in described.items() if "```pycon" not in section] == []
    assert [name for name, section in described.items() if not re.search(rf"\b{name}\b", pycon(section))] == []


def pycon(section: str) -> str:
    return "".join(re.findall(r"^```pycon\n(.*?)^```", section, re.MULTILINE | re.DOTALL))


def test_every_card_is_on_the_page_of_models() -> None:
    included = re.findall(r"^```\{include\} (.*)$", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE)
    cards = {path.resolve() for path in (ROOT / "speechrnn" / "pretrained").glob("*.md")}
    assert {(ROOT / "docs" / path).resolve() for path in included} == cards


def test_every_room_is_in_the_architecture() -> None:
    named = {*re.findall(r"^\| `speechrnn/(\w+)/`", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)}
    rooms = {path.parent.name for path in (ROOT / "speechrnn").glob("*/__init__.py")}
    assert named == rooms


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    arguments = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in tmp_path.glob("*.html")}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= pages
