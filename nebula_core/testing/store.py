"""The contract of `Store`, as tests: whatever keeps the control plane's state must pass them."""

# ruff: noqa: D102 - the name of a test says what it holds

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio

from nebula_core.errors import LeaseLost
from nebula_core.interfaces import MAX_OPERATIONS, Batch, Delete, Entry, Put, Store, Unchanged

DEADLINE_S = 20.0
"""How long the contract waits for what must happen: long enough for a busy machine."""
SHORT_LEASE_S = 2.0


class StoreContract:
    """Inherit, implement `open_store`, and the tests run against it.

    class TestMyStore(StoreContract):
        def open_store(self, tmp_path):
            return MyStore(...)
    """

    pytestmark = pytest.mark.asyncio

    def open_store(self, tmp_path: Path) -> AbstractAsyncContextManager[Store]:
        """An empty store, opened by entering the result. A test gets one to itself."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """The store under test."""
        async with self.open_store(tmp_path) as store:
            yield store

    # --- reading and writing --------------------------------------------------------------------------------------------------

    async def test_what_is_put_can_be_read(self, store: Store) -> None:
        revision = await put(store, "/a", b"one")
        assert await store.get("/a") == Entry("/a", b"one", revision, revision)

    async def test_a_missing_key_is_none(self, store: Store) -> None:
        assert await store.get("/a") is None

    async def test_a_write_over_a_key_keeps_its_create_revision(self, store: Store) -> None:
        first = await put(store, "/a", b"one")
        second = await put(store, "/a", b"two")
        assert first < second
        assert await store.get("/a") == Entry("/a", b"two", first, second)

    async def test_a_key_written_anew_after_its_deletion_is_created_anew(self, store: Store) -> None:
        await put(store, "/a", b"one")
        await store.transact([Delete("/a")])
        assert await store.get("/a") is None
        revision = await put(store, "/a", b"two")
        assert await store.get("/a") == Entry("/a", b"two", revision, revision)

    async def test_deleting_what_is_not_there_is_no_error_and_no_change(self, store: Store) -> None:
        revision = await put(store, "/a", b"")
        assert await store.transact([Delete("/b")]) == revision
        assert (await store.list("/")).revision == revision

    async def test_a_listing_is_sorted_by_key_and_bears_its_revision(self, store: Store) -> None:
        for key in ("/m/c", "/m/a", "/m/é", "/m/b", "/n/a"):
            revision = await put(store, key, key.encode())
        listing = await store.list("/m/")
        assert [entry.key for entry in listing.entries] == ["/m/a", "/m/b", "/m/c", "/m/é"]
        assert listing.revision == revision

    async def test_a_prefix_is_plain_text_and_knows_no_path(self, store: Store) -> None:
        for key in ("/a", "/a/b", "/ab", "/b"):
            await put(store, key, b"")
        assert await keys(store, "/a") == ["/a", "/a/b", "/ab"]

    async def test_an_empty_prefix_lists_everything(self, store: Store) -> None:
        await put(store, "/a", b"")
        await put(store, "b", b"")
        assert await keys(store, "") == ["/a", "b"]

    async def test_values_may_be_empty_and_bytes_of_any_kind(self, store: Store) -> None:
        for value in (b"", bytes(range(256))):
            await put(store, "/a", value)
            entry = await store.get("/a")
            assert entry is not None
            assert entry.value == value

    async def test_keys_may_hold_any_text(self, store: Store) -> None:
        names = ["/m/Qwen%2FQwen3-8B", "/m/模型", "/m/🦙", "/m/a b", "/m/%_'\"*"]
        for name in names:
            await put(store, name, name.encode())
        assert await keys(store, "/m/") == sorted(names)
        assert await keys(store, "/m/模") == ["/m/模型"]

    async def test_a_value_of_a_mebibyte_comes_back_whole(self, store: Store) -> None:
        value = b"nebula!\n" * (1024 * 1024 // 8)
        await put(store, "/large", value)
        entry = await store.get("/large")
        assert entry is not None
        assert entry.value == value

    # --- transactions ---------------------------------------------------------------------------------------------------------

    async def test_a_transaction_writes_all_its_keys_at_one_revision(self, store: Store) -> None:
        await put(store, "/c", b"")
        revision = await store.transact([Put("/a", b"1"), Put("/b", b"2"), Delete("/c")])
        listing = await store.list("/")
        assert [(entry.key, entry.mod_revision) for entry in listing.entries] == [("/a", revision), ("/b", revision)]
        assert listing.revision == revision

    async def test_revisions_count_the_writes_of_all_keys(self, store: Store) -> None:
        revisions = [await put(store, f"/{number % 3}", b"") for number in range(9)]
        assert revisions == sorted(set(revisions))

    async def test_a_key_may_be_written_once_in_a_transaction(self, store: Store) -> None:
        with pytest.raises(ValueError, match="/a"):
            await store.transact([Put("/a", b"1"), Delete("/a")])
        assert await store.get("/a") is None

    async def test_a_transaction_may_have_so_many_writes_and_conditions_and_no_more(self, store: Store) -> None:
        names = [f"/n/{number:03}" for number in range(MAX_OPERATIONS + 1)]
        most, all_writes = [Put(name, b"") for name in names[:-1]], [Put(name, b"") for name in names]
        assert await store.transact(most, [Unchanged(name, 0) for name in names[:-1]]) is not None
        assert await keys(store, "/n/") == names[:-1]
        with pytest.raises(ValueError, match=str(MAX_OPERATIONS)):
            await store.transact(all_writes)
        with pytest.raises(ValueError, match=str(MAX_OPERATIONS)):
            await store.transact([], [Unchanged(name, 0) for name in names])
        assert await keys(store, "/n/") == names[:-1]

    async def test_a_key_may_not_be_empty(self, store: Store) -> None:
        with pytest.raises(ValueError, match="empty"):
            await store.transact([Put("", b"")])

    async def test_a_write_waits_for_a_condition_on_the_revision(self, store: Store) -> None:
        revision = await put(store, "/a", b"one")
        assert await store.transact([Put("/a", b"two")], [Unchanged("/a", revision)]) is not None
        assert await store.transact([Put("/a", b"three")], [Unchanged("/a", revision)]) is None
        entry = await store.get("/a")
        assert entry is not None
        assert entry.value == b"two"

    async def test_a_condition_of_zero_holds_while_the_key_is_absent(self, store: Store) -> None:
        assert await store.transact([Put("/a", b"one")], [Unchanged("/a", 0)]) is not None
        assert await store.transact([Put("/a", b"two")], [Unchanged("/a", 0)]) is None
        await store.transact([Delete("/a")])
        assert await store.transact([Put("/a", b"three")], [Unchanged("/a", 0)]) is not None

    async def test_one_condition_that_fails_stops_all_writes(self, store: Store) -> None:
        before = await put(store, "/a", b"one")
        conditions = [Unchanged("/a", before), Unchanged("/leader", before)]
        assert await store.transact([Put("/a", b"two"), Put("/b", b"")], conditions) is None
        listing = await store.list("/")
        assert [(entry.key, entry.value) for entry in listing.entries] == [("/a", b"one")]
        assert listing.revision == before

    async def test_a_condition_may_be_on_a_key_that_is_not_written(self, store: Store) -> None:
        leader = await put(store, "/leader", b"me")
        assert await store.transact([Put("/plan", b"")], [Unchanged("/leader", leader)]) is not None

    async def test_concurrent_increments_by_condition_lose_nothing(self, store: Store) -> None:
        await put(store, "/count", b"0")

        async def increment() -> None:
            done = None
            while done is None:
                entry = await store.get("/count")
                assert entry is not None
                write = Put("/count", str(int(entry.value) + 1).encode())
                done = await store.transact([write], [Unchanged("/count", entry.mod_revision)])

        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            for _ in range(10):
                tasks.create_task(increment())
        entry = await store.get("/count")
        assert entry is not None
        assert entry.value == b"10"

    # --- watches --------------------------------------------------------------------------------------------------------------

    async def test_a_watch_replays_what_came_after_a_revision_and_goes_on_live(self, store: Store) -> None:
        start = await put(store, "/a", b"0")
        await put(store, "/a", b"1")
        await put(store, "/b", b"2")
        async with store.watch("/", start) as batches:
            replayed = [await next_of(batches), await next_of(batches)]
            await store.transact([Delete("/a")])
            live = await next_of(batches)
        assert [[(e.key, e.entry and e.entry.value) for e in batch.events] for batch in [*replayed, live]] == [
            [("/a", b"1")],
            [("/b", b"2")],
            [("/a", None)],
        ]

    async def test_a_watch_from_a_listing_misses_and_repeats_nothing(self, store: Store) -> None:
        written: list[int] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write_numbers(store, 60, written))
            await until(lambda: bool(written))
            listing = await store.list("/n/")
            known = {entry.key for entry in listing.entries}
            async with store.watch("/n/", listing.revision) as batches:
                while len(known) < 60:
                    new = {event.key for event in (await next_of(batches)).events}
                    assert not new & known
                    known |= new

    async def test_a_transaction_reaches_a_watch_as_one_batch(self, store: Store) -> None:
        await put(store, "/m/c", b"")
        start = (await store.list("")).revision
        async with store.watch("/m/", start) as batches:
            revision = await store.transact([Put("/m/a", b"1"), Put("/other", b""), Delete("/m/c"), Put("/m/b", b"2")])
            batch = await next_of(batches)
        assert batch.revision == revision
        assert {event.key for event in batch.events} == {"/m/a", "/m/b", "/m/c"}

    async def test_a_watch_sees_its_prefix_only(self, store: Store) -> None:
        start = await put(store, "/a/1", b"")
        async with store.watch("/b", start) as batches:
            await put(store, "/a/2", b"")
            revision = await put(store, "/b", b"")
            assert (await next_of(batches)).revision == revision

    async def test_events_carry_the_entry_as_it_was_at_that_revision(self, store: Store) -> None:
        first = await put(store, "/a", b"0")
        second = await put(store, "/a", b"1")
        await put(store, "/a", b"2")
        async with store.watch("/a", first) as batches:
            batch = await next_of(batches)
        assert batch.events[0].entry == Entry("/a", b"1", first, second)

    async def test_each_of_many_watches_sees_everything(self, store: Store) -> None:
        start = (await store.list("")).revision

        async def follow() -> list[str]:
            async with store.watch("/n/", start) as batches:
                return [event.key for _ in range(20) for event in (await next_of(batches)).events]

        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(follow()) for _ in range(5)]
            await write_numbers(store, 20)
        assert [follower.result() for follower in followers] == [[f"/n/{number}" for number in range(20)]] * 5

    async def test_a_cancelled_watch_leaves_nothing_behind(self, store: Store) -> None:
        start = await put(store, "/a", b"")
        async with store.watch("/a", start):
            before = asyncio.all_tasks()  # with what the first watch may have started for all of them
        entered = []

        async def follow() -> None:
            async with store.watch("/a", start) as batches:
                entered.append(batches)
                await anext(batches)

        watches = [asyncio.create_task(follow()) for _ in range(20)]
        await until(lambda: len(entered) == 20)
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        assert all(watch.cancelled() for watch in watches)
        await until(lambda: asyncio.all_tasks() <= before)
        await put(store, "/a", b"still writable")

    # --- leases ---------------------------------------------------------------------------------------------------------------

    async def test_keys_under_a_lease_go_with_it_when_it_ends(self, store: Store) -> None:
        lease = await store.grant(SHORT_LEASE_S)
        await store.transact([Put("/nodes/b", b"", lease), Put("/nodes/a", b"", lease), Put("/kept", b"")])
        start = (await store.list("")).revision
        async with store.watch("/nodes/", start) as batches:
            gone = [(event.key, event.entry) for event in (await next_of(batches)).events]
        assert sorted(gone) == [("/nodes/a", None), ("/nodes/b", None)]
        assert await keys(store, "/") == ["/kept"]

    async def test_a_lease_kept_alive_outlives_its_time(self, store: Store) -> None:
        lease = await store.grant(SHORT_LEASE_S)
        await store.transact([Put("/nodes/a", b"", lease)])
        for _ in range(6):
            await asyncio.sleep(SHORT_LEASE_S / 4)
            await store.keep_alive(lease)
        assert await store.get("/nodes/a") is not None

    async def test_an_entry_tells_that_it_is_leased(self, store: Store) -> None:
        lease = await store.grant(60)
        await store.transact([Put("/a", b"", lease), Put("/b", b"")])
        assert [entry.leased for entry in (await store.list("/")).entries] == [True, False]

    async def test_revoking_deletes_the_keys_at_once_and_may_be_repeated(self, store: Store) -> None:
        lease = await store.grant(60)
        await store.transact([Put("/a", b"", lease), Put("/b", b"", lease)])
        await store.revoke(lease)
        assert await keys(store, "/") == []
        await store.revoke(lease)

    async def test_a_lease_that_has_ended_is_lost(self, store: Store) -> None:
        lease = await store.grant(60)
        await store.revoke(lease)
        with pytest.raises(LeaseLost):
            await store.keep_alive(lease)
        with pytest.raises(LeaseLost):
            await store.transact([Put("/a", b"", lease), Put("/b", b"")])
        assert await keys(store, "/") == []

    async def test_a_lease_that_ran_out_is_lost(self, store: Store) -> None:
        lease = await store.grant(SHORT_LEASE_S)
        await store.transact([Put("/a", b"", lease)])
        start = (await store.list("")).revision
        async with store.watch("/a", start) as batches:
            await next_of(batches)
        with pytest.raises(LeaseLost):
            await store.keep_alive(lease)

    async def test_a_write_without_a_lease_takes_the_key_off_it(self, store: Store) -> None:
        lease = await store.grant(60)
        await store.transact([Put("/a", b"1", lease)])
        await put(store, "/a", b"2")
        await store.revoke(lease)
        entry = await store.get("/a")
        assert entry is not None
        assert (entry.value, entry.leased) == (b"2", False)

    async def test_a_write_under_another_lease_moves_the_key_to_it(self, store: Store) -> None:
        old, new = await store.grant(60), await store.grant(60)
        await put(store, "/a", b"0")
        await store.transact([Put("/a", b"1", old)])
        await store.transact([Put("/a", b"2", new)])
        await store.revoke(old)
        assert await keys(store, "/") == ["/a"]
        await store.revoke(new)
        assert await keys(store, "/") == []

    async def test_a_key_deleted_and_written_anew_is_off_its_lease(self, store: Store) -> None:
        lease = await store.grant(60)
        await store.transact([Put("/a", b"1", lease)])
        await store.transact([Delete("/a")])
        await put(store, "/a", b"2")
        await store.revoke(lease)
        assert await keys(store, "/") == ["/a"]


async def put(store: Store, key: str, value: bytes) -> int:
    """Write one key and return the revision."""
    revision = await store.transact([Put(key, value)])
    assert revision is not None
    return revision


async def keys(store: Store, prefix: str) -> list[str]:
    """The keys under a prefix, in the store's order."""
    return [entry.key for entry in (await store.list(prefix)).entries]


async def write_numbers(store: Store, count: int, written: list[int] | None = None) -> None:
    """Write `/n/0`, `/n/1` and so on, a transaction each, and add their revisions to `written`."""
    for number in range(count):
        revision = await put(store, f"/n/{number}", b"")
        if written is not None:
            written.append(revision)


async def next_of(batches: AsyncIterator[Batch]) -> Batch:
    """The next batch of a watch, within the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        return await anext(batches)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, within the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for here tells nobody
            await asyncio.sleep(0.01)
