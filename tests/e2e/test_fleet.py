"""A fleet of separate machines: three etcds, two nodes with real engines, two schedulers and two gateways. Each is killed in turn."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from nebula_store_etcd.testing import Etcd, running_cluster

from nebula_core.testing.machines import Machine, machines
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

ROLES = {
    "node1": "node",
    "node2": "node",
    "scheduler1": "scheduler",
    "scheduler2": "scheduler",
    "gateway1": "gateway",
    "gateway2": "gateway",
}
LEASE_S = 5
WHOLE_S = 60.0
MODEL = ("--engine", "llamacpp", "--set", "context_tokens=512", "--set", "parallel=2", "--set", "threads=1")


class Fleet:
    """All its processes. What is killed is started again at once, as systemd would."""

    def __init__(self, folder: Path, etcds: list[Etcd], places: dict[str, Machine]) -> None:
        self.etcds = etcds
        endpoints = ", ".join(f'"{etcd.endpoint}"' for etcd in etcds)
        tables = f'[store]\nuse = "etcd"\nlease_s = {LEASE_S}\n[store_etcd]\nendpoints = [{endpoints}]\n'
        self.parts = {name: Nebula(folder / name, tables, machine=places[name]) for name in ROLES}

    def start(self, *names: str) -> None:
        for name in names:
            self.parts[name].start(role=ROLES[name], wait=False)
        for name in names:
            eventually(self.parts[name].is_up, WHOLE_S, self.parts[name].log.read_text)

    def close(self) -> None:
        for part in self.parts.values():
            part.close()

    def get(self, name: str, path: str) -> httpx.Response:
        """A page of a part's admin port."""
        part = self.parts[name]
        token = (part.data_dir / "admin.token").read_text().strip()
        url = f"http://{part.host}:{part.admin_port}{path}"
        return httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=5, trust_env=False)

    def status(self, name: str) -> Any:
        return self.get(name, "/admin/v1/status").json()

    def is_whole(self) -> bool:
        """Whether everything is there, as both gateways see it, and both answer."""
        try:
            return all(_is_whole(self.status(name)) and self.parts[name].answers("m") for name in ("gateway1", "gateway2"))
        except httpx.HTTPError:
            return False

    def pids(self, name: str, words: str) -> list[int]:
        """The processes of a part whose command line has these words."""
        return sorted(pid for pid, line in self.parts[name].processes().items() if words in line and "shim" not in line)

    def engine(self, name: str) -> int:
        """The pid of the one engine on a node; 0: none runs."""
        return next(iter(self.pids(name, "nebula_engine_llamacpp")), 0)


def _is_whole(status: Any) -> bool:
    return (
        status["store"]["connected"]
        and status["scheduler"] is not None
        and len(status["gateways"]) == 2
        and [node["up"] for node in status["nodes"]] == [True, True]
        and [(model["wanted"], model["ready"], len(model["replicas"])) for model in status["models"]] == [(2, 2, 2)]
    )


