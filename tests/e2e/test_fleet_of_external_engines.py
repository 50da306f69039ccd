"""Routing over engines that already run somewhere, with several gateway workers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from nebula_core.testing.engines import fake_launch
from nebula_core.testing.ports import PortRange
from nebula_core.testing.waiting import eventually


class Engines:
    """Fake engines on ports of their own."""

    def __init__(self) -> None:
        self.by_port: dict[int, subprocess.Popen[bytes]] = {}
        self._range = PortRange(8)
        self._unused = iter(self._range.ports)

    def start(self, port: int | None = None, **options) -> str:
        port = port or next(self._unused)
        self.by_port[port] = subprocess.Popen(fake_launch(port=port, **options).argv, stdout=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: is_well(url), 20)
        return url

    def kill(self, url: str) -> None:
        process = self.by_port.pop(int(url.rsplit(":", 1)[1]))
        process.kill()
        process.wait()

    def close(self) -> None:
        for port in list(self.by_port):
            self.kill(f"http://127.0.0.1:{port}")
        self._range.close()


def is_well(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def engines() -> Iterator[Engines]:
    started = Engines()
    yield started
    started.close()


@pytest.fixture
def make_fleet(make_nebula, engines) -> Callable:
    def make(count: int, *, keys: str = "", workers: int = 1, **options):
        urls = [engines.start(**options) for _ in range(count)]
        nebula = make_nebula(f'[[models]]\nmodel_uid = "org/m"\nengine = "external"\nurls = {urls}\n{keys}', workers=workers)
        return nebula.start(), urls

    return make


def workers_of(nebula) -> list[int]:
    return [pid for pid, line in nebula.processes().items() if "gateway.worker" in line]


def test_ids_with_slashes_are_found(make_fleet):
    nebula, _ = make_fleet(1)
    for name in ("org/m", "org%2Fm"):
        assert httpx.get(f"{nebula.url}/v1/models/{name}", trust_env=False).json()["id"] == "org/m"


def test_a_killed_engine_costs_no_request_that_had_not_begun(make_fleet, engines):
    nebula, urls = make_fleet(3)
    engines.kill(urls[0])
    assert {nebula.chat("org/m").status_code for _ in range(30)} == {200}


def test_an_engine_that_comes_back_is_used_again(make_fleet, engines):
    nebula, [url] = make_fleet(1)
    engines.kill(url)
    refused = nebula.chat("org/m")
    assert refused.status_code in (502, 503)
    assert refused.json()["error"]["message"]
    engines.start(int(url.rsplit(":", 1)[1]))
    eventually(lambda: nebula.answers("org/m"), 20)


def test_requests_are_served_on_though_the_control_process_is_gone(make_fleet):
    nebula, _ = make_fleet(2, workers=2)
    nebula.kill()
    assert {nebula.chat("org/m").status_code for _ in range(20)} == {200}
    nebula.start()
    eventually(lambda: len(workers_of(nebula)) == 2, 20)
    assert {nebula.chat("org/m").status_code for _ in range(20)} == {200}


def test_a_killed_worker_is_replaced(make_fleet):
    nebula, _ = make_fleet(1, workers=2)
    [victim, other] = workers_of(nebula)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in workers_of(nebula) and len(workers_of(nebula)) == 2, 20)
    assert other in workers_of(nebula)
    assert {nebula.chat("org/m").status_code for _ in range(20)} == {200}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_for_running_requests(make_fleet, number):
    nebula, urls = make_fleet(1, word_s=0.2)
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(nebula.chat, "org/m", messages=[{"role": "user", "content": "word " * 600}], stream=True)
        eventually(lambda: running(urls).total(), 20)
        nebula.process.send_signal(number)
        eventually(lambda: "stopping" in nebula.log.read_text(), 20)
        assert nebula.process.poll() is None
        nebula.process.send_signal(number)
        assert nebula.process.wait(60) == 130
        assert isinstance(endless.exception(), httpx.TransportError)
    assert nebula.processes() == {}
    assert "Traceback" not in nebula.log.read_text()


def test_workers_know_of_each_others_requests(make_fleet):
    """Long streams through two workers land evenly on four engines, which neither could do by its own count alone."""
    nebula, urls = make_fleet(4, workers=2, word_s=0.2, keys='strategy = "least_pending"\n')
    with ThreadPoolExecutor(16) as pool:
        for sent in range(1, 17):
            pool.submit(nebula.chat, "org/m", messages=[{"role": "user", "content": "word " * 90}], stream=True)
            eventually(lambda sent=sent: running(urls).total() == sent, 20)
            time.sleep(0.3)  # a charge is to be known to the other workers within 50 ms, on a machine that has nothing else to do
        assert sorted(running(urls).values()) == [4, 4, 4, 4]


def running(urls: list[str]) -> Counter[str]:
    return Counter({url: httpx.get(f"{url}/load", trust_env=False).json()["running"] for url in urls})
