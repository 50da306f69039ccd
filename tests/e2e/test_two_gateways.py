"""Two gateways of one fleet, on a real etcd, that route by the load of both."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from nebula_store_etcd.testing import running

from nebula_core.testing.engines import fake_launch
from nebula_core.testing.ports import PortRange
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

KNOWN_S = 0.3
"""A charge is to be known to the other gateway within 50 ms, on a machine that has nothing else to do."""


@pytest.fixture
def urls() -> Iterator[list[str]]:
    ports = PortRange(8)
    engines = {port: subprocess.Popen(fake_launch(port=port, word_s=0.2).argv, stdout=subprocess.DEVNULL) for port in ports.ports[:4]}
    yield [f"http://127.0.0.1:{port}" for port in engines]
    for engine in engines.values():
        engine.kill()
        engine.wait()
    ports.close()


@pytest.fixture
def gateways(tmp_path, make_nebula, urls) -> Iterator[list[Nebula]]:
    """A whole Nebula, and a gateway beside it, in front of four engines."""
    with running(tmp_path / "etcd") as etcd:
        common = f'[router]\nstrategy = "least_pending"\n[store]\nuse = "etcd"\n[store_etcd]\nendpoints = ["{etcd.endpoint}"]\n'
        model = f'[[models]]\nmodel_uid = "m"\nengine = "external"\nurls = {urls}\n'
        cached = model.replace('"m"', '"cached"') + 'strategy = "prefix"\n'
        first = make_nebula(common + model + cached).start()
        second = make_nebula(common).start(role="gateway")
        eventually(lambda: second.answers("m") and second.answers("cached"), 20)
        eventually(lambda: all("telling the gateway" in each.log.read_text() for each in (first, second)), 20)
        yield [first, second]


class Streams:
    """Streams that are held open. One client for all, since to make one costs more than what it is used for."""

    def __init__(self, urls: list[str], pool: ThreadPoolExecutor, client: httpx.Client) -> None:
        self._urls, self._pool, self._client = urls, pool, client

    def begin(self, through: Nebula) -> None:
        """Have one more, and give both gateways the time to know of it."""
        before = sum(self.by_engine())
        body = {"model": "m", "messages": [{"role": "user", "content": "word " * 200}], "stream": True}
        self._pool.submit(self._client.post, f"{through.url}/v1/chat/completions", json=body)
        eventually(lambda: sum(self.by_engine()) == before + 1, 20)
        time.sleep(KNOWN_S)

    def by_engine(self) -> list[int]:
        """How many each engine has, in order of numbers."""
        return sorted(self._client.get(f"{url}/load").json()["running"] for url in self._urls)

    def end(self) -> None:
        """End them all, with the engines."""
        for url in self._urls:
            with suppress(httpx.TransportError):
                self._client.post(f"{url}/exit")


@pytest.fixture
def streams(urls, gateways) -> Iterator[Streams]:
    with httpx.Client(trust_env=False, timeout=60) as client, ThreadPoolExecutor(16) as pool:
        streams = Streams(urls, pool, client)
        yield streams
        streams.end()


def test_two_gateways_know_each_others_caches_and_charges_and_a_killed_one_takes_its_own_along(gateways, streams):
    """Neither could do it by what it knows itself: each would begin with the same engine, and go on counting what has ended."""
    first, second = gateways
    assert_one_finds_what_the_other_has_sent(first, second)
    for sent in range(16):
        streams.begin(gateways[sent % 2])
    assert streams.by_engine() == [4, 4, 4, 4]
    eventually(lambda: demand(first) == [8, 8], 20)  # each says what is its own
    assert "peers_key" not in str(first.status())

    for pid in second.processes():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: sum(streams.by_engine()) == 8, 20)
    time.sleep(KNOWN_S)
    for _ in range(8):
        streams.begin(first)
    assert streams.by_engine() == [4, 4, 4, 4]


def assert_one_finds_what_the_other_has_sent(first: Nebula, second: Nebula) -> None:
    prompts = [{"messages": [{"role": "user", "content": f"{number} times asked. " * 50}], "max_tokens": 1} for number in range(10)]
    for prompt in prompts:
        assert first.chat("cached", **prompt).status_code == 200
    new_here = iter(prompts)  # each is sent once: what a gateway has sent itself, it knows
    eventually(lambda: second.chat("cached", **next(new_here)) and hits(second), 20)


def hits(gateway: Nebula) -> float:
    """Prompts that it sent where most of them was believed to be cached."""
    page = httpx.get(f"http://127.0.0.1:{gateway.admin_port}/metrics", trust_env=False).text
    found = re.search(r'^nebula_strategy_prefix_decision_total\{reason="prefix_hit"\} (\S+)', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def demand(gateway: Nebula) -> list[int]:
    return [each["demand"].get("m", 0) for each in gateway.status()["gateways"]]
