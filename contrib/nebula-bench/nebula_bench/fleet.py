"""Nodes whose engines and GPUs are made up, and whose reporting is not."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence

import msgspec
from nebula_store_etcd.settings import EtcdSettings
from nebula_store_etcd.store import EtcdStore

from nebula_core.interfaces import Put, Unchanged, Write
from nebula_core.node.observe import PREFIXES, plans_for
from nebula_core.node.publisher import Values
from nebula_core.node.reporter import Reporter
from nebula_core.store import keys
from nebula_core.store.mirror import following
from nebula_core.testing.fleet import answer
from nebula_core.types import READY, Assignment, EndpointStats, GpuStatus, MachineStatus, NodeStatus, Value

GIB = 2**30
LEASE_S = 30.0


class CountingStore(EtcdStore):
    """Counts what is written through it."""

    def __init__(self, settings: EtcdSettings, logger: logging.Logger) -> None:
        super().__init__(settings, logger, time.monotonic)
        self.transactions = self.keys = self.bytes = self.refused = 0

    async def transact(self, writes: Sequence[Write], conditions: Sequence[Unchanged] = ()) -> int | None:
        """As the store does."""
        self.transactions += 1
        self.keys += len(writes)
        self.bytes += sum(len(write.key) + (len(write.value) if isinstance(write, Put) else 0) for write in writes)
        revision = await super().transact(writes, conditions)
        self.refused += revision is None
        return revision


class Node:
    """One node: it follows its plans, and everything it has to say is new with every heartbeat."""

    def __init__(self, node_id: str, settings: EtcdSettings, heartbeat_s: float, logger: logging.Logger) -> None:
        self.store = CountingStore(settings, logger)
        self.heartbeats = 0
        self._node_id, self._heartbeat_s, self._logger = node_id, heartbeat_s, logger
        self._random = random.Random(node_id)
        self._assignments: list[Assignment] = []
        self._stats: dict[tuple[str, str], EndpointStats] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with self.store, following(self.store, PREFIXES, self._logger) as self._mirror, asyncio.TaskGroup() as tasks:
            self._reporter = Reporter(
                self.store, self._status(), LEASE_S, self._heartbeat_s, self._logger, self._values, settled=lambda: None
            )
            tasks.create_task(self._reporter.run())
            tasks.create_task(self._follow())
            tasks.create_task(self._beat())

    async def _follow(self) -> None:
        changes = self._mirror.subscribe()
        while True:
            plans = plans_for(self._node_id, self._mirror).values()
            mine = [assignment for plan in plans for assignment in plan.assignments.values()]
            if mine != self._assignments:
                self._assignments = mine
                self._reporter.wake()
            await changes.wait()

    async def _beat(self) -> None:
        await asyncio.sleep(self._random.random() * self._heartbeat_s)  # nodes do not beat in step
        while True:
            self._stats = {_replica(assignment): self._sample() for assignment in self._assignments}
            self._reporter.tell(self._status())
            self.heartbeats += 1
            self._reporter.wake()
            await asyncio.sleep(self._heartbeat_s)

    def _values(self) -> Values:
        values: dict[str, Value | None] = {}
        for assignment in self._assignments:
            values[keys.endpoint(*_replica(assignment))] = msgspec.structs.replace(answer(assignment, READY), url="http://127.0.0.1:9")
            values[keys.stats(*_replica(assignment))] = self._stats.get(_replica(assignment))
        return values

    def _sample(self) -> EndpointStats:
        """A busy engine's; the time of the write travels in a counter."""
        draw = self._random
        return EndpointStats(
            pending=float(draw.randrange(8)),
            running=float(draw.randrange(64)),
            kv_cache_usage=draw.random(),
            kv_cache_used_bytes=draw.random() * 40 * GIB,
            kv_capacity_tokens=500_000,
            kv_block_tokens=16,
            prefix_cache_hit_rate=draw.random(),
            prompt_tokens_total=float(draw.randrange(10**9)),
            cached_tokens_total=float(draw.randrange(10**9)),
            generated_tokens_total=time.monotonic(),
            age_s=draw.random(),
            incarnation=1,
        )

    def _status(self) -> NodeStatus:
        draw = self._random
        gpus = (
            GpuStatus(
                index=index,
                uuid=f"GPU-{self._node_id}-{index}",
                name="made up",
                memory_total_bytes=80 * GIB,
                memory_used_bytes=draw.randrange(80 * GIB),
                temperature_celsius=float(draw.randrange(40, 85)),
                utilization=draw.random(),
                power_watts=draw.random() * 700,
                ecc_errors=0,
            )
            for index in range(8)
        )
        machine = MachineStatus(cpus=96, cpu_utilization=draw.random(), memory_total_bytes=512 * GIB, memory_available_bytes=300 * GIB)
        return NodeStatus(node_id=self._node_id, address="127.0.0.1", engines=("fake",), machine=machine, gpus=tuple(gpus))


def _replica(assignment: Assignment) -> tuple[str, str]:
    return assignment.spec.model_uid, assignment.replica_id
