"""Writing to the store what a node says of itself: only what changed, in as few transactions as that takes, again if it failed.

A transaction holds only while its keys stand as this node knows them. So one whose answer never came, and which lands late, cannot bring
back what a later one has replaced. And it holds only while the node's heartbeat does: whoever has lost that, or shares a name with another
node, notices with the next write.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from nebula_core.errors import LeaseLost, StoreError
from nebula_core.interfaces import MAX_OPERATIONS, Delete, Entry, Put, Store, Unchanged, Write
from nebula_core.node.standing import Standing
from nebula_core.store import keys
from nebula_core.store.codec import decode, encode
from nebula_core.types import NodeStatus, Value

Values = Mapping[str, Value | None]
"""Key → value; `None`: there shall be no such key."""
ATTEMPTS = 3
MOST_IN_DOUBT = 32
"""Far more than are on their way at once, of a store that reads well and fails at every write."""


class Publisher:
    """Knows how the node's keys stand. Not for two tasks at once."""

    def __init__(self, store: Store, node_id: str, logger: logging.Logger) -> None:
        self._store, self._node_id, self._logger = store, node_id, logger
        self._known: dict[str, Standing] = {}
        self._seen: dict[str, int] = {}
        """Revisions at which keys were seen to stand since the last report."""
        self._in_doubt: deque[bytes] = deque(maxlen=MOST_IN_DOUBT)
        """Heartbeats that may have been written, or may yet be: the store has not answered."""
        self._is_silent = False
        self._has_namesake = False

    def see(self, revisions: Mapping[str, int]) -> None:
        """Keys stand at these revisions (0: there is none). What is not as it was left here is read before the next report, and mended."""
        self._seen.update(revisions)

    async def publish(self, values: Values, leased: Values, lease: str) -> bool:
        """Bring the store to `values`, and to `leased` under `lease` if there is one; false if that could not be done now.

        What is leased is written first. What there is of one replica is never torn apart. Raises `LeaseLost` if that lease has ended.
        """
        wanted = {**(leased if lease else {}), **values}
        leases = dict.fromkeys(leased, lease) if lease else {}
        try:
            done = await self._bring(wanted, leases)
        except LeaseLost:
            raise
        except StoreError as error:
            if not self._is_silent:
                self._logger.warning("the store takes no reports from this node, its engines go on: %s", error)
            self._is_silent = True
            return False
        if self._is_silent:
            self._logger.info("the store takes reports from this node again")
        self._is_silent = False
        return done

    async def _bring(self, wanted: Values, leases: Mapping[str, str]) -> bool:
        for _ in range(ATTEMPTS):
            await self._read_unknown(wanted, leases)
            changed = self._changed(wanted, leases)
            if await self._write_all(changed, wanted, leases):
                return True
        return False

    async def _read_unknown(self, wanted: Values, leases: Mapping[str, str]) -> None:
        """With a lease its keys go as well: under a new one nothing is known of them."""
        seen, self._seen = self._seen, {}
        self._known = {key: known for key, known in self._known.items() if key in wanted}
        for key in wanted:
            known = self._known.get(key)
            if known is None or (known.lease != leases.get(key, "") and known.lease):
                self._known[key] = Standing.read(await self._store.get(key))
            elif known.is_doubtful(seen.get(key, known.revision)):
                entry = await self._store.get(key)
                if entry is None or entry.mod_revision != known.revision:
                    self._known[key] = Standing.read(entry)

    def _changed(self, wanted: Values, leases: Mapping[str, str]) -> list[str]:
        anothers = {keys.replica_of(key) for key in wanted if self._known[key].is_anothers(key, self._node_id, wanted[key])} - {None}
        differ = [key for key in wanted if not self._known[key].says(wanted[key], leases.get(key, ""))]
        for key in [key for key in wanted if keys.replica_of(key) in anothers]:
            del self._known[key]  # the other node goes on writing them
        return [key for key in differ if key in self._known]

    async def _write_all(self, changed: Sequence[str], wanted: Values, leases: Mapping[str, str]) -> bool:
        for batch in batches(changed, MAX_OPERATIONS - len(leases)):
            if not await self._transact([self._write(key, wanted[key], leases.get(key)) for key in batch], wanted, leases):
                return False
        return True

    def _write(self, key: str, value: Value | None, lease: str | None) -> Write:
        if value is None:
            return Delete(key)
        return Put(key, encode(value, over=None if lease else self._known[key].data), lease)

    async def _transact(self, writes: Sequence[Write], wanted: Values, leases: Mapping[str, str]) -> bool:
        """Whether all keys stood as known, and so were written."""
        held = {key: self._known[key] for key in leases}
        stood = {**held, **{write.key: self._known.pop(write.key) for write in writes}}  # nothing is known of what has no answer
        heartbeats = [write.value for write in writes if isinstance(write, Put) and write.lease]
        self._in_doubt.extend(heartbeats)
        revision = await self._store.transact(writes, [Unchanged(key, known.revision) for key, known in stood.items()])
        for _ in heartbeats:
            self._in_doubt.pop()
        if revision is None:
            await self._look_at_heartbeat(held, leases)
            return False
        if heartbeats:
            self._in_doubt.clear()  # what still came late would find the key changed
        for write in writes:
            self._known[write.key] = _written(write, revision, wanted[write.key])
        return True

    async def _look_at_heartbeat(self, held: Mapping[str, Standing], leases: Mapping[str, str]) -> None:
        """Something is not as it was known to be. If it is the heartbeat, and it is there, another process writes it."""
        for key, known in held.items():
            entry = await self._store.get(key)
            self._known[key] = known if entry is not None and entry.mod_revision == known.revision else Standing.read(entry)
            if entry is not None and known.lease == leases[key] and entry.mod_revision != known.revision:
                self._say_namesake(entry)

    def _say_namesake(self, entry: Entry) -> None:
        if entry.value in self._in_doubt or self._has_namesake:
            return
        self._has_namesake = True
        try:
            other = decode(NodeStatus, entry.value)
            where = f"the other runs on the host {other.hostname or '?'}, at {other.address}"
        except StoreError:
            where = "the other cannot be read"
        self._logger.error('two nodes are called "%s": %s; give one of them another name, `[node] name`', self._node_id, where)


def batches(changed: Sequence[str], size: int) -> Iterator[list[str]]:
    """The keys in batches of at most `size`; those of one replica, which follow each other, stay together."""
    batch: list[str] = []
    for _, group in groupby(changed, lambda key: keys.replica_of(key) or key):
        together = list(group)
        if len(batch) + len(together) > size:
            yield batch
            batch = []
        batch += together
    if batch:
        yield batch


def _written(write: Write, revision: int, value: Value | None) -> Standing:
    if isinstance(write, Delete):
        return Standing(0)
    return Standing(revision, write.value, value, write.lease or "")
