"""Replicas come and go under traffic, and no request is lost, sent a second time, or cut short."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice

import httpx
import pytest

from nebula_core.admin.client import AdminClient
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

MODEL = '[[models]]\nmodel_uid = "m"\nengine = "fake"\nword_s = 0.01\nthink_s = 0.01\n'
WORDS = [f"word{number}" for number in range(15)]
NUMBERS = (3, 1, 4, 2)
CHANGES = 50
CLIENTS = 4


@dataclass
class Traffic:
    """Clients that ask without a pause, every second one for a stream; and what did not come back whole."""

    url: str
    answered: int = 0
    lost: list[str] = field(default_factory=list)

    def run(self, stopped: threading.Event, stream: bool) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": " ".join(WORDS)}], "stream": stream}
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            while not stopped.is_set():
                try:
                    answer = client.post("/v1/chat/completions", json=body)
                except httpx.HTTPError as error:
                    self.lost.append(repr(error))
                    continue
                if is_whole(answer, stream):
                    self.answered += 1
                else:
                    self.lost.append(answer.text)


def is_whole(answer: httpx.Response, stream: bool) -> bool:
    if answer.status_code != 200:
        return False
    if stream:
        return answer.text.count('"delta"') == len(WORDS) and answer.text.rstrip().endswith("data: [DONE]")
    return bool(answer.json()["choices"][0]["message"]["content"] == " ".join(WORDS))


@contextmanager
def traffic(nebula: Nebula) -> Iterator[Traffic]:
    running, stopped = Traffic(nebula.url), threading.Event()
    clients = [threading.Thread(target=running.run, args=[stopped, number % 2 == 0]) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield running
    finally:
        stopped.set()
        for client in clients:
            client.join()


def is_settled(admin: AdminClient, number: int) -> bool:
    model = admin.model("m")
    return [replica["state"] for replica in model["replicas"]] == ["ready"] * number == ["ready"] * model["wanted"]


def undrained(log: str) -> list[str]:
    """The replicas that were stopped without having been drained since their start."""
    found, drained = [], set()
    for replica, deed in re.findall(r"(m/\d+): (starting its engine|draining|stopping its engine)", log):
        if deed == "draining":
            drained.add(replica)
        elif deed == "starting its engine":
            drained.discard(replica)
        elif replica not in drained:
            found.append(replica)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_is_lost_over_fifty_scale_ups_and_downs(make_nebula, fake_engines, workers):
    nebula = make_nebula(MODEL, workers=workers, python_path=fake_engines).start()
    token = (nebula.data_dir / "admin.token").read_text().strip()
    with AdminClient(f"http://{nebula.host}:{nebula.admin_port}", token) as admin, traffic(nebula) as seen:
        for number in islice(cycle(NUMBERS), CHANGES):
            admin.scale("m", number)
            eventually(lambda: is_settled(admin, number), 30, nebula.log.read_text)  # noqa: B023
        retries = next(family for family in admin.metrics()["families"] if family["name"] == "nebula_retry_total")
    log = nebula.log.read_text()
    assert seen.lost == []
    assert seen.answered > CHANGES
    assert retries["samples"] == []
    assert log.count("stopping its engine as planned") >= CHANGES
    assert undrained(log) == []
