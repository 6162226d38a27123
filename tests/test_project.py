"""What surrounds the code agrees with itself: make targets, workflows, dependencies, version, changelog."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import speechrnn
from speechrnn import errors
from speechrnn.cli.main import cli

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = {*re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()}  # type: ignore[index]
PYTHONS = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


JOBS: dict[str, dict[str, Any]] = {
    f"{path.stem}/{name}": job
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    for name, job in load_yaml(path)["jobs"].items()
}
RUNS = [(name, step["run"]) for name, job in JOBS.items() for step in job["steps"] if "run" in step]


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def tracked_files() -> list[Path]:
    return [ROOT / name for name in git("ls-files", "-z").split("\0") if name and (ROOT / name).is_file()]


def test_every_declared_python_is_tested_and_no_other() -> None:
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    for name in ("linux", "other-systems"):
        assert JOBS[f"test/{name}"]["strategy"]["matrix"]["python"] == PYTHONS
    used = {
        str(step["with"]["python-version"]) for job in JOBS.values() for step in job["steps"] if "with" in step
        and "python-version" in step["with"]
    }  # fmt: skip
    assert used - {"${{ matrix.python }}"} <= {*PYTHONS}
    lowest = JOBS["test/lowest-dependencies"]["steps"]
    assert str(lowest[1]["with"]["python-version"]) == PYTHONS[0]


def test_three_systems_are_tested() -> None:
    systems = {job["runs-on"] for job in JOBS.values()}
    systems |= {
        system for job in JOBS.values() for system in job.get("strategy", {}).get("matrix", {}).get("system", ())
    }
    assert {system.split("-")[0] for system in systems if "$" not in system} == {"ubuntu", "macos", "windows"}


@pytest.mark.parametrize(("job", "command"), RUNS)
def test_the_commands_of_the_workflows_exist(job: str, command: str) -> None:
    extras = re.findall(r"\.\[(\w+)\]", command)
    assert {*extras} <= PROJECT["project"]["optional-dependencies"].keys()
    program, *arguments = command.split()
    if program == "make":
        assert {*arguments} <= TARGETS
    elif program == "speechrnn":
        assert arguments[0] in cli.commands
    elif program.startswith(".ci/"):
        listed = subprocess.run(
            ["git", "ls-files", "--stage", program], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert listed.stdout.startswith("100755")
    else:
        assert (program, *arguments[:2]) in {
            ("python", "-m", "pip"),
            ("python", "-m", "pytest"),
            ("uv", "pip", "install"),
        }


def test_continuous_integration_runs_the_readme_s_test_command_and_refuses_skipped_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test " in script
    assert "skipped" in script
    assert ".ci/run" in {command for name, command in RUNS if name == "test/linux"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_lists_every_target() -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # as under make
    shown = subprocess.run(["make"], capture_output=True, text=True, check=True, cwd=ROOT, env=outside).stdout
    assert {line.split()[1] for line in shown.splitlines()} == TARGETS
    assert all(len(line.split(maxsplit=2)) == 3 for line in shown.splitlines())


def test_all_has_every_extra_and_development_has_all() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert extras["all"] == [f"speechrnn[{','.join(name for name in extras if name not in ('all', 'dev'))}]"]
    assert "speechrnn[all]" in extras["dev"]


def test_the_advice_on_missing_modules_names_the_extra_that_has_them() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    imported_as = {"paho_mqtt": "paho"}
    named = {name: {re.split(r"[>\[]", item)[0].replace("-", "_") for item in extras[name]} for name in errors._EXTRAS}
    packages = {name: {imported_as.get(item, item) for item in items} for name, items in named.items()}
    assert {name: {*modules} for name, modules in errors._EXTRAS.items()} == packages


def test_what_the_site_is_built_with_is_installed_for_development() -> None:
    listed = re.search(r"^extensions = \[(.*)\]$", (ROOT / "docs" / "conf.py").read_text(), re.MULTILINE)
    assert listed
    packages = {name.split(".")[0].replace("_", "-") for name in re.findall(r'"([\w.]+)"', listed[1])}
    assert packages <= {item.split(">")[0] for item in PROJECT["project"]["optional-dependencies"]["dev"]}


def test_no_dependency_is_bounded_from_above() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in (*PROJECT["project"]["dependencies"], *(item for items in extras.values() for item in items)):
        assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+|speechrnn\[[\w,]+\]", requirement)


def check_release(tag: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "check-release"), tag]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_version_changelog_and_citation_agree() -> None:
    done = check_release(f"v{speechrnn.__version__}")
    assert (done.returncode, done.stdout) == (0, "")


def test_another_tag_is_refused_with_what_each_place_says() -> None:
    done = check_release("v9.9")
    assert done.returncode == 1
    assert "the tag 9.9" in done.stdout
    assert f"CHANGELOG.md {speechrnn.__version__}" in done.stdout


def test_the_changelog_speaks_under_four_headings() -> None:
    headings = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {*headings} == {"Added", "Changed", "Fixed", "Models"}


def test_the_citation_names_what_the_project_names() -> None:
    citation = load_yaml(ROOT / "CITATION.cff")
    assert citation["title"].split(":")[0] == PROJECT["project"]["name"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert [author["name"] for author in citation["authors"]] == [
        item["name"] for item in PROJECT["project"]["authors"]
    ]


def test_the_bug_form_requires_what_doctor_says() -> None:
    body = load_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")["body"]
    (doctor,) = [item for item in body if item.get("id") == "doctor"]
    assert "speechrnn doctor" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"]


def test_commit_hooks_bound_files_as_the_tests_do() -> None:
    hooks = {
        hook["id"]: hook for repo in load_yaml(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]
    }
    assert hooks.keys() == {"ruff-check", "ruff-format", "check-added-large-files", "end-of-file-fixer"}
    assert hooks["check-added-large-files"]["args"] == ["--maxkb=5000"]


def test_text_files_end_with_one_newline() -> None:
    texts = {".py", ".md", ".toml", ".yml", ".cff", ".js", ".css", ".html", ".svg", ".txt", ".ipynb", ""}
    wrong = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix in texts and (text := path.read_bytes()) and (not text.endswith(b"\n") or text.endswith(b"\n\n"))
    ]
    assert wrong == []
