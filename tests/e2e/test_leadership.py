"""Two schedulers on a real etcd, of which the one that leads is paused in the middle of its writes: the other takes over, and when the
paused one goes on, nothing of what it had still to write is written."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from nebula_store_etcd.testing import Etcd, running

from nebula_core.store import codec, keys
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula
from nebula_core.types import NodeStatus

LEASE_S = 3.0
WAIT_S = 30.0
MODELS = 90
"""So many that writing their plans takes a while, and so few that one transaction can ask for them."""
ATTEMPTS = 5
"""How often the leader is paused anew if it was too quick, or too slow."""
TABLES = "".join(f'[[models]]\nmodel_uid = "m{number}"\nengine = "sim"\n' for number in range(MODELS))


@dataclass
class Schedulers:
    etcd: Etcd
    parts: dict[int, Nebula]
    """By pid."""

    @property
    def leader(self) -> int:
        """The pid of the one that leads; 0: none does."""
        name = self.etcd.ctl("get", "--print-value-only", f"/nebula{keys.SCHEDULER_LEADER}").strip()
        return int(name.split(":")[1]) if name else 0

    def written(self, prefix: str) -> dict[str, int]:
        """The revision at which each key was written last."""
        found = json.loads(self.etcd.ctl("get", "--prefix", "--keys-only", f"/nebula{prefix}", "-w", "json"))
        return {each["key"]: each["mod_revision"] for each in found.get("kvs", ())}

    def add_node(self) -> None:
        """A node that is up for good, and has room for everything."""
        node = NodeStatus(node_id="a", address="127.0.0.1", engines=("sim",))
        self.etcd.ctl("put", f"/nebula{keys.node('a')}", codec.encode(node).decode())

    def pause_in_the_middle(self, pid: int) -> None:
        """Stop a scheduler after its first plan and before its last; if it has written all by then, take them away and try again."""
        for attempt in range(ATTEMPTS):
            self._pause_after(pid, attempt * MODELS)
            if 0 < len(self.written(keys.PLACEMENTS)) < MODELS:
                return
            os.kill(pid, signal.SIGCONT)
            eventually(lambda: self.plans_told(pid) == (attempt + 1) * MODELS, WAIT_S, lambda: self.said(pid))  # noqa: B023
            self.etcd.ctl("del", "--prefix", f"/nebula{keys.PLACEMENTS}")
        raise AssertionError(f"of {ATTEMPTS} attempts none fell into the middle of {MODELS} plans")

    def _pause_after(self, pid: int, plans: int) -> None:
        """Stop a scheduler as soon as it tells of one more plan than those."""
        deadline = time.monotonic() + WAIT_S
        while self.plans_told(pid) <= plans:
            assert time.monotonic() < deadline, self.said(pid)
            time.sleep(0.001)
        os.kill(pid, signal.SIGSTOP)

    def plans_told(self, pid: int) -> int:
        """How many new plans a scheduler has told of in its log."""
        return self.said(pid).count("plan 1:")

    def said(self, pid: int) -> str:
        return self.parts[pid].log.read_text()


@pytest.fixture
def schedulers(tmp_path, make_nebula) -> Iterator[Schedulers]:
    with running(tmp_path / "etcd") as etcd:
        tables = f'[store]\nuse = "etcd"\nlease_s = {LEASE_S}\n[store_etcd]\nendpoints = ["{etcd.endpoint}"]\n{TABLES}'
        parts = [make_nebula(tables).start(role="scheduler", wait=False) for _ in range(2)]
        for part in parts:
            eventually(part.is_up, WAIT_S, part.log.read_text)
        yield Schedulers(etcd, {part.process.pid: part for part in parts})
        for part in parts:
            os.kill(part.process.pid, signal.SIGCONT)


def test_a_paused_leader_is_followed_by_the_standby_and_writes_nothing_stale(schedulers):
    eventually(lambda: len(schedulers.written(keys.STATUS)) == MODELS, WAIT_S)
    paused = schedulers.leader
    schedulers.add_node()
    schedulers.pause_in_the_middle(paused)
    began = time.monotonic()
    eventually(lambda: schedulers.leader not in (0, paused), WAIT_S, lambda: "the standby did not take over")
    print(f"the standby leads {time.monotonic() - began:.1f} s after the pause, with a lease of {LEASE_S:g} s")
    eventually(lambda: len(schedulers.written(keys.PLACEMENTS)) == MODELS, WAIT_S)

    plans, statuses = schedulers.written(keys.PLACEMENTS), schedulers.written(keys.STATUS)
    os.kill(paused, signal.SIGCONT)
    eventually(lambda: "stands by for" in schedulers.said(paused).rpartition("leads no more")[2], WAIT_S, lambda: schedulers.said(paused))
    assert "leads no more" in schedulers.said(paused)
    assert (schedulers.written(keys.PLACEMENTS), schedulers.written(keys.STATUS)) == (plans, statuses)
    assert schedulers.leader != paused
