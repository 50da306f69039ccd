"""A gateway that starts while the store is down, on a real etcd."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from nebula_store_etcd.testing import Etcd, running

from nebula_core.testing.engines import fake_launch
from nebula_core.testing.ports import PortRange
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula


@pytest.fixture
def etcd(tmp_path) -> Iterator[Etcd]:
    with running(tmp_path / "etcd") as etcd:
        yield etcd


@pytest.fixture
def url() -> Iterator[str]:
    ports = PortRange(8)
    engine = subprocess.Popen(fake_launch(port=ports.ports[0]).argv, stdout=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{ports.ports[0]}"
    engine.kill()
    engine.wait()
    ports.close()


def on(etcd: Etcd) -> str:
    return f'[store]\nuse = "etcd"\n[store_etcd]\nendpoints = ["{etcd.endpoint}"]\n'


def said(nebula: Nebula) -> str:
    return " ".join(nebula.log.read_text().split())


def test_a_gateway_serves_from_its_last_table_until_the_store_is_back(make_nebula, etcd, url):
    whole = make_nebula(f'{on(etcd)}[[models]]\nmodel_uid = "m"\nengine = "external"\nurls = ["{url}"]\n').start()
    gateway = make_nebula(on(etcd)).start(role="gateway")
    eventually(lambda: gateway.answers("m"), 20)
    assert gateway.stop() == 0
    etcd.stop()

    gateway.start(role="gateway")
    assert gateway.chat("m").status_code == 200
    assert "serving by the last routing table" in said(gateway)
    assert whole.chat("m").status_code == 200, "who was there before the store went away serves on"

    eventually(lambda: not whole.status()["store"]["connected"], 30)  # else "connected" below could be from before the outage
    etcd.start()
    etcd.wait_ready()
    eventually(lambda: whole.status()["store"]["connected"], 30)
    whole.cli("models", "load", "new", "--engine", "external", "--set", f'urls=["{url}"]')
    eventually(lambda: gateway.answers("new"), 30)
    assert gateway.answers("m")


def test_a_gateway_that_never_had_a_table_waits_and_can_be_stopped(make_nebula, etcd):
    etcd.stop(signal.SIGKILL)
    gateway = make_nebula(on(etcd)).start(role="gateway", wait=False)
    eventually(lambda: "no earlier run left a routing table" in said(gateway), 30, lambda: said(gateway))
    assert httpx.get(f"http://127.0.0.1:{gateway.admin_port}/health", trust_env=False).status_code == 200
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


def admin(nebula, path):
    try:
        return httpx.get(f"http://127.0.0.1:{nebula.admin_port}{path}", trust_env=False)
    except httpx.TransportError:
        return None


def test_a_node_waits_for_the_store_and_says_so(make_nebula, etcd):
    etcd.stop(signal.SIGKILL)
    nebula = make_nebula(on(etcd)).start(role="node", wait=False)
    eventually(lambda: "waiting for the etcd store" in said(nebula), 30, lambda: said(nebula))
    assert eventually(lambda: admin(nebula, "/health"), 30).json() == {"status": "waiting for the store"}
    refused = admin(nebula, "/metrics")
    assert (refused.status_code, 'waits for the store "etcd"' in refused.json()["error"]["message"]) == (503, True)
    etcd.start()
    eventually(nebula.is_up, 30, lambda: said(nebula))
    assert admin(nebula, "/health").json() == {"status": "ok"}
    assert "nebula_store_connected 1.0" in admin(nebula, "/metrics").text
    etcd.stop(signal.SIGKILL)
    eventually(lambda: "nebula_store_connected 0.0" in admin(nebula, "/metrics").text, 30)
    assert nebula.status()["store"]["connected"] is False
    assert nebula.stop() == 0


def test_a_scheduler_that_waits_for_the_store_can_be_stopped(make_nebula, etcd):
    etcd.stop(signal.SIGKILL)
    nebula = make_nebula(on(etcd)).start(role="scheduler", wait=False)
    eventually(lambda: "waiting for the etcd store" in said(nebula), 30, lambda: said(nebula))
    assert nebula.stop() == 0
    assert "Traceback" not in nebula.log.read_text()
