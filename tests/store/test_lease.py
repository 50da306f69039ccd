"""A lease keeper holds a lease, replaces a lost one, and lets go at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from nebula_core.errors import LeaseLost
from nebula_core.interfaces import Put
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.lease import LeaseKeeper
from nebula_core.testing.polling import eventually
from nebula_core.testing.store import DEADLINE_S, keys, until

LOGGER = logging.getLogger("test")


class Counting(EmbeddedStore):
    """Counts how often a lease was kept alive."""

    kept_alive = 0

    async def keep_alive(self, lease: str) -> None:
        await super().keep_alive(lease)
        self.kept_alive += 1


def embedded(folder: Path) -> Counting:
    return Counting(folder, EmbeddedSettings(), time.monotonic, LOGGER)


async def test_it_keeps_its_lease_alive_and_revokes_it_at_the_end(tmp_path: Path):
    async with embedded(tmp_path) as store:
        async with LeaseKeeper(store, 0.6, LOGGER) as keeper:
            lease = keeper.lease
            await store.transact([Put("/nodes/a", b"", lease)])
            await until(lambda: store.kept_alive >= 6)  # twice the lease's time
            assert keeper.lease == lease
            assert await keys(store, "/nodes/") == ["/nodes/a"]
        assert await keys(store, "/nodes/") == []


async def test_a_lease_that_is_not_revoked_ends_by_itself(tmp_path: Path):
    async with embedded(tmp_path) as store:
        async with LeaseKeeper(store, 0.6, LOGGER, revokes=False) as keeper:
            await store.transact([Put("/nodes/a", b"", keeper.lease)])
        assert await keys(store, "/nodes/") == ["/nodes/a"]

        async def ended():
            return not await keys(store, "/nodes/")

        await eventually(ended, DEADLINE_S)


async def test_a_lost_lease_is_replaced_and_its_owner_told_at_once(tmp_path: Path):
    async with embedded(tmp_path) as store, LeaseKeeper(store, 3600, LOGGER) as keeper:
        lost = keeper.lease
        await store.revoke(lost)
        with pytest.raises(LeaseLost):
            await store.transact([Put("/nodes/a", b"", lost)])
        async with asyncio.timeout(DEADLINE_S):
            new = await keeper.replaced(lost)
        assert new == keeper.lease != lost
        await store.transact([Put("/nodes/a", b"", new)])
        assert await keeper.replaced(lost) == new


async def test_a_lease_lost_while_the_store_was_gone_is_replaced_when_it_returns(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = embedded(tmp_path)
    await store.__aenter__()
    async with LeaseKeeper(store, 1.0, LOGGER) as keeper:
        lost = keeper.lease
        replaced = asyncio.ensure_future(keeper.replaced(lost))
        await store.__aexit__()
        await until(lambda: "cannot be kept alive" in caplog.text)
        async with store, asyncio.timeout(DEADLINE_S):
            assert await replaced != lost
            await store.keep_alive(keeper.lease)


async def test_a_store_that_is_gone_at_the_start_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store, keeper = embedded(tmp_path), None
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        entering = tasks.create_task(LeaseKeeper(store, 10, LOGGER).__aenter__())
        await until(lambda: "no lease can be had now" in caplog.text)
        await store.__aenter__()
        keeper = await entering
    await store.keep_alive(keeper.lease)
    await keeper.__aexit__()
    await store.__aexit__()
    assert caplog.text.count("no lease can be had now") == 1


async def test_leaving_does_not_fail_while_the_store_is_gone(tmp_path: Path):
    store = embedded(tmp_path)
    async with store:
        keeper = await LeaseKeeper(store, 10, LOGGER).__aenter__()
    await keeper.__aexit__()


class Hanging(EmbeddedStore):
    """Does not answer when a lease is to be kept alive."""

    async def keep_alive(self, lease: str) -> None:
        await asyncio.Event().wait()


async def test_a_store_that_hangs_is_said_not_to_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with Hanging(tmp_path, EmbeddedSettings(), time.monotonic, LOGGER) as store, LeaseKeeper(store, 0.3, LOGGER) as keeper:
        await until(lambda: f"the lease {keeper.lease} cannot be kept alive now: no answer" in caplog.text)
