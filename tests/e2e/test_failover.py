"""Engines are killed one after the other under load, and restarted by their node: what clients see of it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

MODEL = '[[models]]\nmodel_uid = "m"\nengine = "fake"\nreplicas = 4\nthink_s = 0.2\nword_s = 0.05\n'
WORDS = "word " * 20
KILLS = 8


@pytest.fixture
def nebula(make_nebula, fake_engines: Path) -> Nebula:
    """A whole Nebula as it ships, with four engines of its own that think for 0.2 s and stream for a second."""
    return make_nebula(MODEL, python_path=fake_engines).start()


class Caller(threading.Thread):
    """A client that asks again and again, and notes how each of its requests ended."""

    def __init__(self, url: str, *, stream: bool) -> None:
        super().__init__()
        self.url, self.stream = url, stream
        self.stopping = threading.Event()
        self.ends: Counter[str] = Counter()
        self.waiting_since: float | None = None
        """When it sent the request of whose answer it has not seen a byte."""

    def run(self) -> None:
        body = {"model": "m", "stream": self.stream, "messages": [{"role": "user", "content": WORDS if self.stream else "hi"}]}
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self.stopping.is_set():
                self.waiting_since = time.monotonic()
                try:
                    with client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
                        self.ends[self.outcome(answer)] += 1
                except httpx.TransportError as error:
                    self.ends[f"no answer: {error!r}"] += 1
                self.waiting_since = None

    def outcome(self, answer: httpx.Response) -> str:
        seen = b""
        try:
            for piece in answer.iter_raw():
                self.waiting_since = None
                seen += piece
        except httpx.TransportError as error:
            return f"cut after {len(seen)} bytes: {error!r}"
        if answer.status_code != 200:
            return f"{answer.status_code}: {seen.decode()}"
        if not self.stream:
            return "whole" if json.loads(seen)["choices"] else "empty"
        *sent, last = seen.decode().strip().split("\n\n")
        if last == "data: [DONE]":
            return "whole"
        if sent and last.startswith('data: {"error"'):
            return f"ended with {json.loads(last.removeprefix('data: '))['error']['code']}"
        return f"silently broken off: {seen!r}"


@pytest.fixture
def callers(nebula: Nebula) -> Iterator[list[Caller]]:
    started = [Caller(nebula.url, stream=bool(i % 2)) for i in range(12)]
    for caller in started:
        caller.start()
    yield started
    stop(started)


def stop(callers: list[Caller]) -> None:
    for caller in callers:
        caller.stopping.set()
    for caller in callers:
        caller.join(60)


def engines(nebula: Nebula) -> dict[int, int]:
    """The pids of the engines that run, by port."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            _, *words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        ports = [int(word.removeprefix("--port=")) for word in words if word.startswith("--port=")]
        if words[:1] == ["-S"] and ports and nebula.engine_port <= ports[0] < nebula.engine_port + 20:
            found[ports[0]] = int(path.parent.name)
    return found


def kill_one(nebula: Nebula, callers: list[Caller], killed: list[int]) -> None:
    """SIGKILL to the engine that has run for longest, once three run and no request waits that an earlier kill may have hit."""
    began = time.monotonic()
    eventually(lambda: len(engines(nebula)) >= 3, 20)
    eventually(lambda: all((caller.waiting_since or time.monotonic()) > began for caller in callers), 20)
    running = engines(nebula)
    port = min(running, key=lambda port: max((turn for turn, other in enumerate(killed) if other == port), default=-1))
    os.kill(running[port], signal.SIGKILL)
    killed.append(port)
    time.sleep(0.5)  # the pace of the kills; nothing is waited for


def retries(nebula: Nebula) -> Counter[str]:
    """Attempts made again, by reason, as the metrics page has them."""
    page = httpx.get(f"http://127.0.0.1:{nebula.admin_port}/metrics", trust_env=False).text
    found = re.findall(r'^nebula_retry_total\{.*reason="(\w+)"\} (\S+)$', page, flags=re.MULTILINE)
    return Counter({reason: int(float(count)) for reason, count in found})


def test_engines_that_are_killed_cost_no_request_whose_answer_had_not_begun(nebula: Nebula, callers: list[Caller]) -> None:
    killed: list[int] = []
    for _ in range(KILLS):
        kill_one(nebula, callers, killed)
    stop(callers)
    asked = sum((caller.ends for caller in callers if not caller.stream), Counter())
    streamed = sum((caller.ends for caller in callers if caller.stream), Counter())
    assert len(set(killed)) == 4
    assert set(asked) == {"whole"}
    assert set(streamed) == {"whole", "ended with engine_failed"}
    assert eventually(lambda: retries(nebula)["reset"], 10)
    assert "suspect" not in nebula.log.read_text()
    eventually(lambda: len(engines(nebula)) == 4, 30)
