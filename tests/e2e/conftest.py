from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from nebula_core.testing.made_up import install
from nebula_core.testing.whole import Nebula

FAKE_ENGINES = """
from nebula_core import Provider, hookimpl
from nebula_core.testing.engines import FakeEngine, FakeScraper

@hookimpl
def nebula_register_engines():
    return [Provider(name="fake", build=lambda context, settings: FakeEngine())]

@hookimpl
def nebula_register_scrapers():
    return [Provider(name="fake", build=lambda context, settings: FakeScraper())]
"""

WORDS = [f"word{number}" for number in range(15)]
CLIENTS = 4


@pytest.fixture
def make_nebula(tmp_path: Path) -> Iterator[Callable[..., Nebula]]:
    made: list[Nebula] = []

    def make(tables: str = "", **options: Any) -> Nebula:
        made.append(Nebula(tmp_path / f"nebula{len(made)}", tables, **options))
        return made[-1]

    yield make
    for nebula in made:
        nebula.close()


@pytest.fixture
def fake_engines(tmp_path: Path) -> Path:
    """A folder for `python_path` with a plugin that brings the test kit's engine `fake`, which is up in no time."""
    return install(tmp_path / "plugins", FAKE_ENGINES)


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
    """Whether the engine `fake` has said all that it was told."""
    if answer.status_code != 200:
        return False
    if stream:
        return answer.text.count('"delta"') == len(WORDS) and answer.text.rstrip().endswith("data: [DONE]")
    return bool(answer.json()["choices"][0]["message"]["content"] == " ".join(WORDS))


@contextmanager
def traffic_to(nebula: Nebula) -> Iterator[Traffic]:
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


@pytest.fixture
def traffic() -> Callable[[Nebula], AbstractContextManager[Traffic]]:
    """Asks the model `m` of a Nebula as long as the context lasts: `with traffic(nebula) as seen`."""
    return traffic_to
