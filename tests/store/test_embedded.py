"""What the embedded store adds to the contract: one process, a file that outlasts crashes, a bounded history."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nebula_core import plugins
from nebula_core.errors import Compacted, LeaseLost, StoreError, StoreLocked, StoreUnavailable
from nebula_core.interfaces import Delete, Put
from nebula_core.provider import Context
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.testing.store import keys, next_of, put, until

LOGGER = logging.getLogger("test")


def embedded(folder: Path, **settings: int) -> EmbeddedStore:
    return EmbeddedStore(folder, EmbeddedSettings(**settings), time.monotonic, LOGGER)


# --- one process --------------------------------------------------------------------------------------------------------------


async def test_a_second_opener_is_told_who_holds_it_and_what_to_do(tmp_path: Path):
    async with embedded(tmp_path):
        with pytest.raises(StoreLocked) as refused:
            await embedded(tmp_path).__aenter__()
    message = str(refused.value)
    assert f"process {os.getpid()} (" in message
    assert str(tmp_path) in message
    assert "`nebula up`" in message
    assert 'use = "etcd"' in message


async def test_the_lock_goes_with_the_store(tmp_path: Path):
    for _ in range(2):
        async with embedded(tmp_path) as store:
            await put(store, "/a", b"")


async def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path):
    async with embedded(tmp_path):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=PIPE)
    try:
        async with embedded(tmp_path) as store:
            await put(store, "/a", b"")
    finally:
        await child.communicate(b"\n")


async def test_its_files_are_for_their_owner_alone(tmp_path: Path):
    async with embedded(tmp_path / "state") as store:
        await put(store, "/a", b"")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/state.*data_dir"):
        await embedded(tmp_path / "file" / "state").__aenter__()


async def test_settings_choose_it_by_name(tmp_path: Path):
    loaded = plugins.load(found=[point for point in entry_points(group="nebula") if point.name == "store_embedded"])
    tables = {"store_embedded": {"history_events": 7}}
    built = loaded.build("store", "embedded", "[store] use", tables, lambda _: Context(logger=LOGGER, data_dir=tmp_path / "store"))
    async with built as store:
        await put(store, "/a", b"")
    assert (tmp_path / "store" / "store.db").is_file()


async def test_an_error_of_the_body_leaves_it_as_it_is(tmp_path: Path):
    with pytest.raises(KeyError):
        async with embedded(tmp_path):
            raise KeyError("mine")


# --- after the end ------------------------------------------------------------------------------------------------------------


async def test_writes_under_way_are_finished_when_it_closes(tmp_path: Path):
    async with embedded(tmp_path) as store:
        writes = [asyncio.ensure_future(put(store, f"/{number}", b"")) for number in range(20)]
        await asyncio.sleep(0)
    assert len({await write for write in writes}) == 20


async def test_a_closed_store_is_unavailable_also_to_its_watches(tmp_path: Path):
    async with embedded(tmp_path) as store:
        revision = await put(store, "/a", b"")
        watch = store.watch("/", revision)
        batches = await watch.__aenter__()
        waiting = asyncio.ensure_future(next_of(batches))
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="closed"):
        await waiting
    await watch.__aexit__(None, None, None)
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("/a")
    with pytest.raises(StoreUnavailable, match="closed"):
        await put(store, "/a", b"")


# --- restarts and crashes -----------------------------------------------------------------------------------------------------


async def test_a_restart_keeps_keys_and_forgets_leased_ones(tmp_path: Path):
    async with embedded(tmp_path) as store:
        lease = await store.grant(60)
        await store.transact([Put("/desired", b"1"), Put("/alive", b"2", lease), Put("/gone", b"3")])
        await store.transact([Delete("/gone")])
        await store.transact([Put("/was_leased", b"", lease), Put("/was_not", b"")])
        await store.transact([Put("/was_leased", b""), Put("/was_not", b"", lease)])
        before = await store.get("/desired")
    async with embedded(tmp_path) as store:
        assert await keys(store, "") == ["/desired", "/was_leased"]
        assert await store.get("/desired") == before
        with pytest.raises(LeaseLost):
            await store.keep_alive(lease)


async def test_a_restart_goes_on_above_every_revision_and_forgets_the_history(tmp_path: Path):
    async with embedded(tmp_path) as store:
        lease = await store.grant(60)
        for _ in range(50):
            await store.transact([Put("/beat", b"", lease)])  # never on the disk, nor are their revisions
        last = (await store.list("")).revision
    async with embedded(tmp_path) as store:
        assert (await store.list("")).revision > last
        assert await put(store, "/a", b"") > last
        async with store.watch("", last) as batches:
            with pytest.raises(Compacted):
                await next_of(batches)


CHILD = """
import asyncio, logging, sys, time
from pathlib import Path
from nebula_core.interfaces import Put
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore

async def main():
    async with EmbeddedStore(Path(sys.argv[1]), EmbeddedSettings(), time.monotonic, logging.getLogger()) as store:
        lease = await store.grant(60)
        for number in range(1_000_000):
            value = str(number).encode()
            await store.transact([Put(f"/a/{number}", value), Put("/b", value)])
            print(number, await store.transact([Put("/beat", value, lease)]), flush=True)

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill_in_the_middle_of_writing(tmp_path: Path):
    revision = 0
    for _ in range(3):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, str(tmp_path), stdout=PIPE)
        assert child.stdout is not None
        lines = [await child.stdout.readline() for _ in range(30)]
        child.kill()
        lines += (await child.communicate())[0].splitlines(keepends=True)
        last = [line for line in lines if line.endswith(b"\n")][-1]
        acknowledged, handed_out = map(int, last.split())
        assert handed_out > revision
        async with embedded(tmp_path) as store:
            both = await store.get("/b")
            assert both is not None
            assert int(both.value) in (acknowledged, acknowledged + 1)
            assert await store.get(f"/a/{both.value.decode()}") is not None
            assert await store.get("/beat") is None
            revision = (await store.list("")).revision
            assert revision > handed_out


