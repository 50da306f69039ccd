"""The gateways that are compared, each with two engines behind it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from nebula_bench.gateway import processes, programs, prompts
from nebula_bench.gateway.errors import GatewayError, MissingError
from nebula_core.testing.ports import PortRange

START_S = 90.0
VLLM_ROUTER, SGLANG_ROUTER = "vllm-router==0.1.17", "sglang-router==0.3.2"
_NEBULA = Path(sys.executable).with_name("nebula")
_WORKER = "nebula_core.gateway.worker"

Command = Callable[["Place"], list[str | Path]]


@dataclass(frozen=True)
class Place:
    """Where one run of a gateway takes place."""

    folder: Path
    cache: Path
    port: int
    admin_port: int
    engines: tuple[str, ...]
    """Base URLs."""
    workers: int = 1


@dataclass(frozen=True)
class Gateway:
    """How to start one."""

    name: str
    command: Command
    requirement: str = ""
    """The package on PyPI that holds it."""
    program: str = ""
    """The program of the system that it is."""

    def prepare(self, cache: Path) -> None:
        """Raises `MissingError` if it cannot be had here."""
        if self.requirement:
            programs.python_of(self.requirement, cache)
        if self.program:
            programs.find(self.program)


@dataclass(frozen=True)
class Running:
    """A gateway that answers."""

    place: Place
    pid: int

    @property
    def port(self) -> int:
        """The public one."""
        return self.place.port

    def pids(self) -> list[int]:
        """All its processes."""
        return processes.tree(self.pid)

    def workers(self) -> list[int]:
        """Nebula's data-path workers; of another gateway there are none."""
        return processes.matching(self.pids(), _WORKER)

    def metrics(self) -> str:
        """Nebula's page on the admin port."""
        return httpx.get(f"http://127.0.0.1:{self.place.admin_port}/metrics", trust_env=False, timeout=30).raise_for_status().text


def _nebula(place: Place) -> list[str | Path]:
    """As shipped: what is set are ports, the folder, and the engines."""
    settings = place.folder / "settings.toml"
    settings.write_text(
        f'data_dir = "{place.folder / "data"}"\n'
        f"[gateway]\nport = {place.port}\nworkers = {place.workers}\n[admin]\nport = {place.admin_port}\n"
        f'[[models]]\nmodel_uid = "{prompts.MODEL}"\nengine = "external"\nurls = {json.dumps(place.engines)}\n'
    )
    return [_NEBULA, "up", "--settings", settings]


def _haproxy(place: Place) -> list[str | Path]:
    """One thread, for a request's CPU time is what counts, and connections to the engines are used again by anybody."""
    servers = "".join(f"    server engine{number} {url.removeprefix('http://')}\n" for number, url in enumerate(place.engines))
    config = place.folder / "haproxy.cfg"
    config.write_text(
        "global\n    nbthread 1\n    maxconn 9000\n"
        "defaults\n    mode http\n    http-reuse always\n"
        "    timeout connect 2s\n    timeout client 120s\n    timeout server 120s\n"
        f"listen gateway\n    bind 127.0.0.1:{place.port}\n    balance roundrobin\n{servers}"
    )
    return [programs.find("haproxy"), "-db", "-f", config]


def _router(requirement: str, module: str, policy: str) -> Command:
    def command(place: Place) -> list[str | Path]:
        python = programs.python_of(requirement, place.cache)
        listen = ["--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(place.admin_port)]
        return [python, "-m", module, *listen, "--policy", policy, "--worker-urls", *place.engines]

    return command


NEBULA = Gateway("nebula", _nebula)
HAPROXY = Gateway("haproxy", _haproxy, program="haproxy")
PEERS = {
    peer.name: peer
    for peer in (
        HAPROXY,
        Gateway("vllm-router", _router(VLLM_ROUTER, "vllm_router.launch_router", "round_robin"), VLLM_ROUTER),
        Gateway("vllm-router-cache-aware", _router(VLLM_ROUTER, "vllm_router.launch_router", "cache_aware"), VLLM_ROUTER),
        Gateway("sglang-router", _router(SGLANG_ROUTER, "sglang_router.launch_router", "round_robin"), SGLANG_ROUTER),
        Gateway("sglang-router-cache-aware", _router(SGLANG_ROUTER, "sglang_router.launch_router", "cache_aware"), SGLANG_ROUTER),
    )
}
"""By name. haproxy is the floor: what passing bytes on costs in C."""


def available(names: Sequence[str], cache: Path, tell: Callable[[str], None]) -> list[Gateway]:
    """The peers among these that can be had here; of the others `tell` hears why not."""
    found = []
    for name in names:
        try:
            PEERS[name].prepare(cache)
        except MissingError as missing:
            tell(f"{name} is left out: {missing}")
        else:
            found.append(PEERS[name])
    return found


@contextlib.contextmanager
def engines(
    cache: Path, folder: Path, *, events: int = 0, interval_ms: int = 0, words: int = 1, count: int = 2
) -> Iterator[tuple[str, ...]]:
    """Mock engines, by their base URLs, while the context is open. Streams have so many `events` of so many `words`."""
    program, log = programs.mock_engine(cache), folder / "engine.log"
    answers = [str(number) for number in (events, interval_ms, words)]
    with contextlib.closing(PortRange(count)) as reserved, contextlib.ExitStack() as stack:
        for port in reserved.ports:
            stack.enter_context(programs.running([program, str(port), *answers], log))
        urls = tuple(f"http://127.0.0.1:{port}" for port in reserved.ports)
        with httpx.Client(trust_env=False, timeout=5) as client:
            for url in urls:
                _until(partial(_is_up, client, url), log)
        yield urls


@contextlib.contextmanager
def serving(gateway: Gateway, urls: tuple[str, ...], cache: Path, folder: Path, *, workers: int = 1) -> Iterator[Running]:
    """A gateway that answers, in a new folder of its own, while the context is open. Raises `GatewayError`."""
    folder.mkdir(parents=True)
    log = folder / "gateway.log"
    with contextlib.closing(PortRange(2)) as reserved:
        port, admin_port = reserved.ports
        place = Place(folder, cache, port, admin_port, urls, workers)
        with programs.running(gateway.command(place), log) as process:
            with httpx.Client(trust_env=False, timeout=5) as client:
                _until(partial(_completes, client, port), log, lambda: process.poll() is None)
            yield Running(place, process.pid)


def _until(ready: Callable[[], bool], log: Path, runs: Callable[[], bool] = lambda: True) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if not runs() or time.monotonic() > deadline:
            what = f"is not ready after {START_S:g} s" if runs() else "has ended"
            raise GatewayError(f"it {what}: {log.read_text(errors='replace')[-1500:]}")
        time.sleep(0.05)


def _is_up(client: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get(f"{url}/health").is_success
    return False


def _completes(client: httpx.Client, port: int) -> bool:
    headers = {"content-type": "application/json"}
    with contextlib.suppress(httpx.TransportError):
        return client.post(f"http://127.0.0.1:{port}{prompts.PATH}", content=prompts.chat(0, 0), headers=headers).is_success
    return False
