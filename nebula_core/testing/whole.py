"""A whole Nebula as its users run it, for tests: the real program, in a folder of its own, on ports of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from nebula_core.admin import token
from nebula_core.admin.client import AdminClient
from nebula_core.testing.machines import HERE, Machine
from nebula_core.testing.ports import PortRange
from nebula_core.testing.waiting import eventually

NEBULA = [str(Path(sys.executable).with_name("nebula"))]
START_S = 90.0
"""Far more than a start takes, for a machine that is busy with other tests."""


class Nebula:
    """`nebula up` with settings of its own; `gateway` are more lines of its table `[gateway]`, `python_path` is a folder with plugins
    that are not installed.

    On a `machine` it runs there, listens at that machine's address with all its ports, and is called like its folder.
    """

    def __init__(
        self,
        folder: Path,
        tables: str = "",
        workers: int = 1,
        gateway: str = "",
        python_path: Path | None = None,
        machine: Machine = HERE,
    ) -> None:
        self.folder = folder
        self._command = [*machine.prefix, *NEBULA]
        self.host = machine.address
        name = "" if machine is HERE else folder.name
        self._environment = environment() if python_path is None else {**environment(), "PYTHONPATH": str(python_path)}
        self._ports = PortRange(24)
        self.port, self.admin_port, self.engine_port, *_ = ports = self._ports.ports
        self.settings = folder / "settings.toml"
        self.log = folder / "up.log"
        self.data_dir = folder / "data"
        self._said = 0
        self._opened = ExitStack()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(
            f'data_dir = "{self.data_dir}"\n[gateway]\nhost = "{self.host}"\npeers_host = "{self.host}"\nport = {self.port}\n'
            f'workers = {workers}\ndrain_s = 30\n{gateway}\n[admin]\nhost = "{self.host}"\nport = {self.admin_port}\n'
            f'[node]\nname = "{name}"\naddress = "{self.host}"\nheartbeat_s = 0.5\n'
            f"engine_ports = [{self.engine_port}, {ports[-1]}]\n{tables}"
        )

    @property
    def url(self) -> str:
        """Base URL of the public port."""
        return f"http://{self.host}:{self.port}"

    def start(self, *options: str, wait: bool = True, role: str = "up") -> Nebula:
        """Run `nebula up`, or one role alone, and wait until all that was declared is ready."""
        self._said = len(self.log.read_text()) if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [*self._command, role, "--settings", str(self.settings), *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment)
        if wait:
            eventually(self.is_up, START_S, lambda: f"nebula {role} is not ready:\n{self.log.read_text()}")
        return self

    def is_up(self) -> bool:
        """Whether the last start has come to its end."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"nebula ended with {self.process.returncode}:\n{self.log.read_text()}")
        said = self.log.read_text()[self._said :]
        return "Try next:" in said or "running on " in said

    def cli(self, *words: str, check: bool = True, settings: bool = True) -> subprocess.CompletedProcess[str]:
        """Run another command of `nebula`, with the same settings if it takes any."""
        command = [*self._command, *words, *(["--settings", str(self.settings)] if settings else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=self._environment, check=False)
        assert not check or done.returncode == 0, f"{words} ended with {done.returncode}: {done.stderr}"
        return done

    @cached_property
    def admin(self) -> AdminClient:
        """Its admin API, once it has been started."""
        url = f"http://{self.host}:{self.admin_port}"
        return self._opened.enter_context(AdminClient(url, token.read(self.data_dir)))

    def status(self) -> dict[str, Any]:
        """What `nebula status --json` prints; asked for directly, since a program takes a hundred times as long."""
        return self.admin.status()

    def model(self, model_uid: str) -> dict[str, Any]:
        """One model of the status."""
        return next(model for model in self.status()["models"] if model["model_uid"] == model_uid)

    def chat(self, model: str, **fields: Any) -> httpx.Response:
        """A short chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 8, **fields}
        return self._http.post(f"{self.url}/v1/chat/completions", json=body)

    def get(self, path: str) -> httpx.Response:
        """What the public port answers to a GET."""
        return self._http.get(f"{self.url}{path}")

    @cached_property
    def _http(self) -> httpx.Client:
        """One for all chats, for it is slow to make; each of them has a connection of its own, and so any of the workers."""
        return self._opened.enter_context(httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)))

    def answers(self, model: str) -> bool:
        """Whether a short chat completion succeeds."""
        try:
            return self.chat(model).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """SIGTERM, and wait for the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL of the control process alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def processes(self) -> dict[int, str]:
        """Every process that has this Nebula's data folder or ports in its command line, by pid."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.folder) in line or f"--port {self.engine_port}" in line:
                found[int(path.parent.name)] = line
        return found

    def close(self) -> None:
        """Whatever happened, leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._opened.close()
        self._ports.close()


def environment() -> dict[str, str]:
    """This process's environment without settings of whoever runs the tests, and with a proxy that must not be used."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("NEBULA_")}
    return {**own, "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_COLOR": "1"}
