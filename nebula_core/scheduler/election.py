"""Which scheduler leads: the one whose name stands at `/leader/scheduler`, under its lease. The others wait for that key to go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nebula_core.background import background
from nebula_core.errors import StoreUnavailable
from nebula_core.interfaces import Entry, Put, Store, Unchanged
from nebula_core.scheduler.outage import Outage
from nebula_core.store import keys

KEY = keys.SCHEDULER_LEADER
REMIND_S = 30.0
"""How often an operator is told that nothing is scheduled."""


class Election:
    """One process's candidacy; `clock` gives monotonic seconds, and `outage` ends once the store has told who leads instead."""

    def __init__(self, store: Store, logger: logging.Logger, clock: Callable[[], float], outage: Outage) -> None:
        self._store, self._logger, self._clock, self._outage = store, logger, clock, outage
        self._stood_by_for = 0
        self._remind_at = clock()

    async def win(self, lease: str, name: str) -> int:
        """Wait until this process leads; return the leader key's revision. Whatever the leader writes must be conditional on it.

        `name` must be of this lease alone: it tells that an attempt whose answer was lost had won after all. Raises `StoreError`.
        """
        while True:
            won = await self._store.transact([Put(KEY, name.encode(), lease)], [Unchanged(KEY, 0)])
            if won is not None:
                return won
            listing = await self._store.list(KEY)
            leader = next((entry for entry in listing.entries if entry.key == KEY), None)
            if leader is None:
                continue
            if leader.leased and leader.value == name.encode():
                return leader.mod_revision
            await self._stand_by(leader, listing.revision)

    async def _stand_by(self, leader: Entry, after: int) -> None:
        """Wait until the leader key is another one, or gone."""
        self._outage.end()
        async with background(self._tell(leader)):
            await _wait_changed(self._store, after)

    async def _tell(self, leader: Entry) -> None:
        """Once whom this scheduler stands by for; again and again that nobody leads."""
        if leader.leased and leader.mod_revision != self._stood_by_for:
            self._stood_by_for = leader.mod_revision
            self._logger.info("this scheduler stands by for %s, which leads", name_in(leader))
        while not leader.leased:
            await asyncio.sleep(self._remind_at - self._clock())
            self._remind_at = self._clock() + REMIND_S
            self._logger.error(obstacle(leader))


async def leads(store: Store, revision: int) -> bool:
    """Whether the leader key is still the one of that revision."""
    leader = await store.get(KEY)
    return leader is not None and leader.mod_revision == revision


def name_in(leader: Entry) -> str:
    """The name that stands in the leader key."""
    return leader.value.decode(errors="replace")


def obstacle(leader: Entry) -> str:
    """Why no scheduler can lead while this is the leader key, and the way out; empty if it is a scheduler's own."""
    if leader.leased:
        return ""
    return (
        f"nothing is scheduled: the store's key {KEY} holds {name_in(leader)[:80]!r} without a lease, "
        "so that no scheduler wrote it and it never ends by itself; delete that key (in etcd the store's prefix stands before it)"
    )


async def _wait_changed(store: Store, after: int) -> None:
    async with store.watch(KEY, after) as batches:
        async for batch in batches:
            if any(event.key == KEY for event in batch.events):
                return
    raise StoreUnavailable("the watch of the leader key ended")
