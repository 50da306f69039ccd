"""`Store`: the control plane's state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """A key as it stands. Revisions count the store's writes, all keys together."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    leased: bool = False


class Listing(msgspec.Struct, frozen=True):
    """All entries under a prefix, by key, as they stood at `revision`."""

    entries: tuple[Entry, ...]
    revision: int


class Event(msgspec.Struct, frozen=True):
    """A key was written (`entry` set) or is gone (`entry` is `None`)."""

    key: str
    entry: Entry | None


class Batch(msgspec.Struct, frozen=True):
    """All events of a watch up to and including `revision`; a transaction is never torn apart."""

    revision: int
    events: tuple[Event, ...]


class Put(msgspec.Struct, frozen=True):
    """Write a key, under a lease if one is given."""

    key: str
    value: bytes
    lease: str | None = None


class Delete(msgspec.Struct, frozen=True):
    """Delete a key; no error if it is not there."""

    key: str


class Unchanged(msgspec.Struct, frozen=True):
    """Holds while the key's `mod_revision` is this; 0: while the key does not exist."""

    key: str
    mod_revision: int


Write = Put | Delete

MAX_OPERATIONS = 100
"""A transaction has at most so many writes, and at most so many conditions: etcd as it comes refuses more than 128 of either."""


def check_transaction(writes: Sequence[Write], conditions: Sequence[Unchanged]) -> None:
    """Raise `ValueError` for what no store accepts, be it that of one machine or of a fleet."""
    keys = [write.key for write in writes]
    for count, what in ((len(keys), "writes"), (len(conditions), "conditions")):
        if count > MAX_OPERATIONS:
            raise ValueError(f"a transaction of {count} {what}: {MAX_OPERATIONS} are allowed")
    if not all(key.encode() for key in keys):  # raises a ValueError, too, for text that no file can hold
        raise ValueError("a key may not be empty")
    if len(set(keys)) < len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"written twice in one transaction: {', '.join(twice)}")


class Store(ABC):
    """The control plane's state: keys with values, revisions, leases, watches and transactions over several keys.

    Every method may raise `StoreUnavailable`. An object is opened and closed as an async context manager by whoever composes.
    """

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    @abstractmethod
    async def get(self, key: str) -> Entry | None:
        """The entry, or `None`."""

    @abstractmethod
    async def list(self, prefix: str) -> Listing:
        """All entries whose key begins with `prefix`, and the revision this is true at."""

    @abstractmethod
    async def transact(self, writes: Sequence[Write], conditions: Sequence[Unchanged] = ()) -> int | None:
        """Apply all writes as one revision if all conditions hold, and return it; else change nothing and return `None`.

        Raises `ValueError` for what `check_transaction` refuses: more than `MAX_OPERATIONS` writes or conditions, or a key written
        twice. Raises `LeaseLost` if a lease it writes under has ended.
        """

    @abstractmethod
    def watch(self, prefix: str, after: int) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Everything that happens under `prefix` after revision `after`, in order, nothing left out.

        The iterator raises `Compacted` if that history is no longer kept, `StoreUnavailable` if the connection is lost.
        """

    @abstractmethod
    async def grant(self, ttl_s: float) -> str:
        """A new lease, which ends unless it is kept alive every `ttl_s` seconds; its keys are deleted with it."""

    @abstractmethod
    async def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew. Raises `LeaseLost` if it has ended."""

    @abstractmethod
    async def revoke(self, lease: str) -> None:
        """End the lease and delete its keys; no error if it has ended."""

    async def compact(self) -> None:
        """Forget history that is older than what the store promises its watches. The leading scheduler calls this every now and then."""
        return
