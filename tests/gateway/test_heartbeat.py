"""What a gateway says of itself stands in the store, whatever others do to it, and asks little of a store that is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from nebula_core.background import background
from nebula_core.errors import StoreError, StoreUnavailable
from nebula_core.gateway.heartbeat import Heartbeat, must_write
from nebula_core.interfaces import Delete, Put
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import following
from nebula_core.types import GatewayStatus, Traffic

logger = logging.getLogger("test")
KEY = keys.gateway("g")


class FailingStore(EmbeddedStore):
    """A store that can be told to take no writes; it counts those that are tried then."""

    is_away = False
    tries = 0

    async def transact(self, writes, conditions=()):
        if self.is_away:
            self.tries += 1
            raise StoreUnavailable("it is away")
        return await super().transact(writes, conditions)

    async def at_least(self, tries):
        """Wait until so many were tried."""
        async with asyncio.timeout(10):
            while self.tries < tries:  # noqa: ASYNC110 - the store has no event to wait for
                await asyncio.sleep(0.01)


@pytest.fixture
async def store(tmp_path):
    async with FailingStore(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store:
        yield store


class Gateway:
    """A gateway whose demand grows with every look, as under load."""

    def __init__(self) -> None:
        self.is_busy, self.demand, self.key = False, 0, "ours"

    def status(self) -> GatewayStatus:
        self.demand += self.is_busy
        return GatewayStatus(gateway_id="g", address="here:1", applied_revision=self.demand, peers="here:2", peers_key=self.key)

    async def changed(self, timeout_s: float) -> None:
        await asyncio.sleep(0 if self.is_busy else min(timeout_s, 0.05))


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@asynccontextmanager
async def beating(store, gateway) -> AsyncIterator[None]:
    async with following(store, [keys.GATEWAYS], logger) as mirror:
        beat = Heartbeat(store, mirror, 30, logger, gateway.status, gateway.changed, every_s=0.2)
        async with background(beat.run()):
            yield


async def found(store, wanted) -> None:
    """Wait until the store has such a heartbeat."""
    async with asyncio.timeout(10):
        while True:
            entry = await store.get(KEY)
            with suppress(StoreError):
                if entry is not None and wanted(codec.decode(GatewayStatus, entry.value)):
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("write", [Delete(KEY), Put(KEY, b"nonsense")])
async def test_what_somebody_deletes_or_replaces_is_soon_there_again(store, gateway, write):
    async with beating(store, gateway):
        await found(store, lambda status: True)
        await store.transact([write])
        await found(store, lambda status: status == gateway.status())


async def test_two_gateways_of_one_name_are_told_so_once(store, gateway, caplog):
    async with beating(store, gateway):
        await found(store, lambda status: True)
        for _ in range(2):
            other = GatewayStatus(gateway_id="g", address="there:1", peers="there:2", peers_key="another")
            await store.transact([Put(KEY, codec.encode(other))])
            await found(store, lambda status: status.peers_key == "ours")
    told = 'two gateways are called "g": the other serves at there:1 and hears others at there:2; give one another name'
    assert caplog.text.count(told) == 1


async def test_what_an_earlier_process_left_is_no_other_gateway(store, gateway, caplog):
    earlier = GatewayStatus(gateway_id="g", address="here:1", peers="here:3", peers_key="earlier")
    await store.transact([Put(KEY, codec.encode(earlier))])
    async with beating(store, gateway):
        await found(store, lambda status: status.peers_key == "ours")
    assert "two gateways" not in caplog.text


async def test_a_busy_gateway_does_not_press_a_store_that_is_away_and_says_so_once(store, gateway, caplog):
    async with beating(store, gateway):
        await found(store, lambda status: True)
        gateway.is_busy = store.is_away = True
        await store.at_least(4)
        assert gateway.demand < 8  # of hundreds, without a pause
        store.is_away = False
        behind = gateway.demand
        await found(store, lambda status: status.applied_revision > behind)
    assert caplog.text.count("it serves on") == 1


def told(**traffic: Traffic) -> tuple[str, GatewayStatus]:
    return "lease", GatewayStatus(gateway_id="g", address="here:1", traffic=traffic)


def test_a_call_for_a_model_without_a_replica_is_written_at_once_and_however_many_follow_only_when_due():
    quiet, called, more = told(), told(m=Traffic(waiting=1)), told(m=Traffic(waiting=20))
    assert must_write(called, quiet, overdue=False)
    assert not must_write(more, called, overdue=False)
    assert must_write(told(m=Traffic(waiting=20), n=Traffic(waiting=1)), called, overdue=False)
    assert must_write(more, called, overdue=True)
    assert not must_write(quiet, called, overdue=False)


def test_requests_that_find_a_replica_are_told_when_it_is_due():
    busy = told(m=Traffic(arrivals_per_s=4.0))
    assert not must_write(busy, told(), overdue=False)
    assert must_write(busy, told(), overdue=True)
