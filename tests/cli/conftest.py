"""The command line as a stranger runs it: a process of its own, in an empty folder, with a clean environment."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
PROGRAM = (sys.executable, "-c", "from nebula_core.cli import main; main()")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the command line finds in its environment: a home of its own, and nothing of this machine's settings."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "100", "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def nebula(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Runs `nebula` with arguments to its end."""

    def run(*args: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *args],
            cwd=tmp_path,
            env=environment | environ,
            input=stdin,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    return run


class Server(ThreadingHTTPServer):
    """Answers each request with what the test says, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[Handler], None] = lambda handler: handler.send_json(404, {})
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"] or 0)) or "null")
        self.server.seen.append((self.command, self.path, dict(self.headers.items()), body))
        self.server.reply(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def send_json(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_events(self, *events: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in events:
            self.wfile.write(f"{event}\n\n".encode())
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    """A real HTTP server in place of a gateway."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Admin:
    """Plays the admin API: answers by method and path, several answers one after the other, the last of them for ever."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        server.reply = self._reply

    def on(self, method: str, path: str, *documents: Any, status: int = 200) -> None:
        self.answers[method, f"/admin/v1/{path}"] = [(status, document) for document in documents]

    def body(self, method: str) -> Any:
        """The body of the only request by that method."""
        ((_, _, _, body),) = [seen for seen in self.server.seen if seen[0] == method]
        return body

    def _reply(self, handler: Any) -> None:
        answers = self.answers[handler.command, handler.path]
        handler.send_json(*(answers.pop(0) if len(answers) > 1 else answers[0]))


@pytest.fixture
def admin(server: Any, tmp_path: Path) -> Admin:
    """An admin API that the settings file names, with the token where the command line looks for it."""
    (tmp_path / "settings.toml").write_text(f'data_dir = "{tmp_path}"\n[admin]\nport = {server.server_port}\n')
    token = tmp_path / "admin.token"
    token.touch(mode=0o600)
    token.write_text("sesame\n")
    return Admin(server)
