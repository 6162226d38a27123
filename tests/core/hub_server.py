"""A Hub on loopback: one model repository that is downloaded from, and what is uploaded."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

COMMIT = "a" * 40
REPOSITORY = "speaker/words"
REVISIONS = ("main", "v2", COMMIT)


class FakeHub(NamedTuple):
    """The address to give as HF_ENDPOINT, each request that came, and the files that were uploaded."""

    address: str
    requests: list[str]
    uploaded: dict[str, bytes]


@contextmanager
def running(model: Path) -> Iterator[FakeHub]:
    """Serve a model file as model.onnx of the repository."""
    requests: list[str] = []
    uploaded: dict[str, bytes] = {}
    content = model.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._resolve()

        def do_GET(self) -> None:
            self._resolve()

        def _resolve(self) -> None:
            requests.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            if path in {f"/{REPOSITORY}/resolve/{revision}/model.onnx" for revision in REVISIONS}:
                self._answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
            elif path.startswith(f"/{REPOSITORY}/resolve/"):
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"})
            else:
                self._answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

        def do_POST(self) -> None:
            requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != "Bearer right":
                self._answer(401, b"{}", {"X-Error-Message": "Invalid credentials"})
            elif "/preupload/" in self.path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self._json({"files": files, "commitOid": COMMIT})
            elif "/commit/" in self.path:
                operations = [json.loads(line) for line in body.splitlines()]
                for operation in operations:
                    if operation["key"] == "file":
                        file = operation["value"]
                        uploaded[file["path"]] = base64.b64decode(file["content"])
                self._json({"commitUrl": f"{address}/{REPOSITORY}/commit/{COMMIT}", "commitOid": COMMIT})
            else:
                self._json({"url": f"{address}/{REPOSITORY}", "name": REPOSITORY, "type": "model"})

        def _json(self, answer: dict[str, Any]) -> None:
            self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield FakeHub(address, requests, uploaded)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
