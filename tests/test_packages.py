"""What others install: wheel and source archive, the image's steps, the unit, the app, the plugin of OpenVoiceOS."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest

import speechrnn
from speechrnn.cli.main import cli
from tests.conftest import Once
from tests.helpers import EXAMPLE
from tests.test_project import PROJECT, ROOT, git, load_yaml

PACKAGING = ROOT / "packaging"
CONTAINERFILE = (ROOT / "Containerfile").read_text()
WORDS = ["yes", "no", "up", "down", "left", "right", "stop", "go"]


def execute(*command: str | Path, cwd: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program with nothing of this checkout in its environment."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd, env=outside | environment
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def copy_tracked(folder: Path, *paths: str) -> None:
    """Copy what is tracked, as it is now, into a folder."""
    for name in git("ls-files", "-z", "--", *paths).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def install(folder: Path, *requirements: str) -> Path:
    """A bare virtual environment with these packages, and its folder of programs."""
    venv.create(folder, with_pip=True, symlinks=True)
    programs = folder / "bin"
    execute(programs / "python", "-m", "pip", "install", "--quiet", *requirements, cwd=folder)
    return programs


def _build(folder: Path) -> None:
    copy_tracked(folder / "src")
    execute(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "src", cwd=folder)


@pytest.fixture(scope="session")
def dist(once: Once) -> Path:
    """The wheel and the source archive, built of what is tracked."""
    return once("dist", _build) / "dist"


@pytest.fixture(scope="session")
def bare(once: Once, dist: Path) -> Path:
    """The programs of an environment with the wheel alone."""
    return once("bare", lambda folder: install(folder / "env", *map(str, dist.glob("*.whl")))) / "env" / "bin"


def wheel_of(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(wheel_of(dist)) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {name for name in git("ls-files", "--", "speechrnn").splitlines() if (ROOT / name).is_file()}
    execute(sys.executable, "-m", "check_wheel_contents", wheel_of(dist), cwd=dist)


@pytest.mark.slow
def test_the_index_understands_what_the_package_says_of_itself(dist: Path) -> None:
    done = execute(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()), cwd=dist)
    assert done.stdout.count("PASSED") == 2
    with zipfile.ZipFile(wheel_of(dist)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
        (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "speechrnn = speechrnn.cli.main:main" in archive.read(entries).decode()
    metadata = message_from_string(text)
    assert (metadata["Name"], metadata["Version"]) == ("speechrnn", speechrnn.__version__)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("MIT", ">=3.11")
    assert {*metadata.get_all("Provides-Extra", [])} == PROJECT["project"]["optional-dependencies"].keys()
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_source_archive_holds_what_the_wheel_is_built_of(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert names >= {"pyproject.toml", "README.md", "LICENSE", *git("ls-files", "--", "speechrnn").splitlines()}


@pytest.mark.slow
def test_the_wheel_transcribes_outside_the_checkout(bare: Path, tmp_path: Path) -> None:
    recording = shutil.copy(EXAMPLE, tmp_path)
    done = execute(bare / "speechrnn", "transcribe", recording, "--format", "csv", cwd=tmp_path)
    assert [word for word in re.split(r"[,\n]", done.stdout) if word in WORDS] == WORDS
    execute(bare / "python", "-m", "pip", "check", cwd=tmp_path)


@pytest.mark.slow
def test_doctor_of_the_bare_wheel_says_what_is_missing(bare: Path, tmp_path: Path) -> None:
    done = execute(bare / "speechrnn", "doctor", cwd=tmp_path, code=2)
    assert f"speechrnn {speechrnn.__version__}" in done.stdout
    assert re.search(r"ok +model +commands", done.stdout)
    assert "pip install 'speechrnn[mic]'" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["serve"], "web"), (["wyoming"], "wyoming"), (["quantize", "commands10", "--audio", "a"], "teach")],
)
def test_verbs_that_need_more_name_the_extra(arguments: list[str], extra: str, bare: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path / "a")
    assert f"speechrnn[{extra}]" in execute(bare / "speechrnn", *arguments, cwd=tmp_path, code=2).stderr


def instructions(kind: str) -> list[str]:
    """What follows an instruction of the Containerfile, continued lines as one."""
    text = CONTAINERFILE.replace("\\\n", " ")
    return re.findall(rf"^{kind} +(.*)$", text, re.MULTILINE)


def build_image(folder: Path) -> None:
    """The steps of the Containerfile as a script, with its folders below one of this machine."""
    (copied,) = (line for line in instructions("COPY") if line.endswith(" /src/"))
    copy_tracked(folder / "src", *copied.split()[:-1], "speechrnn")
    steps = "\n".join(instructions("RUN"))
    for place in ("/opt/speechrnn", "/src", "/data"):
        steps = re.sub(rf"(?<![\w/]){place}", str(folder / place.lstrip("/")), steps)
    (folder / "opt").mkdir()
    steps = steps.replace("python -m venv", f"{shlex.quote(sys.executable)} -m venv", 1)
    execute("sh", "-euc", steps, cwd=folder)


@pytest.fixture(scope="session")
def image(once: Once) -> Path:
    """The root of what the Containerfile builds."""
    return once("image", build_image)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(*command: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that said where it listens; it ends in order when it is told to."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with subprocess.Popen(command, cwd=cwd, env=outside, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        try:
            assert "10400" in line or "tcp://" in line, line + process.stderr.read()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
    assert process.returncode == 0


@pytest.mark.slow
def test_the_image_serves_and_its_health_is_checked(image: Path) -> None:
    port = str(free_port())

    def here(text: str) -> list[str]:
        words = json.loads(text.replace("10400", port))
        return [word.replace("/opt/", f"{image}/opt/").replace("0.0.0.0", "127.0.0.1") for word in words]

    (health,) = instructions("HEALTHCHECK")
    check = here(health.partition("CMD ")[2])
    command = [*here(instructions("ENTRYPOINT")[-1]), *here(instructions("CMD")[-1])]
    assert command[1:] == ["wyoming", "--uri", f"tcp://127.0.0.1:{port}"]
    execute(*check, cwd=image, code=1)
    with running(*command, cwd=image / "data"):
        for _ in range(2):
            execute(*check, cwd=image)
    execute(*check, cwd=image, code=1)


@pytest.mark.slow
def test_the_image_has_no_file_of_the_checkout_and_no_torch(image: Path) -> None:
    python = image / "opt" / "speechrnn" / "bin" / "python"
    found = execute(python, "-c", "import speechrnn; print(speechrnn.__file__)", cwd=image).stdout
    assert found.startswith(str(image / "opt"))
    execute(python, "-c", "import torch", cwd=image, code=1)


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert instructions("USER") == ["10400:10400"]
    assert all("slim" in line for line in instructions("FROM"))
    assert len(instructions("HEALTHCHECK")) == 1


def test_the_context_of_the_image_is_what_it_copies() -> None:
    copied = {word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed


def test_compose_opens_the_port_of_the_image_and_nothing_of_the_machine() -> None:
    (service,) = load_yaml(ROOT / "compose.yaml")["services"].values()
    (port,) = instructions("EXPOSE")
    assert service["ports"] == [f"{port}:{port}"]
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "privileged" not in service


def check_command(words: list[str]) -> None:
    """That a command line is one that this version understands."""
    program, verb, *arguments = words
    assert Path(program).name == "speechrnn"
    cli.commands[verb].make_context(verb, arguments)


def test_the_unit_starts_a_server() -> None:
    unit = (PACKAGING / "speechrnn.service").read_text()
    (start,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    check_command(shlex.split(start))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit_and_calls_it_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "speechrnn.service"
    text = (PACKAGING / unit.name).read_text()
    unit.write_text(text.replace("/opt/speechrnn/bin/speechrnn", sys.executable))
    done = execute("systemd-analyze", "verify", unit, cwd=tmp_path)
    assert done.stdout + done.stderr == ""
    rated = execute("systemd-analyze", "security", "--offline=yes", "--threshold=20", unit, cwd=tmp_path)
    assert "OK" in rated.stdout.splitlines()[-1]


APP = PACKAGING / "home-assistant"


def app_command(**options: Any) -> list[str]:
    command = runpy.run_path(str(APP / "run.py"))["command"]
    return [*command(load_yaml(APP / "config.yaml")["options"] | options)]


def test_the_options_of_the_app_are_those_of_its_form() -> None:
    config = load_yaml(APP / "config.yaml")
    assert config["options"].keys() == config["schema"].keys()
    described = {*re.findall(r"^\| `(\w+)`", (APP / "DOCS.md").read_text(), re.MULTILINE)}
    assert described == config["options"].keys()
    for name, form in config["schema"].items():
        if isinstance(form, str) and form.startswith("list("):
            assert config["options"][name] in form[5:-1].split("|")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["--model", "commands10", "--log-level", "info"]),
        ({"models": ["commands10", "owner/words"], "keywords": ["stop", "go"]},
         ["--model", "commands10", "--model", "owner/words", "--keywords", "stop,go", "--log-level", "info"]),
        ({"operating_point": "strict", "in_speech": True, "log_level": "debug"},
         ["--model", "commands10", "--operating-point", "strict", "--in-speech", "--log-level", "debug"]),
    ],
)  # fmt: skip
def test_what_is_chosen_in_home_assistant_is_a_command_line(options: dict[str, Any], expected: list[str]) -> None:
    words = app_command(**options)
    check_command(words)
    assert words[2:6] == ["--uri", "tcp://0.0.0.0:10400", "--zeroconf", "speechrnn"]
    assert words[6:] == expected


@pytest.mark.slow
def test_the_app_is_what_its_options_say(image: Path, tmp_path: Path) -> None:
    options = tmp_path / "options.json"
    options.write_text(json.dumps(load_yaml(APP / "config.yaml")["options"]))
    programs = image / "opt" / "speechrnn" / "bin"
    script = (APP / "run.py").read_text().replace("0.0.0.0:10400", f"127.0.0.1:{free_port()}")
    (tmp_path / "run.py").write_text(script.replace('"--zeroconf", "speechrnn"', ""))
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    words = [str(programs / "python"), str(tmp_path / "run.py"), str(options)]
    with subprocess.Popen(words, env=os.environ | path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "tcp://127.0.0.1:" in process.stderr.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 0


OVOS_PROGRAM = """
import json, sys
import soundfile
from ovos_plugin_manager.wakewords import OVOSWakeWordFactory, find_wake_word_plugins

