"""Bringing engines to life: from an assignment to a running engine, whether it is started, adopted or only attached to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import httpx

from nebula_core.errors import LaunchError, PluginError
from nebula_core.interfaces import Attach, Engine, EngineAddress, Exit, Handle, Launch, Probe, Runtime, Scraper
from nebula_core.node.health import Inspector, Target
from nebula_core.node.note import Note, engine_name
from nebula_core.node.ports import base_url, free_port
from nebula_core.node.replica import Replica
from nebula_core.settings import NodeSettings
from nebula_core.types import Assignment, EndpointStats, ReplicaSpec


@dataclass
class Running:
    """One engine that this daemon watches."""

    note: Note
    handle: Handle | None
    """`None`: it runs elsewhere and is only attached to."""
    inspector: Inspector
    stats: EndpointStats | None = None
    sampled_at: float = 0.0
    detached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to let go of an engine that is only attached to."""


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Starts, adopts and ends engines. `make_scraper` makes one by name, or none."""

    engines: Mapping[str, Engine]
    runtime: Runtime
    probes: Mapping[str, Probe]
    make_scraper: Callable[[str], Scraper | None]
    settings: NodeSettings
    http: httpx.AsyncClient
    logger: logging.Logger
    gpu_environment: Callable[[Sequence[int]], Mapping[str, str]]
    """What an engine needs in its environment to see the GPUs of these indexes only."""
    _ports: dict[Replica, int] = field(default_factory=dict)
    _keys: dict[Replica, str] = field(default_factory=dict)
    """Each replica's API key. It stays the same when its engine is started again: while the store is away, gateways know no other."""

    async def start(self, assignment: Assignment, incarnation: int) -> Running:
        """Start an engine. Raises `LaunchError`."""
        spec = assignment.spec
        replica = (spec.model_uid, assignment.replica_id)
        engine = self._engine(spec)
        await asyncio.to_thread(engine.check, spec)  # it may look at large or distant files
        key = self._keys.setdefault(replica, secrets.token_urlsafe(24))
        address = EngineAddress(self.settings.address, self._take_port(replica), key)
        note = Note(
            assignment=assignment,
            incarnation=incarnation,
            url=base_url(address.host, address.port),
            port=address.port,
            api_key=address.api_key,
        )
        try:
            return await self._launch(engine, engine.launch(spec, address, assignment.gpu_indexes), note)
        except BaseException:
            self.release(replica)
            raise

    def adopt(self, note: Note, handle: Handle) -> Running:
        """Watch an engine that an earlier daemon started. Raises `LaunchError` if what it takes is not installed any more."""
        running = self._watch(self._engine(note.assignment.spec), note, handle)
        self._ports[note.replica], self._keys[note.replica] = note.port, note.api_key
        return running

    async def wait(self, running: Running) -> Exit:
        """Wait for its end."""
        if running.handle is not None:
            return await self.runtime.wait(running.handle)
        await running.detached.wait()
        return Exit(None)

    async def stop(self, running: Running) -> None:
        """End it, or let go of it."""
        if running.handle is not None:
            await self.runtime.stop(running.handle, self.settings.stop_grace_s)
        running.detached.set()

    def release(self, replica: Replica) -> None:
        """Its engine has ended: its port may be given to another."""
        self._ports.pop(replica, None)

    def forget(self, replica: Replica) -> None:
        """It will not be started again."""
        self._keys.pop(replica, None)

    async def _launch(self, engine: Engine, launch: Launch | Attach, note: Note) -> Running:
        if isinstance(launch, Attach):
            self.release(note.replica)  # it listens elsewhere
            return self._watch(
                engine, Note(assignment=note.assignment, incarnation=note.incarnation, url=launch.url, port=0, api_key=launch.api_key), None
            )
        running = self._watch(engine, note, None)
        launch = replace(launch, env={**self.gpu_environment(note.assignment.gpu_indexes), **launch.env})
        running.handle = await self.runtime.start(engine_name(note.replica), launch, note.encode())
        return running

    def _take_port(self, replica: Replica) -> int:
        first, last = self.settings.engine_ports
        others = {port for other, port in self._ports.items() if other != replica}
        self._ports[replica] = free_port(self.settings.address, first, last, others)
        return self._ports[replica]

    def _engine(self, spec: ReplicaSpec) -> Engine:
        engine = self.engines.get(spec.engine)
        if engine is None:
            installed = ", ".join(sorted(self.engines)) or "none"
            raise LaunchError(f'the engine "{spec.engine}" is not installed on this node (installed: {installed})')
        return engine

    def _watch(self, engine: Engine, note: Note, handle: Handle | None) -> Running:
        spec = note.assignment.spec
        probe = self.probes.get(engine.probe)
        if probe is None:
            raise LaunchError(f'the engine "{spec.engine}" is probed by "{engine.probe}", which is not installed on this node')
        target = Target(
            name="/".join(note.replica),
            url=note.url,
            api_key=note.api_key,
            health_path=engine.health_path_for(spec),
            probe=probe,
            scraper=self._scraper(engine.scraper_for(spec), note.replica),
        )
        return Running(note, handle, Inspector(target, self.http, self.settings.probe_timeout_s, self.logger))

    def _scraper(self, name: str | None, replica: Replica) -> Scraper | None:
        if name is not None:
            try:
                return self.make_scraper(name)
            except PluginError as error:
                self.logger.warning("%s: it runs without stats: %s", "/".join(replica), error)
        return None


async def obituary(runtime: Runtime, running: Running, ending: Exit, *, was_ready: bool) -> str:
    """How an engine ended and the last it said, in words for an operator."""
    if running.handle is None:
        return "let go of"
    how = _how(ending) + ("" if was_ready else " while loading")
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = await runtime.last_lines(engine_name(running.note.replica), 15)
    return f"{how}; last lines:\n" + "\n".join(lines) if lines else how


def _how(ending: Exit) -> str:
    if ending.code is None:
        return "ended, and nobody saw how"
    return f"exited with code {ending.code}" if ending.code >= 0 else f"was ended by signal {-ending.code}"
