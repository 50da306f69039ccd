"""The node daemon: brings this machine's engines to its plans, watches them, and tells the store. A thin loop around `reconcile`.

plans ──► _follow_plans ──actions──► _run_engine, _stop         one task per engine
               ▲                          │
               └──────── _changed ◄───────┤
store ◄─ _report ◄──────────┘         _beat: probes and scrapes every heartbeat
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec

from nebula_core.background import background
from nebula_core.errors import LaunchError
from nebula_core.interfaces import Devices, Engine, Handle, Health, Probe, Runtime, Scraper, Store
from nebula_core.metrics import Metrics
from nebula_core.node import gpus, machine
from nebula_core.node import replica as transitions
from nebula_core.node.gpus import GpuReader
from nebula_core.node.health import Scrape
from nebula_core.node.launcher import Launcher, Running, obituary
from nebula_core.node.machine import Machine
from nebula_core.node.measures import NodeMeasures
from nebula_core.node.note import decode, engine_name
from nebula_core.node.observe import has_endpoint, observe, plans_for
from nebula_core.node.publisher import Values
from nebula_core.node.reconcile import Action, BeginDrain, Forget, Limits, NodePlan, Resume, Start, Stop, next_start_s, reconcile, unlisted
from nebula_core.node.replica import Drain, Phase, Replica, ReplicaState
from nebula_core.node.reporter import Reporter
from nebula_core.settings import Settings
from nebula_core.store import keys
from nebula_core.store.mirror import Mirror
from nebula_core.types import EndpointInfo, EndpointStats, NodeStatus, Value

LOADING_PROBE_S = 0.15
"""Seconds between two probes of an engine that is loading: its being ready is to be noticed at once."""


class NodeDaemon:
    """Runs this node's engines. Cancelling `run` leaves them running, for the next daemon to adopt; `stop_engines` ends them."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        engines: Mapping[str, Engine],
        runtime: Runtime,
        probes: Mapping[str, Probe],
        make_scraper: Callable[[str], Scraper | None],
        settings: Settings,
        logger: logging.Logger,
        clock: Callable[[], float],
        http: httpx.AsyncClient,
        version: str,
        metrics: Metrics,
        devices: Mapping[str, Devices],
    ) -> None:
        self._mirror, self._runtime, self._settings = mirror, runtime, settings
        self._logger, self._clock = logger, clock
        self._node_id = settings.node_name
        self._limits = Limits(settings.node.start_timeout_s, settings.node.drain_deadline_s)
        self._machine = Machine()
        self._gpus = GpuReader(devices, settings.node.probe_timeout_s, logger)
        self._launcher = Launcher(
            engines=engines,
            runtime=runtime,
            probes=probes,
            make_scraper=make_scraper,
            settings=settings.node,
            http=http,
            logger=logger,
            gpu_environment=self._gpus.environment,
        )
        self._status = NodeStatus(
            node_id=self._node_id,
            address=settings.node.address,
            hostname=socket.gethostname(),
            boot_id=_boot_id(),
            version=version,
            engines=tuple(sorted(engines)),
            labels=settings.node.labels,
        )
        self._reporter = Reporter(
            store, self._status, settings.store.lease_s, settings.node.heartbeat_s, logger, self._values, self._forget_what_is_gone
        )
        self._measures = NodeMeasures(metrics)
        self._states: dict[Replica, ReplicaState] = {}
        self._running: dict[Replica, Running] = {}
        self._gone: set[Replica] = set()
        self._unlisted: set[Replica] = set()
        self._await_gateways_until = clock() + settings.store.lease_s
        self._changes = mirror.subscribe()

    async def run(self) -> None:
        """Adopt what runs, then follow the plans until cancelled. Without a store everything goes on as it is."""
        await self._mirror.wait_synced()
        handles = await self._runtime.running()
        await self._read_machine()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for handle in handles:
                self._adopt(handle)
            tasks.create_task(self._reporter.run())
            tasks.create_task(self._beat())
            tasks.create_task(self._follow_plans())

    async def stop_engines(self) -> None:
        """End every engine of this node and take its endpoints and its heartbeat back; what it is only attached to stays.

        Call it after `run` has ended.
        """
        async with asyncio.TaskGroup() as stops:
            for handle in await self._runtime.running():
                stops.create_task(self._stop_handle(handle))
        attached = {replica for replica, running in self._running.items() if running.handle is None}
        values = {key: None for replica in (self._states.keys() | self._gone) - attached for key in _keys(replica)}
        await self._reporter.report_last(values)

    async def _stop_handle(self, handle: Handle) -> None:
        try:
            await self._runtime.stop(handle, self._settings.node.stop_grace_s)
        except asyncio.CancelledError:  # somebody will not wait: then by force
            await self._runtime.stop(handle, 0.0)
            raise
        except Exception:  # the other engines have to be ended all the same
            self._logger.exception("the engine %s (process %d) could not be ended", handle.name, handle.pid)

    # --- deciding ---------------------------------------------------------------------------------------------------------------

    async def _follow_plans(self) -> None:
        while True:
            plans, now = plans_for(self._node_id, self._mirror), self._clock()
            observed = observe(self._mirror, self._states, self._gone, await_gateways=now < self._await_gateways_until)
            if observed.gateways:
                self._await_gateways_until = now  # they are heard of: once none is, there is none
            self._say_unlisted(plans)
            for action in reconcile(self._node_id, plans, observed, self._limits, now):
                self._apply(action)
            next_s = next_start_s(self._states.values(), self._clock())
            heartbeat_s = self._settings.node.heartbeat_s
            changed = await self._changes.wait(heartbeat_s if next_s is None else min(heartbeat_s, next_s))
            self._reporter.see({key: self._revision_of(key) for key in changed if self._is_ours(key)})

    def _is_ours(self, key: str) -> bool:
        return key.startswith(keys.ENDPOINTS) and keys.replica_of(key) in self._states

    def _revision_of(self, key: str) -> int:
        entry = self._mirror.entry(key)
        return entry.mod_revision if entry else 0

    def _say_unlisted(self, plans: Mapping[str, NodePlan]) -> None:
        found = unlisted(plans, self._states)
        for replica in sorted(found - self._unlisted):
            self._logger.warning("%s: its model's plan does not list it; it goes on until the plan says to drain it", "/".join(replica))
        self._unlisted = found

    def _apply(self, action: Action) -> None:
        name, state = "/".join(action.replica), self._states.get(action.replica)
        match action:
            case Start(replica, assignment, incarnation):
                self._logger.info("%s: starting its engine, incarnation %d", name, incarnation)
                self._gone.discard(replica)
                self._states[replica] = transitions.starting(assignment, incarnation, state, self._clock())
                if self._states[replica].crashes:
                    self._measures.restarted(replica[0])
                self._tasks.create_task(self._run_engine(replica))
            case Stop(replica, reason, planned) if state is not None:
                self._logger.log(logging.INFO if planned else logging.WARNING, "%s: stopping its engine %s", name, reason or "as planned")
                self._states[replica] = transitions.stopping(state, reason, planned=planned)
                self._tasks.create_task(self._stop(replica))
            case BeginDrain(replica, revision) if state is not None:
                self._logger.info("%s: draining", name)
                self._states[replica] = replace(state, drain=Drain(self._clock(), revision))
            case Resume(replica) if state is not None:
                self._logger.info("%s: it shall stay after all", name)
                self._states[replica] = replace(state, drain=None)
            case Forget(replica):
                self._states.pop(replica, None)
                self._launcher.forget(replica)
                self._gone.add(replica)
        self._changed()

    def _changed(self) -> None:
        """Something to report, and perhaps to decide."""
        self._reporter.wake()
        self._changes.add({keys.NODES})

    # --- engines ----------------------------------------------------------------------------------------------------------------

    def _adopt(self, handle: Handle) -> None:
        note = decode(handle.note)
        try:
            if note is None:
                raise LaunchError("its note cannot be read")
            running = self._launcher.adopt(note, handle)
        except LaunchError as error:
            self._logger.error("the engine %s (process %d) runs on but is not watched: %s", handle.name, handle.pid, error)
            return
        except Exception:  # a fault in one plugin must not end the other engines' watch
            self._logger.exception("the engine %s (process %d) runs on but is not watched: its plugin failed", handle.name, handle.pid)
            return
        endpoint = self._mirror.get(keys.endpoint(*note.replica), EndpointInfo)
        self._logger.info("%s: adopted its engine, process %d", "/".join(note.replica), handle.pid)
        self._running[note.replica] = running
        self._states[note.replica] = transitions.adopted(note.assignment, note.incarnation, note.url, note.api_key, endpoint, self._clock())
        self._tasks.create_task(self._attend(note.replica, running))

    async def _run_engine(self, replica: Replica) -> None:
        """One engine from its start to its end."""
        state = self._states[replica]
        try:
            running = await self._launcher.start(state.assignment, state.incarnation)
        except LaunchError as error:
            self._end(replica, str(error))
        except Exception as error:  # a fault in one plugin must not end the other engines' watch
            self._logger.exception("%s: its engine's plugin failed", "/".join(replica))
            self._end(replica, f"{type(error).__name__}: {error}")
        else:
            self._running[replica] = running
            self._states[replica] = replace(self._states[replica], url=running.note.url, api_key=running.note.api_key)
            self._changed()
            if self._states[replica].phase is Phase.STOPPING:
                self._tasks.create_task(self._stop(replica))
            await self._attend(replica, running)

    async def _attend(self, replica: Replica, running: Running) -> None:
        """Watch a running engine until it ends."""
        try:
            async with background(self._until_ready(replica, running)):
                ending = await self._launcher.wait(running)
            reason = await obituary(self._runtime, running, ending, was_ready=self._states[replica].ready_at is not None)
            log = self._runtime.log_of(engine_name(replica)) if running.handle else ""
        except Exception as error:  # as above
            self._logger.exception("%s: the runtime cannot wait for its engine", "/".join(replica))
            reason, log = f"the runtime cannot wait for it: {error}", ""
        del self._running[replica]
        self._launcher.release(replica)
        self._end(replica, reason, log)

    def _end(self, replica: Replica, reason: str, log: str = "") -> None:
        state = self._states[replica]
        if not state.planned:
            self._logger.warning("%s: %s%s", "/".join(replica), reason, f"\n(its log is {log})" if log else "")
        self._states[replica] = transitions.ended(state, reason, self._clock())
        self._changed()

    async def _stop(self, replica: Replica) -> None:
        running = self._running.get(replica)
        if running is None:
            return  # it is being started: `_run_engine` ends it as soon as it can be
        try:
            await self._launcher.stop(running)
        except Exception:  # as above
            self._logger.exception("%s: the runtime cannot end its engine, trying again", "/".join(replica))
            self._states[replica] = transitions.stop_failed(self._states[replica])

    # --- watching ---------------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            began = self._clock()
            async with asyncio.TaskGroup() as looks:
                looks.create_task(self._read_machine())
                for replica, running in self._running.items():
                    if self._states[replica].phase is Phase.UP:
                        looks.create_task(self._look_at(replica, running))
            self._measures.show_replicas(self._states, self._known_stats())
            self._reporter.wake()
            await asyncio.sleep(max(0.0, self._settings.node.heartbeat_s - (self._clock() - began)))

    async def _read_machine(self) -> None:
        read = await self._gpus.read()
        self._measures.show_gpus(read)
        self._status = msgspec.structs.replace(
            self._status,
            machine=machine.steadied(self._status.machine, self._machine.read()),
            gpus=gpus.steadied(self._status.gpus, read),
            replicas=tuple(sorted("/".join(replica) for replica in self._running)),
        )
        self._reporter.tell(self._status)

    async def _until_ready(self, replica: Replica, running: Running) -> None:
        while self._states[replica].phase is Phase.STARTING:
            await self._look_at(replica, running)
            await asyncio.sleep(LOADING_PROBE_S)

    async def _look_at(self, replica: Replica, running: Running) -> None:
        """Probe it, and read its stats where it is well; both together take no longer than the timeout, for all wait for the slowest."""
        deadline = asyncio.get_running_loop().time() + self._settings.node.probe_timeout_s
        health = await running.inspector.probe(deadline)
        if self._running.get(replica) is not running:
            return
        self._note_health(replica, health)
        scrape = await running.inspector.scrape(deadline) if health.ok else Scrape()
        running.stats, running.sampled_at = scrape.stats, self._clock()
        if scrape.failure:
            self._measures.scrape_failed(replica[0], scrape.failure)

    def _note_health(self, replica: Replica, health: Health) -> None:
        before = self._states[replica]
        after = self._states[replica] = transitions.probed(before, health, self._clock())
        if after == before:
            return
        if after.phase is not before.phase:
            self._logger.info("%s: ready after %.1f s", "/".join(replica), self._clock() - after.started_at)
        elif after.is_unhealthy:
            self._logger.warning("%s: unhealthy: %s", "/".join(replica), after.reason)
        self._changed()

    # --- reporting --------------------------------------------------------------------------------------------------------------

    def _values(self) -> Values:
        values: dict[str, Value | None] = {
            key: None for replica in self._gone if has_endpoint(self._node_id, self._mirror, replica) for key in _keys(replica)
        }
        for replica, state in self._states.items():
            values[keys.endpoint(*replica)] = transitions.endpoint_of(state, self._node_id)
            values[keys.stats(*replica)] = self._stats(replica, state)
        return values

    def _forget_what_is_gone(self) -> None:
        """What was forgotten stays on the list until the mirror shows it gone: until then it looks as if it had to be forgotten."""
        self._gone = {replica for replica in self._gone if has_endpoint(self._node_id, self._mirror, replica)}

    def _known_stats(self) -> dict[Replica, EndpointStats]:
        known = {replica: self._stats(replica, state) for replica, state in self._states.items()}
        return {replica: stats for replica, stats in known.items() if stats is not None}

    def _stats(self, replica: Replica, state: ReplicaState) -> EndpointStats | None:
        running = self._running.get(replica)
        if running is None or running.stats is None or state.phase is not Phase.UP:
            return None
        return msgspec.structs.replace(running.stats, age_s=self._clock() - running.sampled_at, incarnation=state.incarnation)


def _keys(replica: Replica) -> tuple[str, str]:
    return keys.endpoint(*replica), keys.stats(*replica)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
