"""The scheduler's loop: reads the mirror, has `reconcile` decide, and writes what changed while it leads."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import NoReturn

from nebula_core.errors import Compacted, LeaseLost, StoreUnavailable
from nebula_core.interfaces import Delete, Engine, Placement, Put, Store, Unchanged, Write
from nebula_core.scheduler import election
from nebula_core.scheduler.careful import Careful
from nebula_core.scheduler.goals import Goals
from nebula_core.scheduler.reconcile import Rules, reconcile
from nebula_core.scheduler.world import Decisions, Memory, Observed
from nebula_core.settings import Settings
from nebula_core.store import codec, keys
from nebula_core.store.lease import LeaseKeeper
from nebula_core.store.mirror import Changes, Mirror
from nebula_core.types import DRAIN, EndpointInfo, ModelStatus, NodeStatus, PlacementPlan, Value

PREFIXES = (keys.MODEL_REQUESTS, keys.PLACEMENTS, keys.STATUS, keys.NODES, keys.ENDPOINTS)
"""What a scheduler's mirror must follow."""
DEBOUNCE_S = 0.02
"""A burst of changes becomes one pass."""
RETRY_S = 1.0


class SchedulerLoop:
    """Turns model requests into plans for as long as it runs and leads.

    `clock` gives monotonic seconds; `placement` chooses places, the first that fits if it is `None`.
    """

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        engines: Mapping[str, Engine],
        settings: Settings,
        logger: logging.Logger,
        clock: Callable[[], float],
        placement: Placement | None = None,
    ) -> None:
        self._store, self._mirror, self._logger, self._clock = store, mirror, logger, clock
        self._lease_s = settings.store.lease_s
        self._reconcile_s = settings.scheduler.reconcile_s
        self._rules = Rules(
            placement=Careful(placement, logger) if placement else None, gpu_memory_margin=settings.scheduler.gpu_memory_margin
        )
        self._goals = Goals(mirror, engines, logger)
        self._changes = mirror.subscribe()

    async def run(self) -> NoReturn:
        """Lead or stand by, until cancelled. While the store is gone nothing is decided."""
        await self._mirror.wait_synced()
        async with LeaseKeeper(self._store, self._lease_s, self._logger) as keeper:
            await self._campaign(keeper)

    async def _campaign(self, keeper: LeaseKeeper) -> NoReturn:
        while True:
            lease = keeper.lease
            try:
                revision = await election.win(self._store, lease, f"{socket.gethostname()}:{os.getpid()}:{lease}")
                self._logger.info("this scheduler leads")
                await self._lead(keeper, lease, revision)
                self._logger.warning("this scheduler leads no more")
            except LeaseLost:
                await keeper.replaced(lease)
            except Compacted:
                continue  # the leader key was watched for longer than its history is kept: look again
            except StoreUnavailable as error:
                await self._rest(error)

    async def _rest(self, error: StoreUnavailable) -> None:
        self._logger.warning("the scheduler decides nothing until the store answers: %s", error)
        await asyncio.sleep(RETRY_S)

    async def _lead(self, keeper: LeaseKeeper, lease: str, revision: int) -> None:
        """Decide again and again; returns when another one leads."""
        memory = Memory()
        while keeper.lease == lease:
            decisions = self._decide(memory)
            if not await self._write(decisions, revision) and not await election.leads(self._store, revision):
                return
            memory = decisions.memory
            await self._store.compact()
            await self._wait(self._changes, memory)

    async def _wait(self, changes: Changes, memory: Memory) -> None:
        now = self._clock()
        due = memory.next_after(now)
        if await changes.wait(self._reconcile_s if due is None else min(self._reconcile_s, due - now)):
            await asyncio.sleep(DEBOUNCE_S)
            await changes.wait(0)

    def _decide(self, memory: Memory) -> Decisions:
        observed = _observe(self._mirror)
        return reconcile(self._goals.now(observed), observed, memory, self._clock(), self._rules)

    async def _write(self, decisions: Decisions, leader_revision: int) -> bool:
        """Write model by model; False if somebody else wrote meanwhile. A copy that lags behind is such a case, and soon mended."""
        changed = sorted({*decisions.plans, *decisions.statuses})
        prepared = {uid: self._prepare(uid, decisions) for uid in changed}  # all at once, before the mirror moves on
        all_written = True
        for uid, (writes, unchanged) in prepared.items():
            if await self._store.transact(writes, [unchanged, Unchanged(election.KEY, leader_revision)]) is None:
                all_written = False
            else:
                self._log(uid, decisions)
        return all_written

    def _prepare(self, uid: str, decisions: Decisions) -> tuple[list[Write], Unchanged]:
        plan_key, status_key = keys.placement(uid), keys.status(uid)
        writes = []
        if uid in decisions.plans:
            writes.append(self._write_of(plan_key, decisions.plans[uid]))
        if uid in decisions.statuses:
            writes.append(self._write_of(status_key, decisions.statuses[uid]))
        seen = self._mirror.entry(plan_key)
        return writes, Unchanged(plan_key, seen.mod_revision if seen else 0)

    def _write_of(self, key: str, value: Value | None) -> Write:
        seen = self._mirror.entry(key)
        return Delete(key) if value is None else Put(key, codec.encode(value, over=seen.value if seen else None))

    def _log(self, uid: str, decisions: Decisions) -> None:
        plan, status = decisions.plans.get(uid), decisions.statuses.get(uid)
        if plan is not None:
            told = (f"{a.replica_id} on {a.node_id}{' (drains)' if a.wanted == DRAIN else ''}" for a in plan.assignments)
            self._logger.info("%s: plan %d: %s", uid, plan.plan_version, ", ".join(told) or "no replicas")
        elif uid in decisions.plans:
            self._logger.info("%s: all replicas are gone", uid)
        for reason in status.reasons if status else ():
            self._logger.warning("%s: %s", uid, reason)


def _observe(mirror: Mirror) -> Observed:
    return Observed(
        plans=keys.by_model(mirror.values(keys.PLACEMENTS, PlacementPlan)),
        statuses=keys.by_model(mirror.values(keys.STATUS, ModelStatus)),
        nodes={node.node_id: node for node in mirror.values(keys.NODES, NodeStatus).values()},
        endpoints=keys.by_replica(mirror.values(keys.ENDPOINTS, EndpointInfo)),
    )