@dataclass
class Traffic:
    """Short chats through both gateways in turn, one after the other, and what failed."""

    parts: list[Nebula]
    answered: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(gateway, what happened)."""

    def run(self, stopped: threading.Event) -> None:
        while not stopped.wait(0.02):
            for part in self.parts:
                try:
                    answer = part.chat("m", max_tokens=4)
                except httpx.TransportError as error:
                    self.failed.append((part.folder.name, repr(error)))
                    continue
                if answer.status_code == 200:
                    self.answered += 1
                else:
                    self.failed.append((part.folder.name, answer.text))


@contextmanager
def traffic(fleet: Fleet) -> Iterator[Traffic]:
    running, stopped = Traffic([fleet.parts["gateway1"], fleet.parts["gateway2"]]), threading.Event()
    thread = threading.Thread(target=running.run, args=[stopped])
    thread.start()
    try:
        yield running
    finally:
        stopped.set()
        thread.join()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        places = stack.enter_context(machines([*ROLES, "etcd1", "etcd2", "etcd3"]))
        etcds = stack.enter_context(running_cluster(tmp_path / "etcd", machines=[places[f"etcd{n}"] for n in (1, 2, 3)]))
        fleet = Fleet(tmp_path, etcds, places)
        stack.callback(fleet.close)
        fleet.start(*ROLES)
        yield fleet


def test_a_fleet_is_whole_again_after_any_part_of_it_was_killed(fleet, capsys):
    fleet.parts["gateway1"].cli("models", "load", "m", *MODEL, "--replicas", "2")
    eventually(fleet.is_whole, WHOLE_S, lambda: str(fleet.status("gateway2")))
    nodes_used = {replica["node_id"] for replica in fleet.status("gateway2")["models"][0]["replicas"]}
    assert len(nodes_used) == 2
    assert_little_is_written_at_rest(fleet)
    told = []
    for what, kill, is_back, may_fail in kills(fleet):
        before = time.monotonic()
        with traffic(fleet) as seen:
            kill()
            eventually(lambda: is_back() and fleet.is_whole(), WHOLE_S, lambda: f"{what}: {fleet.status('gateway2')}")  # noqa: B023
        told.append(
            f"{what:34} {time.monotonic() - before:5.1f} s {len(seen.failed):3} of {len(seen.failed) + seen.answered} requests failed"
        )
        with capsys.disabled():
            print(told[-1], seen.failed[:3])
        assert {where for where, _ in seen.failed} <= may_fail, (what, seen.failed)
    assert_the_pages_moved(fleet)


def kills(fleet: Fleet) -> Iterator[tuple[str, Callable[[], object], Callable[[], bool], set[str]]]:
    """What is killed, how, when it is back, and through which gateways requests may fail meanwhile."""
    leader = next(etcd for etcd in fleet.etcds if etcd.metric("etcd_server_is_leader"))
    yield "the leading etcd", lambda: (leader.stop(signal.SIGKILL), leader.start()), leader.is_ready, set()

    engine = fleet.engine("node1")
    yield "an engine", lambda: os.kill(engine, signal.SIGKILL), lambda: engine not in fleet.pids("node1", "llamacpp"), set()

    kept = fleet.engine("node1")
    yield "a node's daemon", lambda: restart(fleet, "node1"), lambda: fleet.engine("node1") == kept, set()

    machine, lost = fleet.pids("node2", ""), fleet.engine("node2")
    yield "a node with its engine", lambda: restart(fleet, "node2", *machine), lambda: fleet.engine("node2") not in (0, lost), set()

    leads = fleet.status("gateway1")["scheduler"]
    first = "scheduler1" if f":{fleet.parts['scheduler1'].process.pid}:" in leads else "scheduler2"
    yield "the leading scheduler", fleet.parts[first].kill, lambda: fleet.status("gateway1")["scheduler"] not in (None, leads), set()
    fleet.start(first)

    yield "a gateway's control process", lambda: restart(fleet, "gateway1"), lambda: True, set()

    worker = fleet.pids("gateway1", "gateway.worker")[0]
    yield (
        "a gateway's worker",
        lambda: os.kill(worker, signal.SIGKILL),
        lambda: worker not in fleet.pids("gateway1", "gateway.worker"),
        {"gateway1"},
    )

    yield "a gateway with its worker", lambda: restart(fleet, "gateway1", *fleet.pids("gateway1", "")), lambda: True, {"gateway1"}


def restart(fleet: Fleet, name: str, *others: int) -> None:
    """Kill a part, and other processes of its machine with it, and start it again."""
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    fleet.parts[name].kill()
    fleet.start(name)


def assert_little_is_written_at_rest(fleet: Fleet) -> None:
    """A node that took its own writes for somebody else's once wrote some 300 times a second."""
    before = fleet.etcds[0].metric("etcd_mvcc_put_total")
    time.sleep(3)  # six heartbeats of two nodes, one of two gateways
    assert fleet.etcds[0].metric("etcd_mvcc_put_total") - before < 60


def assert_the_pages_moved(fleet: Fleet) -> None:
    pages = {name: fleet.get(name, "/metrics").text for name in ("node1", "gateway2", "scheduler1")}
    assert 'nebula_engine_kv_cache_usage{model_uid="m"' in pages["node1"]
    assert 'nebula_request_total{status_code="200"}' in pages["gateway2"]
    assert "nebula_build_info" in pages["scheduler1"]
