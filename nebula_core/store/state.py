"""The embedded store's contents in memory, and what a transaction makes of them. No I/O; the clock is handed in.

The `plan` methods decide without changing anything, `apply` changes: between them lies the disk, which may refuse.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nebula_core.errors import LeaseLost
from nebula_core.interfaces import Batch, Delete, Entry, Event, Listing, Put, Unchanged, Write


@dataclass
class Lease:
    """A lease that has not ended."""

    ttl_s: float
    ends: float
    """Monotonic seconds."""
    keys: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Change:
    """A decided transaction: its events, the lease of each key put under one, and the lease that ends with it."""

    batch: Batch
    leases: Mapping[str, str] = field(default_factory=dict)
    ends: str | None = None


class State:
    """All keys and leases at one revision."""

    def __init__(self, entries: Iterable[Entry], revision: int) -> None:
        self.revision = revision
        self._entries = {entry.key: entry for entry in entries}
        self._keys = sorted(self._entries)
        self._leases: dict[str, Lease] = {}
        self._lease_of: dict[str, str] = {}

    def get(self, key: str) -> Entry | None:
        """The entry, or `None`."""
        return self._entries.get(key)

    def listing(self, prefix: str) -> Listing:
        """All entries whose key begins with `prefix`, by key."""
        found = []
        for index in range(bisect_left(self._keys, prefix), len(self._keys)):
            if not self._keys[index].startswith(prefix):
                break
            found.append(self._entries[self._keys[index]])
        return Listing(tuple(found), self.revision)

    def plan(self, writes: Sequence[Write], conditions: Sequence[Unchanged]) -> Change | None:
        """What `writes` would change, `None` if a condition does not hold. Raises `LeaseLost`."""
        if not all(self._holds(condition) for condition in conditions):
            return None
        events = [self._put(write) if isinstance(write, Put) else Event(write.key, None) for write in writes if self._matters(write)]
        leases = {write.key: write.lease for write in writes if isinstance(write, Put) and write.lease is not None}
        return Change(Batch(self.revision + 1, tuple(events)), leases)

    def plan_end(self, lease: str) -> Change:
        """What the end of a lease would change; nothing if it has ended."""
        keys = sorted(self._leases[lease].keys) if lease in self._leases else []
        return Change(Batch(self.revision + 1, tuple(Event(key, None) for key in keys)), ends=lease)

    def plan_expiry(self, lease: str, now: float) -> Change | None:
        """What the end of a lease would change, `None` if its time is not over."""
        return self.plan_end(lease) if lease in self.due(now) else None

    def apply(self, change: Change) -> None:
        """Make a planned change."""
        for event in change.batch.events:
            self._detach(event.key)
            if event.entry is None:
                self._remove(event.key)
            else:
                self._set(event.entry, change.leases.get(event.key))
        if change.batch.events:
            self.revision = change.batch.revision
        if change.ends is not None:
            self._leases.pop(change.ends, None)

    def grant(self, ttl_s: float, now: float) -> str:
        """A new lease. Its name is random, so that one from before a restart is never mistaken for a new one."""
        lease = secrets.token_hex(8)
        self._leases[lease] = Lease(ttl_s, now + ttl_s)
        return lease

    def keep_alive(self, lease: str, now: float) -> None:
        """Start the lease's time anew. Raises `LeaseLost` if it has ended."""
        held = self._lease(lease)
        held.ends = now + held.ttl_s

    def due(self, now: float) -> list[str]:
        """Leases whose time is over."""
        return [name for name, lease in self._leases.items() if lease.ends <= now]

    def extend(self, seconds: float) -> None:
        """Give every lease more time."""
        for lease in self._leases.values():
            lease.ends += seconds

    def _lease(self, lease: str) -> Lease:
        held = self._leases.get(lease)
        if held is None:
            raise LeaseLost(f"the lease {lease} has ended; keys written under it are gone")
        return held

    def _holds(self, condition: Unchanged) -> bool:
        entry = self._entries.get(condition.key)
        return (entry.mod_revision if entry else 0) == condition.mod_revision

    def _matters(self, write: Write) -> bool:
        return not isinstance(write, Delete) or write.key in self._entries

    def _put(self, write: Put) -> Event:
        if write.lease is not None:
            self._lease(write.lease)
        revision = self.revision + 1
        old = self._entries.get(write.key)
        created = old.create_revision if old else revision
        return Event(write.key, Entry(write.key, write.value, created, revision, write.lease is not None))

    def _set(self, entry: Entry, lease: str | None) -> None:
        if entry.key not in self._entries:
            insort(self._keys, entry.key)
        self._entries[entry.key] = entry
        if lease is not None:
            self._lease_of[entry.key] = lease
            self._leases[lease].keys.add(entry.key)

    def _remove(self, key: str) -> None:
        del self._entries[key]
        del self._keys[bisect_left(self._keys, key)]

    def _detach(self, key: str) -> None:
        lease = self._lease_of.pop(key, None)
        if lease is not None:
            self._leases[lease].keys.discard(key)