async def test_a_write_whose_caller_gave_up_is_whole_or_not_at_all(tmp_path: Path):
    async with embedded(tmp_path) as store:
        for number in range(30):
            write = asyncio.ensure_future(store.transact([Put(f"/a/{number}", b""), Put(f"/b/{number}", b"")]))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            write.cancel()
        await put(store, "/last", b"")
        listed = await store.list("/")
    async with embedded(tmp_path) as store:
        assert (await store.list("/")).entries == listed.entries
        assert [key[2:] for key in await keys(store, "/a/")] == [key[2:] for key in await keys(store, "/b/")]


# --- the disk fails -----------------------------------------------------------------------------------------------------------


@contextmanager
def no_room_in_files() -> Iterator[None]:
    """No file of this process may grow: what a full disk looks like from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_makes_it_unavailable_and_changes_nothing(tmp_path: Path):
    async with embedded(tmp_path) as store:
        lease = await store.grant(60)
        revision = await put(store, "/a", b"before")
        with no_room_in_files():
            with pytest.raises(StoreUnavailable, match=r"store\.db"):
                await put(store, "/a", b"lost")
            assert (await store.list("")).revision == revision
            await store.transact([Put("/nodes/a", b"", lease)])
        assert await keys(store, "") == ["/a", "/nodes/a"]
        await put(store, "/b", b"after")
    async with embedded(tmp_path) as store:
        assert [(entry.key, entry.value) for entry in (await store.list("")).entries] == [("/a", b"before"), ("/b", b"after")]


@pytest.mark.parametrize("damage", [b"this is no database " * 500, b"SQLite format 3\x00" + b"\xff" * 8000])
async def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, damage: bytes):
    (tmp_path / "store.db").write_bytes(damage)
    with pytest.raises(StoreError, match=r"store\.db.*damaged.*move it away") as refused:
        await embedded(tmp_path).__aenter__()
    assert not isinstance(refused.value, StoreUnavailable)
    (tmp_path / "store.db").unlink()
    async with embedded(tmp_path) as store:
        assert await keys(store, "") == []


async def test_damage_inside_the_file_is_found_at_the_start(tmp_path: Path):
    async with embedded(tmp_path) as store:
        await store.transact([Put(f"/{number}", bytes(1000)) for number in range(100)])
    file = tmp_path / "store.db"
    content = bytearray(file.read_bytes())
    content[3 * 4096 :] = b"\xff" * (len(content) - 3 * 4096)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        await embedded(tmp_path).__aenter__()


async def test_a_file_of_a_newer_format_is_refused(tmp_path: Path):
    with sqlite3.connect(tmp_path / "store.db") as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(StoreError, match="newer Nebula"):
        await embedded(tmp_path).__aenter__()


# --- history and watches ------------------------------------------------------------------------------------------------------


async def test_a_watch_from_before_the_kept_history_must_list_again(tmp_path: Path):
    async with embedded(tmp_path, history_events=10) as store:
        revisions = [await put(store, f"/{number}", b"") for number in range(30)]
        async with store.watch("", revisions[5]) as batches:
            with pytest.raises(Compacted, match="list again"):
                await next_of(batches)
        async with store.watch("", revisions[19]) as batches:
            assert [(await next_of(batches)).revision for _ in range(10)] == revisions[20:]


async def test_a_slow_watch_is_told_to_list_again_and_others_are_not(tmp_path: Path):
    async with embedded(tmp_path, history_events=10) as store:
        start = await put(store, "/start", b"")
        async with store.watch("", start) as slow, store.watch("", start) as quick:
            first = await put(store, "/first", b"")
            assert (await next_of(slow)).revision == first
            await next_of(quick)
            for number in range(30):
                revision = await put(store, f"/{number}", b"")
                assert (await next_of(quick)).revision == revision
            with pytest.raises(Compacted, match="fell behind"):
                await next_of(slow)


async def test_the_history_is_bounded_in_bytes_but_keeps_the_newest_batch(tmp_path: Path):
    async with embedded(tmp_path, history_bytes=1000) as store:
        first = await put(store, "/a", bytes(600))
        second = await put(store, "/b", bytes(600))
        third = await put(store, "/c", bytes(6000))
        async with store.watch("", second) as batches:
            assert (await next_of(batches)).revision == third
        async with store.watch("", first) as batches:
            with pytest.raises(Compacted):
                await next_of(batches)


async def test_a_wait_that_was_given_up_loses_no_batch(tmp_path: Path):
    async with embedded(tmp_path) as store:
        start = await put(store, "/a", b"")
        async with store.watch("", start) as batches:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(batches)
            revision = await put(store, "/a", b"")
            assert (await next_of(batches)).revision == revision


# --- leases -------------------------------------------------------------------------------------------------------------------


async def test_leases_get_back_the_time_in_which_the_process_stood_still(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    stood_still = 0.0
    async with EmbeddedStore(tmp_path, EmbeddedSettings(), lambda: time.monotonic() + stood_still, LOGGER) as store:
        lease = await store.grant(30)
        await store.transact([Put("/nodes/a", b"", lease)])
        stood_still = 100.0
        await until(lambda: "stood still" in caplog.text)
        await store.keep_alive(lease)
        assert await keys(store, "/nodes/") == ["/nodes/a"]
