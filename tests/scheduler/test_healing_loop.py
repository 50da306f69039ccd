"""Healing on a real store: leases that end, leaders that were stopped, heartbeats that say nothing new. The test plays the nodes."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from nebula_core.background import background
from nebula_core.interfaces import Delete, Put
from nebula_core.scheduler.loop import PREFIXES, SchedulerLoop
from nebula_core.settings import Settings
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import following
from nebula_core.testing.engines import FakeEngine
from nebula_core.testing.fleet import answer
from nebula_core.testing.polling import eventually
from nebula_core.types import DRAIN, READY, RUN, GpuStatus, MachineStatus, ModelRequest, NodeRequest, NodeStatus, PlacementPlan

logger = logging.getLogger("test")
LEASE_S = 1.0


class SlowLeader(EmbeddedStore):
    """The next transaction of whoever leads can be held back, as that of a process that is stopped just before it writes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.held = asyncio.Event()
        self.outcomes = []

    async def transact(self, writes, conditions=()):
        is_plan = any(write.key.startswith(keys.PLACEMENTS) for write in writes)
        if not is_plan or self.go_on.is_set() or self.held.is_set():
            return await super().transact(writes, conditions)
        self.held.set()
        await self.go_on.wait()
        self.outcomes.append(await super().transact(writes, conditions))
        return self.outcomes[-1]


@pytest.fixture
async def store(tmp_path):
    async with SlowLeader(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store:
        yield store


class CountingLoop(SchedulerLoop):
    passes = 0

    def _decide(self, *arguments):
        self.passes += 1
        return super()._decide(*arguments)


@asynccontextmanager
async def scheduling(store):
    settings = Settings.model_validate({"store": {"lease_s": LEASE_S}, "scheduler": {"lost_after_s": 0}})
    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(following(store, PREFIXES, logger))
        loop = CountingLoop(store, mirror, {"fake": FakeEngine()}, settings, logger, time.monotonic)
        await stack.enter_async_context(background(loop.run()))
        yield loop


async def put(store, key, value, lease=None):
    await store.transact([Put(key, codec.encode(value), lease)])


def node(name, **fields):
    return NodeStatus(node_id=name, address="127.0.0.1", engines=("fake",), **fields)


async def plan_of(store):
    entry = await store.get(keys.placement("m"))
    return codec.decode(PlacementPlan, entry.value) if entry else PlacementPlan(model_uid="m", plan_version=0)


async def places(store, wanted=RUN):
    return {a.replica_id: a.node_id for a in (await plan_of(store)).assignments if a.wanted == wanted}


async def obey(store):
    for assignment in (await plan_of(store)).assignments:
        if assignment.wanted == RUN:
            await put(store, keys.endpoint("m", assignment.replica_id), answer(assignment, READY))


async def until_places(store, expected, wanted=RUN):
    async def look():
        return await places(store, wanted) == expected

    await eventually(look, 10)


async def request(store, replicas):
    await put(store, keys.model_request("m"), ModelRequest(model_uid="m", engine="fake", replicas=replicas))


async def test_a_node_whose_lease_ends_is_replaced_and_cleans_up_when_it_returns(store):
    await put(store, keys.node("a"), node("a"))
    async with scheduling(store):
        await request(store, 1)
        await until_places(store, {"0": "a"})
        await obey(store)
        await put(store, keys.node("a"), node("a"), await store.grant(LEASE_S))
        await put(store, keys.node("b"), node("b"))
        await until_places(store, {"0": "a", "1": "b"})  # the lease has ended
        await obey(store)
        await until_places(store, {"1": "b"})
        assert await places(store, DRAIN) == {"0": "a"}
        await put(store, keys.node("a"), node("a"))
        await store.transact([Delete(keys.endpoint("m", "0"))])
        await until_places(store, {}, wanted=DRAIN)


async def test_a_node_that_is_given_up_is_replaced_without_waiting(store):
    await put(store, keys.node("a"), node("a"))
    async with scheduling(store):
        await request(store, 1)
        await until_places(store, {"0": "a"})
        await obey(store)
        await put(store, keys.node("b"), node("b"))
        await put(store, keys.node_request("a"), NodeRequest(node_id="a", given_up=True))
        await store.transact([Delete(keys.node("a"))])
        await until_places(store, {"0": "a", "1": "b"})


async def test_what_is_asked_of_a_node_goes_by_the_key_whatever_name_somebody_wrote_in_it(store):
    for name in ("a", "b"):
        await put(store, keys.node(name), node(name))
    await put(store, keys.node_request("a"), NodeRequest(node_id="b", cordoned=True))
    async with scheduling(store):
        await request(store, 1)
        await until_places(store, {"0": "b"})


async def test_a_leader_that_was_stopped_before_it_wrote_writes_nothing_once_it_goes_on(store):
    await put(store, keys.node("a"), node("a"))
    async with scheduling(store):
        await request(store, 1)
        await until_places(store, {"0": "a"})
        store.go_on.clear()
        await request(store, 2)
        await store.held.wait()
        async with scheduling(store):
            await store.transact([Delete(keys.SCHEDULER_LEADER)])  # its lease has ended meanwhile
            await until_places(store, {"0": "a", "1": "a"})
            await request(store, 0)
            await until_places(store, {})
            by_the_new = await store.get(keys.placement("m"))
            store.go_on.set()

            async def tried():
                return store.outcomes

            assert await eventually(tried, 5) == [None]
            assert await store.get(keys.placement("m")) == by_the_new


async def test_a_node_that_is_only_warmer_or_busier_causes_no_pass(store):
    gpu = GpuStatus(index=0, memory_used_bytes=1, temperature_celsius=40.0)
    await put(store, keys.node("a"), node("a", gpus=(gpu,)))
    async with scheduling(store) as loop:
        await request(store, 1)
        await until_places(store, {"0": "a"})
        await quiet(loop)
        before = loop.passes
        warmer = msgspec.structs.replace(gpu, temperature_celsius=80.0, utilization=1.0, power_watts=700.0)
        await put(store, keys.node("a"), node("a", gpus=(warmer,), machine=MachineStatus(cpu_utilization=0.9), replicas=("m/0",)))
        await quiet(loop)
        assert loop.passes == before
        await put(store, keys.node("a"), node("a", gpus=(msgspec.structs.replace(warmer, ecc_errors=1),)))

        async def passed():
            return loop.passes > before

        await eventually(passed, 5)


async def quiet(loop):
    """Until no pass was made for some time in which one could be."""
    seen = -1
    while seen != loop.passes:
        seen = loop.passes
        await asyncio.sleep(0.3)
