"""Three members, one of which dies, hangs or stands still: nothing is missed, nothing comes out of order."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running_cluster

from nebula_core import Put, StoreUnavailable, Unchanged
from nebula_core.background import background
from nebula_core.testing.store import next_of, put, until

StoreOn = Callable[..., EtcdStore]


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[Etcd]]:
    with running_cluster(tmp_path) as members:
        yield members


@dataclass
class Traffic:
    """Counts in a key, each step under the condition that nobody else has, and notes what a watch sees of it."""

    store: EtcdStore
    written: int = 0
    seen: list[int] = field(default_factory=list)
    revisions: list[int] = field(default_factory=list)

    async def write(self) -> None:
        while True:
            with suppress(StoreUnavailable):  # whether that was written, too, the next look will tell
                await self._step()
            await asyncio.sleep(0.02)

    async def _step(self) -> None:
        entry = await self.store.get("/count")
        number, revision = (int(entry.value), entry.mod_revision) if entry else (0, 0)
        if await self.store.transact([Put("/count", str(number + 1).encode())], [Unchanged("/count", revision)]) is not None:
            self.written = number + 1

    async def watch(self, after: int) -> None:
        async with self.store.watch("/count", after) as batches:
            async for batch in batches:
                self.revisions.append(batch.revision)
                self.seen += [int(event.entry.value) for event in batch.events if event.entry]

    async def go_on(self, count: int = 20) -> None:
        """Wait until that many more numbers have been written, and all have been seen."""
        target = self.written + count
        await until(lambda: self.written >= target and bool(self.seen) and self.seen[-1] >= target)

    def check(self) -> None:
        """Every number was seen once, in order."""
        assert self.seen == list(range(1, self.seen[-1] + 1))
        assert self.revisions == sorted(set(self.revisions))


def used(members: list[Etcd]) -> Etcd:
    """The member that serves the watch."""
    return next(member for member in members if member.metric("etcd_debugging_mvcc_watcher_total") > 0)


def leader(members: list[Etcd]) -> Etcd:
    return next(member for member in members if member.metric("etcd_server_is_leader") == 1)


@pytest.mark.parametrize("find", [used, leader])
async def test_a_member_may_be_killed(members: list[Etcd], store_on: StoreOn, find: Callable[[list[Etcd]], Etcd]) -> None:
    async with store_on(*members) as store:
        traffic = Traffic(store)
        start = await put(store, "/start", b"")
        async with background(traffic.write(), traffic.watch(start)):
            await traffic.go_on()
            find(members).stop(signal.SIGKILL)
            await traffic.go_on(40)
        traffic.check()


async def test_each_member_in_turn_may_be_restarted(members: list[Etcd], store_on: StoreOn) -> None:
    async with store_on(*members) as store:
        traffic = Traffic(store)
        start = await put(store, "/start", b"")
        async with background(traffic.write(), traffic.watch(start)):
            for member in members:
                await traffic.go_on()
                await asyncio.to_thread(member.stop)
                member.start()
                await asyncio.to_thread(member.wait_ready)
            await traffic.go_on()
        traffic.check()


async def test_a_member_that_hangs_is_noticed_by_a_watch_within_twelve_seconds(members: list[Etcd], store_on: StoreOn) -> None:
    async with store_on(*members) as store:
        start = await put(store, "/a", b"")
        async with store.watch("/", start) as batches:
            await put(store, "/b", b"")
            await next_of(batches)
            hung = used(members)
            hung.send(signal.SIGSTOP)
            stopped = time.monotonic()
            async with store_on(*(member for member in members if member is not hung)) as other:
                written = await put_once_there_is_a_leader(other)
                assert (await next_of(batches)).revision == written
            assert time.monotonic() - stopped < 15  # without our pings it takes 40 s and more
            assert await store.get("/c") is not None


async def put_once_there_is_a_leader(store: EtcdStore) -> int:
    async with asyncio.timeout(10):
        while True:
            try:
                return await put(store, "/c", b"")
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def test_a_member_may_stand_still_for_five_seconds(members: list[Etcd], store_on: StoreOn) -> None:
    async with store_on(*members) as store:
        traffic = Traffic(store)
        start = await put(store, "/start", b"")
        async with background(traffic.write(), traffic.watch(start)):
            await traffic.go_on()
            stalled = used(members)
            stalled.send(signal.SIGSTOP)
            await asyncio.sleep(5)
            stalled.send(signal.SIGCONT)
            await traffic.go_on(40)
        traffic.check()


async def test_without_a_majority_writes_are_refused_and_with_it_again_they_work(members: list[Etcd], store_on: StoreOn) -> None:
    async with store_on(*members, timeout_s=1) as store:
        await put(store, "/a", b"")
        for member in members[:2]:
            member.stop(signal.SIGKILL)
        with pytest.raises(StoreUnavailable):
            await put(store, "/a", b"")

        members[0].start()
        await asyncio.to_thread(members[0].wait_ready)
        await put_once_there_is_a_leader(store)


async def test_a_member_that_is_down_is_passed_over_at_the_start(members: list[Etcd], store_on: StoreOn) -> None:
    members[0].stop(signal.SIGKILL)
    for _ in range(4):  # the first member to be asked is chosen at random
        async with store_on(*members) as store:
            await put(store, "/a", b"")
