"""Which scheduler leads: the one whose name stands at `/leader/scheduler`, under its lease. The others wait for that key to go."""

from __future__ import annotations

from nebula_core.errors import StoreUnavailable
from nebula_core.interfaces import Put, Store, Unchanged
from nebula_core.store import keys

KEY = keys.SCHEDULER_LEADER


async def win(store: Store, lease: str, name: str) -> int:
    """Wait until this process leads; return the leader key's revision. Whatever the leader writes must be conditional on it.

    `name` must be of this lease alone: it tells that an attempt whose answer was lost had won after all. Raises `StoreError`.
    """
    while True:
        won = await store.transact([Put(KEY, name.encode(), lease)], [Unchanged(KEY, 0)])
        if won is not None:
            return won
        listing = await store.list(KEY)
        leader = next((entry for entry in listing.entries if entry.key == KEY), None)
        if leader is not None and leader.value == name.encode():
            return leader.mod_revision
        if leader is not None:
            await _wait_gone(store, listing.revision)


async def leads(store: Store, revision: int) -> bool:
    """Whether the leader key is still the one of that revision."""
    leader = await store.get(KEY)
    return leader is not None and leader.mod_revision == revision


async def _wait_gone(store: Store, after: int) -> None:
    async with store.watch(KEY, after) as batches:
        async for batch in batches:
            if any(event.key == KEY and event.entry is None for event in batch.events):
                return
    raise StoreUnavailable("the watch of the leader key ended")
