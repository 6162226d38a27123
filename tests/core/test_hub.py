"""Models by owner/name: fetched once, found without a connection, and never asked for by mistake."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import speechrnn
from speechrnn import hub
from speechrnn.errors import MissingModelError
from speechrnn.recognizer import find_model, load
from tests.core import hub_server
from tests.core.hub_server import COMMIT, REPOSITORY, FakeHub
from tests.helpers import COMMAND, EXAMPLE, ROOT, assert_one_line, run

MODEL = find_model("commands10")
NOWHERE = "http://127.0.0.1:9"  # refuses


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with hub_server.running(MODEL) as running:
        yield running


def command(
    *arguments: str | Path, home: Path, endpoint: str, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which knows this Hub and keeps what it fetches below `home`."""
    given = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=cwd, timeout=300,
        env=os.environ | given | paths | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["owner/name", "o-w.n_er/na-me.v1", "owner/name@main", "owner/name@refs/pr/1", "a/b@1.0"]
)
def test_names_of_repositories(name: str) -> None:
    assert hub.is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "name",
            "name@main",
            "/owner/name",
            "owner/name/",
            "owner/name/more",
            "./owner/name",
            "../name",
            "owner/name@",
        ),
        *("owner/name.onnx", "runs/best.pt", "owner/na me", "-owner/name", "ówner/name", "owner/name\n"),
    ],
)
def test_what_is_no_name_of_a_repository(name: str) -> None:
    assert not hub.is_name(name)


def asked(server: FakeHub) -> list[str]:
    """The requests for the repository."""
    return [request.partition("?")[0] for request in server.requests if f" /{REPOSITORY}/" in request]


@pytest.mark.slow
def test_a_model_is_fetched_once_and_then_found_without_a_connection(server: FakeHub, tmp_path: Path) -> None:
    expected = run("transcribe", EXAMPLE).stdout
    server.requests.clear()
    for endpoint, offline in ((server.address, "0"), (server.address, "0"), (NOWHERE, "0"), (NOWHERE, "1")):
        where = {"home": tmp_path, "endpoint": endpoint, "HF_HUB_OFFLINE": offline}
        done = command("transcribe", EXAMPLE, "--model", REPOSITORY, **where)  # type: ignore[arg-type]
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
    assert asked(server) == [f"{method} /{REPOSITORY}/resolve/main/model.onnx" for method in ("HEAD", "GET")]


@pytest.mark.slow
def test_a_revision_is_asked_for_by_name(server: FakeHub, tmp_path: Path) -> None:
    server.requests.clear()
    done = command("describe", f"{REPOSITORY}@v2", home=tmp_path, endpoint=server.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("model.onnx")
    assert {request.split("/")[4] for request in asked(server)} == {"v2"}
    assert (tmp_path / "hub" / "models--speaker--words" / "snapshots" / COMMIT / "model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "offline", "parts"),
    [
        ("speaker/none", "0", ["no such file here", "no model.onnx", "speaker/none"]),
        (f"{REPOSITORY}@v3", "0", ["no such file here", "no model.onnx"]),
        (REPOSITORY, "1", ["no such file here", "the Hub cannot be asked"]),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_line(
    name: str, offline: str, parts: list[str], server: FakeHub, tmp_path: Path
) -> None:
    where = {"home": tmp_path, "endpoint": server.address, "HF_HUB_OFFLINE": offline}
    done = command("transcribe", EXAMPLE, "--model", name, **where)  # type: ignore[arg-type]
    assert_one_line(done, *parts)


def test_a_name_without_a_slash_and_what_is_here_ask_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(name: str) -> Path:
        raise AssertionError(f"asked for {name}")

    monkeypatch.setattr(hub, "fetch", fetched)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "speaker" / "words"
    folder.mkdir(parents=True)
    for missing in ("words", "speaker/words", folder, Path("speaker/none"), "speaker/none.onnx"):
        with pytest.raises(MissingModelError):
            load(missing)
    shutil.copy(MODEL, folder / "model.onnx")
    assert load("speaker/words").path == Path("speaker/words/model.onnx")
    assert speechrnn.from_pretrained(folder).path == folder / "model.onnx"


def test_without_the_client_a_name_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert_one_line(run("transcribe", EXAMPLE, "--model", "speaker/words"), "speaker/words", "speechrnn[hub]")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    folder.mkdir()
    shutil.copy(MODEL, folder / "model.onnx")
    for name in ("config.json", "README.md", "notes.txt"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.slow
def test_a_folder_is_uploaded_and_nothing_else_that_lies_in_it(
    server: FakeHub, model_folder: Path, tmp_path: Path
) -> None:
    done = command("push", model_folder, REPOSITORY, home=tmp_path, endpoint=server.address, HF_TOKEN="right")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{server.address}/{REPOSITORY}: speechrnn listen --model {REPOSITORY}\n"
    assert server.uploaded.keys() == {"model.onnx", "config.json", "README.md"}
    assert server.uploaded["model.onnx"] == MODEL.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "token"), [(None, "wrong"), (NOWHERE, "right")])
def test_a_refused_upload_is_one_clear_line(
    endpoint: str | None, token: str, server: FakeHub, model_folder: Path, tmp_path: Path
) -> None:
    done = command("push", model_folder, REPOSITORY, home=tmp_path, endpoint=endpoint or server.address, HF_TOKEN=token)
    assert_one_line(done, REPOSITORY, "not uploaded", "HF_TOKEN")


@pytest.mark.parametrize("repository", ["words", "speaker/words@main", "a/b/c"])
def test_only_a_name_with_an_owner_can_be_uploaded_to(repository: str, model_folder: Path) -> None:
    assert_one_line(run("push", model_folder, repository), repository, "expected owner/name")


def test_what_is_no_model_folder_is_not_uploaded(model_folder: Path) -> None:
    (model_folder / "README.md").unlink()
    assert_one_line(run("push", model_folder, REPOSITORY), str(model_folder), "README.md")
    (model_folder / "model.onnx").unlink()
    assert_one_line(run("push", model_folder, REPOSITORY), str(model_folder), "model.onnx")