assert "ovos-ww-plugin-speechrnn" in find_wake_word_plugins()
samples, rate_hz = soundfile.read(sys.argv[1], dtype="int16")
found = {}
for word in ("stop", "right", "halt"):
    config = {"module": "ovos-ww-plugin-speechrnn", "model": "commands10", "keyword": word.replace("halt", "stop")}
    engine = OVOSWakeWordFactory.create_hotword(word, {"hotwords": {word: config}})
    times = []
    for start in range(0, len(samples), 2048):
        engine.update(samples[start : start + 2048].tobytes())
        if engine.found_wake_word():
            times.append(round(start / rate_hz))
    found[word] = times
    engine.reset()
    assert not engine.found_wake_word()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_openvoiceos_finds_the_plugin_and_the_plugin_the_words(once: Once, dist: Path, tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        copy_tracked(folder, "packaging/ovos")
        install(folder / "env", str(wheel_of(dist)), str(folder / "packaging" / "ovos"))

    python = once("ovos", fill) / "env" / "bin" / "python"
    done = execute(python, "-c", OVOS_PROGRAM, EXAMPLE, cwd=tmp_path, HOME=str(tmp_path))
    assert json.loads(done.stdout.splitlines()[-1]) == {"stop": [11], "right": [10], "halt": [11]}
