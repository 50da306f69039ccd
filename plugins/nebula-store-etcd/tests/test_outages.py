"""etcd stops, forgets, is restored from a backup, runs full."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running

from nebula_core import Compacted, Put, StoreError, StoreUnavailable
from nebula_core.background import background
from nebula_core.store.mirror import Mirror
from nebula_core.testing.polling import eventually
from nebula_core.testing.store import next_of, put, until

StoreOn = Callable[..., EtcdStore]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running(tmp_path) as etcd:
        yield etcd


async def restart(etcd: Etcd) -> None:
    await asyncio.to_thread(etcd.stop)
    etcd.start()
    await asyncio.to_thread(etcd.wait_ready)


async def test_while_etcd_is_down_every_call_says_so(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd) as store:
        lease = await store.grant(60)
        await asyncio.to_thread(etcd.stop)

        for call in (store.get("/a"), store.list("/"), store.transact([Put("/a", b"")]), store.grant(5), store.keep_alive(lease)):
            with pytest.raises(StoreUnavailable, match="endpoints"):
                await call


async def test_a_mirror_keeps_its_contents_while_etcd_is_down_and_catches_up(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, timeout_s=1) as store:
        await put(store, "/models/a", b"1")
        mirror = Mirror(store, ["/models/"], logging.getLogger("test"))
        async with background(mirror.run()):
            await mirror.wait_synced()
            await asyncio.to_thread(etcd.stop)
            await until(lambda: not mirror.connected)
            assert mirror.entry("/models/a") is not None

            etcd.start()
            await asyncio.to_thread(etcd.wait_ready)
            await put(store, "/models/b", b"")
            await until(lambda: mirror.entry("/models/b") is not None)
            assert mirror.connected


async def test_a_lease_outlives_a_restart_of_etcd(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd) as store:
        lease = await store.grant(60)
        await store.transact([Put("/nodes/a", b"", lease)])
        await restart(etcd)

        await store.keep_alive(lease)
        assert await store.get("/nodes/a") is not None


async def test_a_watch_goes_on_where_it_was_when_etcd_is_restarted(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, timeout_s=30) as store, store.watch("/", await put(store, "/0", b"")) as batches:
        await put(store, "/1", b"")
        first = await next_of(batches)
        await asyncio.to_thread(etcd.stop)
        next_batch = asyncio.create_task(next_of(batches))
        etcd.start()
        await asyncio.to_thread(etcd.wait_ready)
        written = await put(store, "/2", b"")

        batch = await next_batch
        assert [event.key for event in first.events + batch.events] == ["/1", "/2"]
        assert batch.revision == written


async def test_a_watch_raises_if_etcd_stays_away(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, timeout_s=0.5) as store, store.watch("/", await put(store, "/a", b"")) as batches:
        await put(store, "/b", b"")
        await next_of(batches)
        await asyncio.to_thread(etcd.stop)

        with pytest.raises(StoreUnavailable):
            await next_of(batches)


async def test_a_watch_ends_with_its_store(etcd: Etcd, store_on: StoreOn) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_on(etcd))
        async with store.watch("/", await put(store, "/a", b"")) as batches:
            waiting = asyncio.create_task(next_of(batches))
            await until(lambda: etcd.metric("etcd_debugging_mvcc_watcher_total") == 1)
            await stack.aclose()

            with pytest.raises(StoreUnavailable, match="closed"):
                await waiting


async def test_a_wait_that_is_cancelled_loses_nothing(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd) as store, store.watch("/", await put(store, "/a", b"")) as batches:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(batches)
        written = await put(store, "/b", b"")

        assert (await next_of(batches)).revision == written
        await until(lambda: etcd.metric("etcd_debugging_mvcc_watcher_total") == 1)


async def test_a_watch_of_history_that_etcd_has_forgotten_is_told(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, timeout_s=30) as store, store.watch("/quiet/", await put(store, "/quiet/a", b"")) as batches:
        await put(store, "/quiet/b", b"")
        await next_of(batches)
        newest = [await put(store, "/busy", b"") for _ in range(10)][-1]
        etcd.ctl("compact", str(newest))
        await restart(etcd)

        with pytest.raises(Compacted, match="list again"):
            await next_of(batches)


async def test_a_live_watch_does_not_mind_a_compaction(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd) as store, store.watch("/", await put(store, "/0", b"")) as batches:
        for number in range(1, 30):
            revision = await put(store, f"/{number}", b"")
            assert (await next_of(batches)).revision == revision
            etcd.ctl("compact", str(revision))


async def test_a_mirror_lists_again_when_history_was_compacted_while_it_was_cut_off(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, timeout_s=30) as store:
        await put(store, "/models/a", b"")
        mirror = Mirror(store, ["/models/"], logging.getLogger("test"))
        async with background(mirror.run()):
            await mirror.wait_synced()
            await asyncio.to_thread(etcd.stop)
            etcd.start()
            await asyncio.to_thread(etcd.wait_ready)
            etcd.ctl("del", "/nebula/models/a")
            newest = [await put(store, "/other", b"") for _ in range(10)][-1]
            etcd.ctl("compact", str(newest))

            await until(lambda: mirror.entry("/models/a") is None)


@pytest.mark.parametrize("token", ["etcd-cluster", "another"])
@pytest.mark.parametrize("writes_after", [0, 20])
async def test_a_watch_ends_when_etcd_was_restored_from_a_backup(
    etcd: Etcd, store_on: StoreOn, tmp_path: Path, token: str, writes_after: int
) -> None:
    await restart(etcd)  # so that its term is beyond that of a new cluster
    async with store_on(etcd, timeout_s=30) as store:
        await put(store, "/a", b"saved")
        etcd.ctl("snapshot", "save", str(tmp_path / "backup"))
        newest = [await put(store, "/a", b"lost") for _ in range(10)][-1]
        async with store.watch("/", newest - 1) as batches:
            await next_of(batches)
            await asyncio.to_thread(etcd.stop)
            (tmp_path / "data").rename(tmp_path / "old")
            restore(etcd, tmp_path, token)
            etcd.start()
            await asyncio.to_thread(etcd.wait_ready)
            for _ in range(writes_after):
                etcd.ctl("put", "/foreign", "")

            with pytest.raises(Compacted, match="list again"):
                await next_of(batches)
        listing = await store.list("/")
        assert [entry.value for entry in listing.entries] == [b"saved"]
        async with store.watch("/", listing.revision) as batches:
            await put(store, "/b", b"")
            assert [event.key for event in (await next_of(batches)).events] == ["/b"]


def restore(etcd: Etcd, folder: Path, token: str) -> None:
    cluster = (
        "--initial-cluster",
        f"{etcd.name}={etcd.peer}",
        "--initial-advertise-peer-urls",
        etcd.peer,
        "--initial-cluster-token",
        token,
    )
    etcd.ctl("snapshot", "restore", str(folder / "backup"), "--name", etcd.name, "--data-dir", str(folder / "data"), *cluster)


async def test_an_etcd_that_is_full_says_so_and_what_to_do(tmp_path: Path, store_on: StoreOn) -> None:
    with running(tmp_path, ["--quota-backend-bytes", "1000000"]) as etcd:
        async with store_on(etcd) as store:
            with pytest.raises(StoreUnavailable, match=r"out of space.*defragment.*alarm disarm"):
                await fill(store)
            assert await store.get("/large") is not None

            etcd.ctl("compact", str((await store.list("/")).revision))
            etcd.ctl("defrag")
            etcd.ctl("alarm", "disarm")
            await put(store, "/large", b"")


async def fill(store: EtcdStore) -> None:
    while True:
        await put(store, "/large", bytes(100_000))


async def test_compacting_keeps_the_promised_time_and_forgets_what_is_older(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, history_s=1) as store:
        start = await put(store, "/a", b"")
        await store.compact()
        async with store.watch("/", start - 1) as batches:  # still there: it is younger than a second
            assert (await next_of(batches)).revision == start

        async def is_forgotten() -> bool:
            await put(store, "/a", b"")
            await store.compact()
            try:
                async with asyncio.timeout(5), store.watch("/", start - 1) as batches:
                    await next_of(batches)
            except Compacted:
                return True
            return False

        assert await eventually(is_forgotten)
        assert await store.get("/a") is not None


async def test_a_write_that_is_too_large_is_refused_and_the_option_named(tmp_path: Path, store_on: StoreOn) -> None:
    with running(tmp_path, ["--max-txn-ops", "10"]) as etcd:
        async with store_on(etcd) as store:
            for size in (1_700_000, 5_000_000):
                with pytest.raises(StoreError, match="--max-request-bytes"):
                    await put(store, "/large", bytes(size))
            with pytest.raises(StoreError, match="--max-txn-ops"):
                await store.transact([Put(f"/{number}", b"") for number in range(20)])
