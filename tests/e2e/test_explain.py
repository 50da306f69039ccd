"""An operator asks why a request went where it went: the real program, two engines, the id that the client got."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from nebula_core.testing.engines import fake_launch
from nebula_core.testing.ports import PortRange
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

LONG = [{"role": "user", "content": "Once upon a time. " * 300}]


@pytest.fixture
def engines() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Two engines that run already, by URL."""
    ports = PortRange(2)
    started = {f"http://127.0.0.1:{port}": subprocess.Popen(fake_launch(port=port).argv, stdout=subprocess.DEVNULL) for port in ports.ports}
    yield started
    for process in started.values():
        process.kill()
        process.wait()
    ports.close()


def test_a_request_is_explained_by_the_id_its_client_got(make_nebula, engines):
    table = f'[[models]]\nmodel_uid = "org/m"\nengine = "external"\nurls = {list(engines)}\n'
    nebula = make_nebula(table, workers=2).start()

    [first] = decisions_on(nebula, ask(nebula))
    assert (first["strategy"], first["reason"], len(first["candidates"])) == ("prefix", "prefix_new", 2)
    hit = eventually(lambda: hit_among(decisions_on(nebula, ask(nebula))), 20)  # once both workers know of the first one
    cached = {one["replica_id"]: one["figures"]["cached_bytes"] for one in hit["candidates"]}
    assert hit["picked"] == first["picked"] == max(cached, key=cached.__getitem__)

    lose(engines, url_of(nebula, hit["picked"]))
    request_id = ask(nebula)
    lost, retried = decisions_on(nebula, request_id)
    assert [lost["picked"]] == [hit["picked"]] != [one["replica_id"] for one in retried["candidates"]]
    said = re.findall(r"^(\d)\. org/m, .* picked the replica (\d)", nebula.cli("explain", request_id).stdout, re.MULTILINE)
    assert said == [("1", lost["picked"]), ("2", retried["picked"])]


def test_what_cannot_be_explained_says_why(make_nebula, engines):
    table = f'[[models]]\nmodel_uid = "plain"\nengine = "external"\nstrategy = "least_kv"\nurls = {list(engines)}\n'
    nebula = make_nebula(table).start()
    refused = nebula.cli("explain", nebula.chat("plain").headers["x-request-id"], check=False)
    assert (refused.returncode, "the last 256 decisions of prefix in each worker" in refused.stderr) == (1, True)
    assert "routing: least_kv lacks kv_cache_used_bytes or kv_cache_usage of 2 of 2 ready replicas" in nebula.cli("status").stdout


def ask(nebula: Nebula) -> str:
    """Send a long prompt, always the same one, and return the id that its answer bears."""
    answer = nebula.chat("org/m", messages=LONG)
    assert answer.status_code == 200
    return answer.headers["x-request-id"]


def decisions_on(nebula: Nebula, request_id: str) -> list[dict[str, Any]]:
    return nebula.admin.decisions(request_id)["decisions"]


def url_of(nebula: Nebula, replica_id: str) -> str:
    return next(one["url"] for one in nebula.admin.model("org/m")["replicas"] if one["replica_id"] == replica_id)


def hit_among(decisions: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((one for one in decisions if one["reason"] == "prefix_hit"), None)


def lose(engines: dict[str, subprocess.Popen[bytes]], url: str) -> None:
    engines[url].kill()
    engines[url].wait()
