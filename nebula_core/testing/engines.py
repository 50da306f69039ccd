"""An engine for tests: launches `fake_engine.py`, which echoes, crashes, loads slowly or ignores signals as it is told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nebula_core.errors import LaunchError, ScrapeError
from nebula_core.interfaces import Attach, Engine, EngineAddress, Fetch, Launch, Scraper
from nebula_core.types import EndpointStats, ModelRequest, ReplicaSpec

PROGRAM = Path(__file__).with_name("fake_engine.py")


def fake_launch(**options: Any) -> Launch:
    """How to start `fake_engine.py`: `fake_launch(port=18000, ready_after=0.5, say=["loading"], ignore_term=True)`."""
    return Launch((sys.executable, "-S", str(PROGRAM), *_flags(options)))


class FakeEngine(Engine):
    """Its `engine_args` are the options of `fake_engine.py`; `url` attaches to what runs there, `missing` fails the check."""

    scraper = "fake"

    def specs(self, request: ModelRequest) -> tuple[ReplicaSpec, ...]:
        """As many equal replicas as are asked for."""
        names = (request.model_uid, *request.aliases)
        spec = ReplicaSpec(model_uid=request.model_uid, engine=request.engine, served_names=names, engine_args=request.engine_args)
        return (spec,) * request.replicas

    def check(self, spec: ReplicaSpec) -> None:
        """Raise `LaunchError` if told to."""
        if missing := spec.engine_args.get("missing"):
            raise LaunchError(f"there is no {missing}")

    def launch(self, spec: ReplicaSpec, address: EngineAddress, gpu_indexes: tuple[int, ...]) -> Launch | Attach:
        """The program with its options, or where it runs already."""
        if url := spec.engine_args.get("url"):
            return Attach(url, spec.engine_args.get("api_key", ""))
        return fake_launch(host=address.host, port=address.port, api_key=address.api_key, model=spec.model_uid, **spec.engine_args)


class FakeScraper(Scraper):
    """Reads the fake engine's `/load`."""

    async def scrape(self, fetch: Fetch) -> EndpointStats:
        """Pending and running requests."""
        try:
            load = msgspec.json.decode(await fetch("/load"), type=dict[str, float])
        except msgspec.MsgspecError as error:
            raise ScrapeError(f"/load is not what the fake engine promises: {error}") from error
        return EndpointStats(pending=load.get("pending"), running=load.get("running"))


def _flags(options: Mapping[str, Any]) -> list[str]:
    flags = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not False:
            flags += [f"{flag}={item}" for item in (value if isinstance(value, list | tuple) else [value])]
    return flags
