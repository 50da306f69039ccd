"""What every engine must do, whatever it starts, and a way to try a real one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import msgspec
import pytest

from nebula_core.errors import InvalidModelRequest
from nebula_core.interfaces import Attach, Engine, EngineAddress, Launch
from nebula_core.testing.polling import eventually
from nebula_core.types import ModelRequest, ReplicaSpec

ADDRESS = EngineAddress("127.0.0.1", 18000, "sk-secret-of-this-test")


def free_address() -> EngineAddress:
    """A port on loopback that nobody has now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return replace(ADDRESS, port=probe.getsockname()[1])


@dataclass(frozen=True)
class Started:
    """An engine's process, its log and a client that has its address and key."""

    process: asyncio.subprocess.Process
    log: Path
    http: httpx.AsyncClient

    async def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, wait, and return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(by)
        return await self.process.wait()


@asynccontextmanager
async def started(launch: Launch, address: EngineAddress, log: Path) -> AsyncIterator[Started]:
    """Start `launch` as a node would, with a minimal environment; it is gone afterwards. Does not wait until it is ready."""
    env = {"PATH": os.environ["PATH"], "HOME": str(log.parent), **launch.env}
    client = httpx.AsyncClient(
        limits=httpx.Limits(max_keepalive_connections=0),  # llama.cpp closes some after a stream, without a word
        base_url=f"http://{address.host}:{address.port}",
        headers={"Authorization": f"Bearer {address.api_key}"},
        trust_env=False,
        timeout=60,
    )
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*launch.argv, env=env, cwd=log.parent, stdout=output, stderr=output)
    async with client as http:
        engine = Started(process, log, http)
        try:
            yield engine
        finally:
            await engine.end(signal.SIGKILL)


async def until_ready(engine: Started, health_path: str = "/health", timeout_s: float = 60.0) -> None:
    """Wait until its health page answers 200. Raises `AssertionError` with its log if it ends instead."""

    async def ready() -> bool:
        assert engine.process.returncode is None, engine.log.read_text(errors="replace")
        try:
            return (await engine.http.get(health_path)).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(ready, timeout_s)


class EngineContract(ABC):
    """Inherit it in a test class, make the engine under test and a request that it accepts on the machine that runs the tests."""

    @abstractmethod
    def make_engine(self) -> Engine:
        """The engine with its default settings."""

    @abstractmethod
    def make_request(self) -> ModelRequest:
        """A request that asks for at least one replica; its `model_uid` holds a slash."""

    def test_equal_requests_give_equal_specs(self) -> None:
        """Else every pass of the scheduler would restart engines."""
        assert self.make_engine().specs(self.make_request()) == self.make_engine().specs(self.make_request())

    def test_every_spec_says_what_it_is_a_replica_of(self) -> None:
        """The model and the engine that is to launch it."""
        request = self.make_request()
        specs = self.make_engine().specs(request)
        assert specs
        assert {(spec.model_uid, spec.engine) for spec in specs} == {(request.model_uid, request.engine)}

    def test_a_spec_is_the_same_after_the_store(self) -> None:
        """It is written as JSON, and its version decides whether a replica is started anew."""
        for spec in self.make_engine().specs(self.make_request()):
            kept = msgspec.json.decode(msgspec.json.encode(spec), type=ReplicaSpec)
            assert kept.version("node", ()) == spec.version("node", ())

    def test_a_misspelt_key_is_refused_with_its_name_and_the_models(self) -> None:
        """Not ignored, and not found out when the engine starts."""
        request = self.make_request()
        wrong = msgspec.structs.replace(request, engine_args={**request.engine_args, "no_such_key": 1})
        with pytest.raises(InvalidModelRequest, match="no_such_key") as caught:
            self.make_engine().specs(wrong)
        assert request.model_uid in str(caught.value)

    def test_what_it_asked_for_can_be_launched(self) -> None:
        """`check` finds nothing missing, and `launch` says what to start or where it runs."""
        engine = self.make_engine()
        for spec in engine.specs(self.make_request()):
            engine.check(spec)
            assert isinstance(engine.launch(spec, ADDRESS, ()), Launch | Attach)

    def test_the_key_is_not_on_the_command_line(self) -> None:
        """Every user of the machine can read that."""
        for launch in self._launches(ADDRESS):
            assert not any(ADDRESS.api_key in word for word in launch.argv)
            assert any(ADDRESS.api_key in value for value in launch.env.values())

    def test_it_listens_where_it_is_told_to(self) -> None:
        """The port appears in what is started."""
        for launch in self._launches(replace(ADDRESS, port=18765)):
            assert any("18765" in word for word in (*launch.argv, *launch.env.values()))

    def test_it_is_watched_by_names_and_a_path(self) -> None:
        """The node looks them up."""
        engine = self.make_engine()
        for spec in engine.specs(self.make_request()):
            assert engine.probe
            assert engine.scraper_for(spec) != ""
            assert engine.health_path_for(spec).startswith("/")

    def _launches(self, address: EngineAddress) -> list[Launch]:
        engine = self.make_engine()
        launches = [engine.launch(spec, address, ()) for spec in engine.specs(self.make_request())]
        return [launch for launch in launches if isinstance(launch, Launch)]
