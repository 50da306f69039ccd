"""The three roles as processes of their own on one real etcd, each with its own user, beside values of strangers; and etcd goes away.

`TEST_ETCD_OUTAGE_S=60` makes that a minute.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from nebula_store_etcd.testing import Etcd, running

from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import NEBULA, Nebula

ROLES = ("gateway", "scheduler", "node")
ROOT = ("--user", "root:secret")
OUTAGE_S = float(os.environ.get("TEST_ETCD_OUTAGE_S", "4"))
WAIT_S = 60.0
SMALL = '[[models]]\nmodel_uid = "m"\nengine = "llamacpp"\ncontext_tokens = 256\nparallel = 1\n'
STRANGERS = {
    "/nebula/model_requests/stranger": "\udcff\udcfe no JSON at all",
    "/nebula/placements/stranger": "[]",
    "/nebula/placements/no-text-\udcff": "{}",
    "/nebula/status/stranger": '{"schema_version": 9, "state": {"of": "a newer kind"}}',
    "/nebula/nodes/stranger": "",
    "/nebula/endpoints/stranger/0": '"text"',
    "/nebula/endpoints/stranger": "{}",
    "/nebula/stats/stranger/0": "null",
    "/nebula/gateways/stranger": "[" * 2000,
    "/nebula/seeds/stranger": "{",
    "/nebula/unknown/kind": "{}",
}


@dataclass
class Fleet:
    etcd: Etcd
    gateway: Nebula
    scheduler: Nebula
    node: Nebula

    @property
    def roles(self) -> tuple[Nebula, ...]:
        return self.gateway, self.scheduler, self.node

    def value(self, key: str) -> bytes:
        return self.etcd.ctl_bytes(*ROOT, "get", "--print-value-only", key).removesuffix(b"\n")

    def revisions(self, prefix: str) -> list[int]:
        found = json.loads(self.etcd.ctl(*ROOT, "get", "--prefix", prefix, "-w", "json"))
        return [each["mod_revision"] for each in found["kvs"]]

    def engines(self) -> list[int]:
        return sorted(pid for pid, line in self.node.processes().items() if "nebula_engine_llamacpp" in line and "shim" not in line)

    def logs(self) -> str:
        return "\n".join(role.log.read_text() for role in self.roles)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack:
        etcd = stack.enter_context(running(folder / "etcd", ["--bcrypt-cost", "4"]))
        for key, value in STRANGERS.items():
            etcd.ctl("put", key, value)
        roles = {}
        for role in ROLES:
            store = f'[store]\nuse = "etcd"\n[store_etcd]\nendpoints = ["{etcd.endpoint}"]\n'
            roles[role] = Nebula(folder / role, store + (SMALL if role == "scheduler" else ""))
            stack.callback(roles[role].close)
        users = [*NEBULA, "etcd", "users", "--enable-auth", "--out", str(folder / "secrets"), "--settings", str(roles["node"].settings)]
        subprocess.run(users, check=True, env={**os.environ, "ETCD_ROOT_PASSWORD": "secret"}, stdout=subprocess.DEVNULL)
        for role in ROLES:
            (folder / "secrets" / f"{role}.secrets.toml").rename(folder / role / ".secrets.toml")
            roles[role].start(role=role, wait=False)
        for each in roles.values():
            eventually(each.is_up, WAIT_S, lambda: "\n".join(one.log.read_text() for one in roles.values()))
        fleet = Fleet(etcd, **roles)
        eventually(lambda: fleet.gateway.answers("m"), WAIT_S, fleet.logs)
        yield fleet


def test_roles_with_a_user_each_serve_what_the_schedulers_settings_declare(fleet: Fleet) -> None:
    assert fleet.gateway.chat("m").status_code == 200
    assert {each["node_id"] for each in fleet.gateway.status()["nodes"]} == {each["node_id"] for each in fleet.node.status()["nodes"]}
    assert "may not" not in fleet.logs()


def test_what_strangers_keep_under_the_prefix_is_told_and_left_as_it_is(fleet: Fleet) -> None:
    for key, value in STRANGERS.items():
        fleet.etcd.ctl(*ROOT, "put", key, value)  # once more, for those who were not there
    assert fleet.gateway.chat("m").status_code == 200
    for key, value in STRANGERS.items():
        assert fleet.value(key) == os.fsencode(value), key
    assert "/model_requests/stranger (revision" in fleet.logs()
    assert "is left out: this is not a ModelRequest" in fleet.logs()
    assert "Traceback" not in fleet.logs()
    for role in fleet.roles:
        assert [model["model_uid"] for model in role.status()["models"]] == ["m"]


def test_a_node_may_not_scale_a_model(fleet: Fleet) -> None:
    refused = fleet.node.cli("models", "scale", "m", "2", check=False)
    assert refused.returncode == 1
    assert '"nebula-node" ([store_etcd] user) may not write /nebula/model_requests/m' in " ".join(refused.stderr.split())


def test_with_etcd_away_all_is_served_and_nothing_scaled_or_killed_and_then_all_catches_up(fleet: Fleet) -> None:
    engines, plans = fleet.engines(), fleet.revisions("/nebula/placements/m")
    fleet.etcd.stop()
    until, failed, answered = time.monotonic() + OUTAGE_S, 0, 0
    while time.monotonic() < until:
        failed, answered = (failed, answered + 1) if fleet.gateway.answers("m") else (failed + 1, answered)
    assert answered > 0
    assert failed == 0
    assert all(role.process is not None and role.process.poll() is None for role in fleet.roles)
    assert fleet.engines() == engines

    fleet.etcd.start()
    fleet.etcd.wait_ready()
    assert fleet.revisions("/nebula/placements/m") == plans
    eventually(lambda: fleet.gateway.cli("models", "scale", "m", "2", check=False).returncode == 0, WAIT_S, fleet.logs)
    eventually(lambda: fleet.gateway.model("m")["ready"] == 2, WAIT_S, fleet.logs)
    assert set(engines) <= set(fleet.engines())
    print(f"{answered} requests in {OUTAGE_S:.0f} s without etcd")
