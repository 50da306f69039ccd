"""The scheduler's loop on a real store; the test plays the nodes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from nebula_core.background import background
from nebula_core.errors import StoreUnavailable
from nebula_core.interfaces import Delete, Proposal, Put, ScalingPolicy
from nebula_core.metrics import Metrics
from nebula_core.scheduler.election import Election
from nebula_core.scheduler.loop import PREFIXES, SchedulerLoop
from nebula_core.scheduler.outage import Outage
from nebula_core.settings import Settings
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import following
from nebula_core.testing.engines import FakeEngine
from nebula_core.testing.polling import eventually
from nebula_core.types import DRAIN, READY, EndpointInfo, EndpointStats, GatewayStatus, ModelRequest, ModelStatus, NodeStatus, PlacementPlan

logger = logging.getLogger("test")


class BrokenEngine(FakeEngine):
    def specs(self, request):
        raise RuntimeError("a bug in a plugin")


ENGINES = {"fake": FakeEngine(), "broken": BrokenEngine()}


@pytest.fixture
async def store(tmp_path):
    async with EmbeddedStore(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store:
        yield store


@asynccontextmanager
async def scheduling(store, engines=ENGINES, metrics=None):
    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(following(store, PREFIXES, logger))
        loop = SchedulerLoop(store, mirror, engines, Settings(), logger, time.monotonic, metrics=metrics)
        await stack.enter_async_context(background(loop.run()))
        yield


async def put(store, key, value):
    await store.transact([Put(key, codec.encode(value))])


async def ask(store, uid="m", **fields):
    await put(store, keys.model_request(uid), ModelRequest(model_uid=uid, **{"engine": "fake", **fields}))


def node(name):
    return NodeStatus(node_id=name, address="127.0.0.1", engines=("fake", "broken"))


async def add_node(store):
    await put(store, keys.node("a"), node("a"))


async def value(store, key, type_):
    entry = await store.get(key)
    return None if entry is None else codec.decode(type_, entry.value)


async def plan_of(store, uid="m"):
    return await value(store, keys.placement(uid), PlacementPlan)


async def status_of(store, uid="m"):
    return await value(store, keys.status(uid), ModelStatus)


def plan_with(store, count, uid="m"):
    async def look():
        plan = await plan_of(store, uid)
        return plan if plan and len(plan.assignments) == count else None

    return eventually(look, 5)


async def test_a_request_becomes_a_plan_and_a_change_of_it_another(store):
    async with scheduling(store):
        await add_node(store)
        await ask(store, replicas=1)
        assert (await plan_with(store, 1)).plan_version == 1
        await ask(store, replicas=3)
        assert (await plan_with(store, 3)).plan_version == 2
        assert await status_of(store) == ModelStatus(model_uid="m", wanted=3, placed=3)


async def test_a_node_that_comes_gets_what_waited_for_one(store):
    async with scheduling(store):
        await ask(store)
        status = await eventually(lambda: status_of(store), 5)
        assert status.reasons == ("1 of 1 replicas cannot be placed: no node is up",)
        await add_node(store)
        await plan_with(store, 1)


async def test_an_unloaded_model_drains_and_leaves_nothing_behind(store):
    async with scheduling(store):
        await add_node(store)
        await ask(store, "Qwen/Qwen3-8B")
        (assignment,) = (await plan_with(store, 1, "Qwen/Qwen3-8B")).assignments
        endpoint = EndpointInfo(
            model_uid="Qwen/Qwen3-8B", replica_id="0", node_id="a", assignment_version=assignment.assignment_version,
            incarnation=1, engine="fake", state=READY,
        )  # fmt: skip
        await put(store, keys.endpoint("Qwen/Qwen3-8B", "0"), endpoint)
        await store.transact([Delete(keys.model_request("Qwen/Qwen3-8B"))])

        async def draining():
            return [a.wanted for a in (await plan_of(store, "Qwen/Qwen3-8B")).assignments] == [DRAIN]

        await eventually(draining, 5)
        await store.transact([Delete(keys.endpoint("Qwen/Qwen3-8B", "0"))])

        async def left():
            return not (await store.list(keys.PLACEMENTS)).entries and not (await store.list(keys.STATUS)).entries

        await eventually(left, 5)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"engine": "vllm"}, 'the engine "vllm" is not installed at the scheduler (installed: broken, fake)'),
        ({"engine": "broken"}, "the engine \"broken\" failed on this request: RuntimeError('a bug in a plugin')"),
    ],
)
async def test_a_request_that_cannot_be_followed_leaves_the_others_alone(store, request_, reason):
    async with scheduling(store):
        await add_node(store)
        await ask(store, "bad", **request_)
        await ask(store, "good")
        await plan_with(store, 1, "good")
        assert (await status_of(store, "bad")).reasons == (reason,)
        assert await plan_of(store, "bad") is None


async def test_a_request_that_cannot_be_read_is_not_taken_for_a_deleted_one(store):
    async with scheduling(store):
        await add_node(store)
        await ask(store)
        plan = await plan_with(store, 1)
        await store.transact([Put(keys.model_request("m"), b'{"schema_version": 9, "model_uid": 7}')])

        async def refused():
            return "cannot be read" in "".join((await status_of(store)).reasons)

        await eventually(refused, 5)
        assert await plan_of(store) == plan


async def test_a_plan_that_somebody_broke_by_hand_stays_until_its_key_is_deleted_as_the_reason_says(store):
    async with scheduling(store):
        await add_node(store)
        await ask(store)
        await plan_with(store, 1)
        await store.transact([Put(keys.placement("m"), b"{")])

        async def told():
            return "if no newer one wrote it, deleting it has the model placed anew" in "".join((await status_of(store)).reasons)

        await eventually(told, 5)
        await store.transact([Delete(keys.placement("m"))])
        await plan_with(store, 1)


async def test_a_request_under_another_models_key_is_refused_by_name(store):
    async with scheduling(store):
        await add_node(store)
        await put(store, keys.model_request("a"), ModelRequest(model_uid="b", engine="fake", replicas=2))
        status = await eventually(lambda: status_of(store, "a"), 5)
        assert status.reasons == ('/model_requests/a holds a request for the model "b"; load "a" anew, or unload it',)
        assert await plan_of(store, "a") is None


ODD = [keys.ENDPOINTS, f"{keys.ENDPOINTS}m", f"{keys.ENDPOINTS}m/0/x", f"{keys.PLACEMENTS}m/0", keys.MODEL_REQUESTS]


@pytest.mark.parametrize("key", ODD)
async def test_a_key_of_another_shape_is_left_out(store, key):
    odd = EndpointInfo(model_uid="m", replica_id="0", node_id="a", assignment_version="v", incarnation=1, engine="fake")
    await store.transact([Put(key, codec.encode(odd)[:-1] + b',"plan_version":1}')])
    async with scheduling(store):
        await add_node(store)
        await ask(store)
        await plan_with(store, 1)


async def test_fields_that_a_newer_nebula_wrote_into_a_plan_are_kept(store):
    async with scheduling(store):
        await add_node(store)
        await ask(store)
        plan = await plan_with(store, 1)
        await store.transact([Put(keys.placement("m"), codec.encode(plan)[:-1] + b',"note":"new"}')])
        await ask(store, replicas=2)
        await plan_with(store, 2)
        assert b'"note":"new"' in (await store.get(keys.placement("m"))).value


async def test_a_standby_takes_over_when_the_leader_goes(store):
    await add_node(store)
    async with AsyncExitStack() as stack:
        async with scheduling(store):
            leader = await eventually(lambda: store.get(keys.SCHEDULER_LEADER), 5)
            await stack.enter_async_context(scheduling(store))
            await ask(store)
            await plan_with(store, 1)
            assert await store.get(keys.SCHEDULER_LEADER) == leader
        await ask(store, replicas=2)
        await plan_with(store, 2)
        assert (await store.get(keys.SCHEDULER_LEADER)).value != leader.value


async def test_who_does_not_hold_the_leader_key_writes_nothing_until_it_is_free(store):
    async with scheduling(store):
        await eventually(lambda: store.get(keys.SCHEDULER_LEADER), 5)
        usurper = await store.transact([Put(keys.SCHEDULER_LEADER, b"somebody else")])
        await add_node(store)
        await ask(store)
        await asyncio.sleep(0.2)  # time in which it could do wrong
        assert await plan_of(store) is None
        assert (await store.get(keys.SCHEDULER_LEADER)).mod_revision == usurper
        await store.transact([Delete(keys.SCHEDULER_LEADER)])
        await plan_with(store, 1)


class Flaky(EmbeddedStore):
    """A store that can be told to be gone for writers."""

    gone = False
    refused = 0

    async def transact(self, writes, conditions=()):
        if self.gone:
            self.refused += 1
            raise StoreUnavailable("gone")
        return await super().transact(writes, conditions)


async def test_a_store_that_was_gone_is_caught_up_with(tmp_path):
    async with Flaky(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store, scheduling(store):
        await ask(store)
        await eventually(lambda: status_of(store), 5)

        async def refused():
            return store.refused

        store.gone = True
        await EmbeddedStore.transact(store, [Put(keys.node("a"), codec.encode(node("a")))])
        await eventually(refused, 5)
        store.gone = False
        await plan_with(store, 1)


def holds(condition):
    async def look():
        return condition()

    return eventually(look, 10)


def leading(metrics):
    return next(sample.value for family in metrics.snapshot() if family.name == "nebula_scheduler_leading" for sample in family.samples)


def said(caplog, text):
    return [record.levelname for record in caplog.records if text in record.getMessage()]


async def test_a_leader_key_that_no_scheduler_wrote_is_an_error_that_names_the_way_out(store, caplog):
    caplog.set_level(logging.INFO)
    await store.transact([Put(keys.SCHEDULER_LEADER, b"somebody's note")])
    await add_node(store)
    await ask(store)
    async with scheduling(store):
        assert await holds(lambda: said(caplog, "delete that key")) == ["ERROR"]
        assert said(caplog, "the store's key /leader/scheduler holds \"somebody's note\" without a lease") == ["ERROR"]
        await store.transact([Put(keys.SCHEDULER_LEADER, b"another note")])
        await store.transact([Delete(keys.SCHEDULER_LEADER)])
        await plan_with(store, 1)
    assert said(caplog, "delete that key") == ["ERROR"], "not twice within half a minute"


async def test_a_leader_key_without_a_lease_is_complained_of_until_it_is_gone(store, caplog):
    await store.transact([Put(keys.SCHEDULER_LEADER, b"somebody")])
    now = itertools.count(0, 29.9)  # whoever looks at the clock finds nearly half a minute gone
    campaign = Election(store, logger, lambda: next(now), Outage(logger)).win(await store.grant(30), "me")
    async with background(campaign):
        await holds(lambda: len(said(caplog, "nothing is scheduled")) >= 3)


async def test_a_standby_says_once_whom_it_stands_by_for(store, caplog):
    caplog.set_level(logging.INFO)
    async with scheduling(store):
        leader = await eventually(lambda: store.get(keys.SCHEDULER_LEADER), 5)
        async with scheduling(store):
            text = f"stands by for {leader.value.decode()}, which leads"
            assert await holds(lambda: said(caplog, text)) == ["INFO"]


async def test_an_outage_is_said_once_and_so_is_its_end(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    metrics = Metrics()
    async with Flaky(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store, scheduling(store, metrics=metrics):
        await holds(lambda: leading(metrics) == 1)
        store.gone = True
        await EmbeddedStore.transact(store, [Put(keys.model_request("m"), codec.encode(ModelRequest(model_uid="m", engine="fake")))])
        await holds(lambda: store.refused > 2)
        assert leading(metrics) == 0
        store.gone = False
        await holds(lambda: said(caplog, "the store answers the scheduler again"))
        assert leading(metrics) == 1
    assert said(caplog, "decides nothing until the store answers") == ["WARNING"]
    assert said(caplog, "the store answers the scheduler again") == ["INFO"]


class Fixed(ScalingPolicy):
    """Wants as many as it is told to, and says when it is asked."""

    def __init__(self, number):
        self.number, self.asked = number, []

    def propose(self, signals, memory, now):
        self.asked.append(signals)
        return Proposal(replicas=self.number, reason=f"{self.number} is a good number", memory={"looks": memory.get("looks", 0) + 1})


OFTEN = Settings.model_validate({"scheduler": {"scale_s": 0.1, "scale_up_pause_s": 0, "scale_down_pause_s": 0}})


@asynccontextmanager
async def scaling(store, policy):
    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(following(store, PREFIXES, logger))
        loop = SchedulerLoop(store, mirror, ENGINES, OFTEN, logger, time.monotonic, None, {"fixed": policy}, "fixed")
        await stack.enter_async_context(background(loop.run()))
        yield


async def test_a_policy_decides_how_many_there_are_within_the_bounds_and_the_status_says_why(store):
    async with scaling(store, policy := Fixed(3)):
        await add_node(store)
        await ask(store, replicas=1, min_replicas=1, max_replicas=4)
        await plan_with(store, 3)
        account = (await status_of(store)).scaling
        assert (account.replicas, account.policy, account.changed_from, account.reason) == (3, "fixed", 1, "3 is a good number")
        policy.number = 9
        await plan_with(store, 4)
        assert (await status_of(store)).scaling.reason == "9 is a good number; 9 proposed, and max_replicas is 4"


async def test_the_next_leader_goes_on_with_what_the_last_one_remembered(store):
    await add_node(store)
    async with scaling(store, Fixed(3)):
        await ask(store, replicas=1, max_replicas=4)
        await plan_with(store, 3)
    left = (await status_of(store)).scaling
    async with scaling(store, policy := Fixed(None)):
        account = await eventually(lambda: looked_at_since(store, left.at), 5)
    assert (account.replicas, account.changed_at) == (3, left.changed_at)
    assert left.memory["looks"] < account.memory["looks"] <= left.memory["looks"] + len(policy.asked)


async def looked_at_since(store, at):
    account = (await status_of(store)).scaling
    return account if account.policy and account.at > at else None


async def test_signals_of_engines_and_gateways_reach_the_policy(store):
    async with scaling(store, policy := Fixed(1)):
        await add_node(store)
        await ask(store, max_replicas=4, first_token_target_s=0.5)
        (assignment,) = (await plan_with(store, 1)).assignments
        endpoint = EndpointInfo(
            model_uid="m", replica_id="0", node_id="a", assignment_version=assignment.assignment_version,
            incarnation=1, engine="fake", state=READY,
        )  # fmt: skip
        await put(store, keys.endpoint("m", "0"), endpoint)
        await put(store, keys.stats("m", "0"), EndpointStats(pending=2.0, incarnation=1))
        await put(store, keys.gateway("g"), GatewayStatus(gateway_id="g", address="", demand={"m": 5}))

        async def heard():
            signals = policy.asked[-1]
            return signals if signals.in_flight and any(each.stats for each in signals.replicas) else None

        signals = await eventually(heard, 5)
        assert (signals.in_flight, signals.replicas[0].stats.pending, signals.first_token_target_s) == (5, 2.0, 0.5)
