"""Random histories of transactions, against a plain dict: what is read, what a restart keeps, what a watch replays."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nebula_core.errors import Compacted
from nebula_core.interfaces import Delete, Entry, Put, Unchanged, Write
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.testing.store import next_of

KEYS = st.sampled_from(["/a", "/a/b", "/ab", "/b/é", "/b/x"])
LEASES = 2


@dataclass(frozen=True)
class Transaction:
    puts: dict[str, tuple[bytes, int | None]]
    """Key → value and the number of the lease it is put under."""
    deletes: frozenset[str]
    unchanged: frozenset[str]
    """Keys on whose revision it depends."""
    stale: bool
    """Whether it takes them for older than they are."""


@dataclass(frozen=True)
class Revoke:
    lease: int


@dataclass(frozen=True)
class Restart:
    pass


TRANSACTIONS = st.builds(
    Transaction,
    puts=st.dictionaries(KEYS, st.tuples(st.binary(max_size=3), st.none() | st.integers(0, LEASES - 1)), max_size=3),
    deletes=st.frozensets(KEYS, max_size=2),
    unchanged=st.frozensets(KEYS, max_size=2),
    stale=st.booleans(),
)
STEPS = st.lists(
    TRANSACTIONS | TRANSACTIONS | TRANSACTIONS | st.builds(Revoke, st.integers(0, LEASES - 1)) | st.just(Restart()), max_size=15
)

Contents = dict[str, Entry]


@dataclass
class Model:
    """What the store should hold."""

    entries: Contents = field(default_factory=dict)
    lease_of: dict[str, int] = field(default_factory=dict)

    def apply(self, step: Transaction, revision: int) -> None:
        for key in step.deletes - step.puts.keys():
            self.entries.pop(key, None)
            self.lease_of.pop(key, None)
        for key, (value, lease) in step.puts.items():
            created = self.entries[key].create_revision if key in self.entries else revision
            self.entries[key] = Entry(key, value, created, revision, lease is not None)
            self.lease_of.pop(key, None)
            if lease is not None:
                self.lease_of[key] = lease

    def end(self, leases: set[int]) -> None:
        for key in [key for key, lease in self.lease_of.items() if lease in leases]:
            del self.entries[key], self.lease_of[key]


def transaction_of(step: Transaction, model: Model, leases: list[str]) -> tuple[list[Write], list[Unchanged]]:
    writes: list[Write] = [Put(key, value, None if lease is None else leases[lease]) for key, (value, lease) in step.puts.items()]
    writes += [Delete(key) for key in step.deletes - step.puts.keys()]
    found = {key: model.entries[key].mod_revision if key in model.entries else 0 for key in step.unchanged}
    return writes, [Unchanged(key, revision - step.stale) for key, revision in found.items()]


async def check_history(folder: Path, steps: list[Transaction | Revoke | Restart]) -> None:
    model = Model()
    seen: dict[int, Contents] = {}
    """Contents by revision since the last restart."""
    lost: list[int] = []
    """Revisions of before."""
    store = await open_store(folder)
    leases = [await store.grant(60) for _ in range(LEASES)]
    for step in steps:
        match step:
            case Transaction():
                writes, conditions = transaction_of(step, model, leases)
                revision = await store.transact(writes, conditions)
                assert (revision is None) == (step.stale and bool(step.unchanged))
                if revision is not None:
                    model.apply(step, revision)
            case Revoke():
                await store.revoke(leases[step.lease])
                leases[step.lease] = await store.grant(60)
                model.end({step.lease})
            case Restart():
                lost += seen
                seen.clear()
                await store.__aexit__()
                store = await open_store(folder)
                leases = [await store.grant(60) for _ in range(LEASES)]
                model.end(set(range(LEASES)))
        listing = await store.list("")
        assert listing.entries == tuple(model.entries[key] for key in sorted(model.entries))
        assert listing.revision >= max([*seen, *lost], default=1)
        assert seen.setdefault(listing.revision, dict(model.entries)) == model.entries
    await check_replays(store, seen, lost)
    await store.__aexit__()


async def check_replays(store: EmbeddedStore, seen: dict[int, Contents], lost: list[int]) -> None:
    """A watch from any kept revision rebuilds all later contents; one from a forgotten revision is refused."""
    for start in seen:
        contents = dict(seen[start])
        later = sorted(revision for revision in seen if revision > start)
        async with store.watch("", start) as batches:
            for revision in later:
                batch = await next_of(batches)
                for event in batch.events:
                    contents.pop(event.key, None)
                    if event.entry is not None:
                        contents[event.key] = event.entry
                assert (batch.revision, contents) == (revision, seen[revision])
    for start in lost:
        async with store.watch("", start) as batches:
            try:
                await next_of(batches)
            except Compacted:
                continue
            raise AssertionError(f"revision {start} is from before a restart, yet it can be watched from")


async def open_store(folder: Path) -> EmbeddedStore:
    return await EmbeddedStore(folder, EmbeddedSettings(), time.monotonic, logging.getLogger("test")).__aenter__()


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_history_reads_restarts_and_replays_like_a_dict(steps: list[Transaction | Revoke | Restart]):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check_history(Path(folder), steps))
