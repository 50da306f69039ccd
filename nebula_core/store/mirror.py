"""A live copy of parts of the store, for the loops to decide by: reading it costs nothing and never waits.

async with following(store, [keys.PLACEMENTS, keys.ENDPOINTS], logger) as mirror:
    changes = mirror.subscribe()
    while True:
        plans = mirror.values(keys.PLACEMENTS, PlacementPlan)
        ...
        changed = await changes.wait(timeout_s=30)
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn
from weakref import WeakSet

import msgspec

from nebula_core.background import background
from nebula_core.errors import Compacted, StoreError, StoreUnavailable
from nebula_core.interfaces import Batch, Entry, Listing, Store
from nebula_core.store.codec import V, decode
from nebula_core.types import Value

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class Changes:
    """The keys that changed since a subscriber last looked. It is fed for as long as somebody holds it."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._some = asyncio.Event()

    async def wait(self, timeout_s: float | None = None) -> set[str]:
        """Keys changed since the last call, as soon as there are any; empty after `timeout_s` seconds without one."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        except TimeoutError:
            pass  # whatever arrived with the deadline is handed out below
        self._some.clear()
        changed, self._keys = self._keys, set()
        return changed

    def add(self, keys: Iterable[str]) -> None:
        """Note changed keys."""
        self._keys.update(keys)
        if self._keys:
            self._some.set()


class Mirror:
    """A copy of everything under some prefixes, none of which may begin with another.

    The copy outlives the store: while that is gone, the last contents stand. Each prefix is followed by a watch of its own, so that a
    reader of plans is not sent the whole fleet's stats. Watches keep no pace with each other: the order of changes holds within a
    prefix only, and so does the promise of `applied`.
    """

    def __init__(self, store: Store, prefixes: Sequence[str], logger: logging.Logger) -> None:
        if any(one.startswith(other) for one in prefixes for other in prefixes if one is not other):
            raise ValueError(f"one of the prefixes begins with another: {', '.join(prefixes)}")
        self._store = store
        self._logger = logger
        self._copies = [_Copy(prefix) for prefix in prefixes]
        self._decoded: dict[str, _Decoded] = {}
        self._subscribers: WeakSet[Changes] = WeakSet()
        self._synced = asyncio.Event()
        self._silent_since: float | None = None

    async def run(self) -> None:
        """Follow the store until cancelled. What it refuses for the moment is tried again; its other errors are raised, in a group."""
        async with asyncio.TaskGroup() as tasks:
            for copy in self._copies:
                tasks.create_task(self._follow(copy))

    async def wait_synced(self) -> None:
        """Wait until every prefix has been listed once."""
        await self._synced.wait()

    @property
    def connected(self) -> bool:
        """Whether the copy is up to date, all prefixes being followed at this moment."""
        return all(copy.connected for copy in self._copies)

    @property
    def silent_since(self) -> float | None:
        """Since when the store does not answer, in Unix seconds; `None` while it does."""
        return self._silent_since

    @property
    def synced(self) -> bool:
        """Whether every prefix has been listed once."""
        return self._synced.is_set()

    @property
    def revision(self) -> int:
        """The newest revision that anything here stems from; 0 before the first listing. Other prefixes may be behind it: see `applied`."""
        return max((copy.applied for copy in self._copies), default=0)

    def applied(self, prefix: str) -> int:
        """The revision up to which all changes under `prefix` are in this copy. It moves with the changes of that prefix alone.

        A change under `prefix` with the `mod_revision` r is in force here once this is r or more: what acknowledging a drain needs.
        A least revision over all prefixes would be held back for ever by a quiet one.
        """
        return self._copy_of(prefix).applied

    def entry(self, key: str) -> Entry | None:
        """The entry as last seen, or `None`."""
        return self._copy_of(key).entries.get(key)

    def get(self, key: str, type_: type[V]) -> V | None:
        """The value as last seen; `None` if there is none, or none that can be read as a `type_`."""
        entry = self.entry(key)
        return None if entry is None else self._decode(entry, type_)

    def values(self, prefix: str, type_: type[V]) -> dict[str, V]:
        """Key → value of all keys under `prefix`, by key. Those that cannot be read as a `type_` are left out and logged once."""
        entries = self._copy_of(prefix).entries
        found = {key: self._decode(entries[key], type_) for key in sorted(key for key in entries if key.startswith(prefix))}
        return {key: value for key, value in found.items() if value is not None}

    def subscribe(self) -> Changes:
        """Be told of changed keys from now on, for as long as the result is held."""
        changes = Changes()
        self._subscribers.add(changes)
        return changes

    def _copy_of(self, key: str) -> _Copy:
        for copy in self._copies:
            if key.startswith(copy.prefix):
                return copy
        raise ValueError(f"{key} is not mirrored here, only {', '.join(copy.prefix for copy in self._copies)}")

    async def _follow(self, copy: _Copy) -> NoReturn:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._follow_once(copy)
            except Compacted as error:
                self._logger.info("%s: %s", copy.prefix, error)
            except StoreUnavailable as error:
                copy.connected = False
                self._tell_gone(error)
                failures = failures + 1 if time.monotonic() - began < _LONGEST_PAUSE_S else 1
                await asyncio.sleep(pause_s(failures, random.random()))

    async def _follow_once(self, copy: _Copy) -> None:
        listing = await self._store.list(copy.prefix)
        self._apply(copy, copy.replace(listing))
        copy.connected = copy.listed = True
        if all(each.listed for each in self._copies):
            self._synced.set()
        self._tell_back()
        async with self._store.watch(copy.prefix, listing.revision) as batches:
            async for batch in batches:
                self._apply(copy, copy.update(batch))
        raise StoreUnavailable("the watch ended")

    def _tell_gone(self, error: StoreUnavailable) -> None:
        """Once per outage, and not for each prefix."""
        if self._silent_since is None:
            self._silent_since = time.time()
            going_on = "the store is gone, going on with what was last read" if self._synced.is_set() else "the store does not answer yet"
            self._logger.warning("%s: %s", going_on, error)

    def _tell_back(self) -> None:
        if self._silent_since is not None and self.connected:
            self._logger.info("the store answers again")
            self._silent_since = None

    def _apply(self, copy: _Copy, changed: set[str]) -> None:
        for key in changed - copy.entries.keys():
            self._decoded.pop(key, None)
        for subscriber in self._subscribers:
            subscriber.add(changed)

    def _decode(self, entry: Entry, type_: type[V]) -> V | None:
        known = self._decoded.get(entry.key)
        if known is None or known.mod_revision != entry.mod_revision or known.type_ is not type_:
            known = self._decoded[entry.key] = _Decoded(entry.mod_revision, type_, self._read(entry, type_))
        return known.value  # type: ignore[return-value]

    def _read(self, entry: Entry, type_: type[V]) -> V | None:
        try:
            return decode(type_, entry.value)
        except StoreError as error:
            self._logger.warning("%s (revision %d) is left out: %s", entry.key, entry.mod_revision, error)
            return None


@asynccontextmanager
async def following(store: Store, prefixes: Sequence[str], logger: logging.Logger) -> AsyncIterator[Mirror]:
    """A mirror that runs for as long as the context, and has been filled once."""
    mirror = Mirror(store, prefixes, logger)
    async with background(mirror.run()):
        await mirror.wait_synced()
        yield mirror


def pause_s(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row; `chance` (0–1) spreads those who failed together."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16)) * (0.5 + chance / 2)


class _Copy:
    """What is known of one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.entries: dict[str, Entry] = {}
        self.applied = 0
        self.listed = False
        self.connected = False

    def replace(self, listing: Listing) -> set[str]:
        """Take over a listing; return the keys that differ."""
        old, self.entries = self.entries, {entry.key: entry for entry in listing.entries}
        self.applied = listing.revision
        return {key for key in old.keys() | self.entries.keys() if old.get(key) != self.entries.get(key)}

    def update(self, batch: Batch) -> set[str]:
        """Take over a batch; return the keys it writes or deletes."""
        for event in batch.events:
            if event.entry is None:
                self.entries.pop(event.key, None)
            else:
                self.entries[event.key] = event.entry
        self.applied = batch.revision
        return {event.key for event in batch.events}


class _Decoded(msgspec.Struct, frozen=True):
    mod_revision: int
    type_: type[Value]
    value: Value | None
