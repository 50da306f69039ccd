"""The scheduler's loop: reads the mirror, has `reconcile` decide, and writes what changed while it leads."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NoReturn

from nebula_core.errors import Compacted, LeaseLost, StoreUnavailable
from nebula_core.interfaces import Delete, Engine, Placement, Put, ScalingPolicy, Store, Unchanged, Write
from nebula_core.metrics import Metrics
from nebula_core.scheduler import election
from nebula_core.scheduler.autoscale import Limits
from nebula_core.scheduler.autoscaler import Autoscaler
from nebula_core.scheduler.careful import Careful
from nebula_core.scheduler.causes import is_cause
from nebula_core.scheduler.demand import Load
from nebula_core.scheduler.goals import Goals
from nebula_core.scheduler.outage import Outage
from nebula_core.scheduler.reconcile import Rules, reconcile
from nebula_core.scheduler.world import Decisions, Memory, Observed
from nebula_core.settings import SchedulerSettings, Settings
from nebula_core.store import codec, keys
from nebula_core.store.lease import RENEWALS, LeaseKeeper
from nebula_core.store.mirror import Changes, Mirror
from nebula_core.types import (
    DRAIN,
    EndpointInfo,
    EndpointStats,
    GatewayStatus,
    ModelRequest,
    ModelStatus,
    NodeRequest,
    NodeStatus,
    PlacementPlan,
    Value,
)

PREFIXES = (keys.MODEL_REQUESTS, keys.NODE_REQUESTS, keys.PLACEMENTS, keys.STATUS, keys.NODES, keys.ENDPOINTS, keys.STATS, keys.GATEWAYS)
"""What a scheduler's mirror must follow."""
DEBOUNCE_S = 0.02
"""A burst of changes becomes one pass."""
RETRY_S = 1.0


class SchedulerLoop:
    """Turns model requests into plans for as long as it runs and leads.

    `clock` gives monotonic seconds; `placement` chooses places, the first that fits if it is `None`; `scalers` are the policies that are
    installed, by name, of which `scaler` serves the models that name none.
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
        scalers: Mapping[str, ScalingPolicy] = MappingProxyType({}),
        scaler: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._store, self._mirror, self._logger, self._clock = store, mirror, logger, clock
        self._lease_s = settings.store.lease_s
        self._reconcile_s = settings.scheduler.reconcile_s
        self._rules = Rules(
            placement=Careful(placement, logger) if placement else None,
            gpu_memory_margin=settings.scheduler.gpu_memory_margin,
            lost_after_s=max(settings.scheduler.lost_after_s, self._lease_s / RENEWALS),
        )
        self._goals = Goals(mirror, engines, logger)
        self._scalers, self._scaler, self._scheduling = scalers, scaler, settings.scheduler
        self._changes = mirror.subscribe()
        self._decided_by: Mapping[str, NodeStatus] = {}
        """The nodes as the last pass saw them, by key."""
        self._outage = Outage(logger)
        self._election = election.Election(store, logger, clock, self._outage)
        self._leading = (
            (metrics or Metrics()).gauge("nebula_scheduler_leading", "1 while this process is the scheduler that leads.").labels()
        )

    async def run(self) -> NoReturn:
        """Lead or stand by, until cancelled. While the store is gone nothing is decided."""
        await self._mirror.wait_synced()
        async with LeaseKeeper(self._store, self._lease_s, self._logger) as keeper:
            await self._campaign(keeper)

    async def _campaign(self, keeper: LeaseKeeper) -> NoReturn:
        while True:
            lease = keeper.lease
            try:
                revision = await self._election.win(lease, f"{socket.gethostname()}:{os.getpid()}:{lease}")
                self._logger.info("this scheduler leads")
                with self._counted_as_leading():
                    await self._lead(keeper, lease, revision)
                self._logger.warning("this scheduler leads no more")
            except LeaseLost:
                await keeper.replaced(lease)
            except Compacted:
                continue  # the leader key was watched for longer than its history is kept: look again
            except StoreUnavailable as error:
                self._outage.note(error)
                await asyncio.sleep(RETRY_S)

    @contextmanager
    def _counted_as_leading(self) -> Iterator[None]:
        self._leading.set(1)
        try:
            yield
        finally:
            self._leading.set(0)

    async def _lead(self, keeper: LeaseKeeper, lease: str, revision: int) -> None:
        """Decide again and again; returns when another one leads."""
        memory = Memory(lose_from=self._clock() + self._lease_s)
        autoscaler = Autoscaler(self._scalers, self._scaler, _limits(self._scheduling), self._scheduling.scale_s, self._logger)
        while keeper.lease == lease:
            decisions = self._decide(memory, autoscaler)
            for fault in decisions.faults:
                self._logger.warning("%s", fault)
            if not await self._write(decisions, revision) and not await election.leads(self._store, revision):
                return
            memory = decisions.memory
            await self._store.compact()
            self._outage.end()
            await self._wait(self._changes, memory, autoscaler)

    async def _wait(self, changes: Changes, memory: Memory, autoscaler: Autoscaler) -> None:
        """Until something changes that decisions go by, or is due."""
        now = self._clock()
        dues = [due for due in (memory.next_after(now), autoscaler.next_due()) if due is not None]
        until = min([now + self._reconcile_s, *dues])
        while (left := until - self._clock()) > 0:
            changed = await changes.wait(left)
            if self._is_cause(changed, autoscaler):
                await asyncio.sleep(DEBOUNCE_S)
                await changes.wait(0)
                return

    def _is_cause(self, changed: set[str], autoscaler: Autoscaler) -> bool:
        if any(key.startswith(keys.GATEWAYS) for key in changed) and autoscaler.is_called(Load(gateways=_gateways(self._mirror))):
            return True
        return is_cause(changed, self._decided_by, self._mirror.values(keys.NODES, NodeStatus))

    def _decide(self, memory: Memory, autoscaler: Autoscaler) -> Decisions:
        self._decided_by = self._mirror.values(keys.NODES, NodeStatus)
        observed, now = _observe(self._mirror, self._decided_by.values()), self._clock()
        requests = keys.by_model(self._mirror.values(keys.MODEL_REQUESTS, ModelRequest))
        load = _load(self._mirror) if self._mirror.connected else None
        scalings = autoscaler.look(requests, observed, load, now)
        goals = self._goals.now(requests, {uid: scaling.replicas for uid, scaling in scalings.items()}, observed)
        return reconcile(goals, observed, memory, now, self._rules, scalings)

    async def _write(self, decisions: Decisions, leader_revision: int) -> bool:
        """Write model by model; False if somebody else wrote meanwhile. A copy that lags behind is such a case, and soon mended."""
        changed = sorted({*decisions.plans, *decisions.statuses})
        prepared = {uid: self._prepare(uid, decisions) for uid in changed}  # all at once, before the mirror moves on
        before = {uid: self._mirror.get(keys.status(uid), ModelStatus) for uid in changed}
        all_written = True
        for uid, (writes, unchanged) in prepared.items():
            if await self._store.transact(writes, [unchanged, Unchanged(election.KEY, leader_revision)]) is None:
                all_written = False
            else:
                self._log(uid, decisions, before[uid])
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

    def _log(self, uid: str, decisions: Decisions, before: ModelStatus | None) -> None:
        plan, status = decisions.plans.get(uid), decisions.statuses.get(uid)
        scaling, last = status.scaling if status else None, before.scaling if before else None
        if scaling is not None and last is not None and scaling.replicas != last.replicas:
            self._logger.info("%s: %d → %d replicas: %s", uid, last.replicas, scaling.replicas, scaling.changed_why)
        if plan is not None:
            told = (f"{a.replica_id} on {a.node_id}{' (drains)' if a.wanted == DRAIN else ''}" for a in plan.assignments)
            self._logger.info("%s: plan %d: %s", uid, plan.plan_version, ", ".join(told) or "no replicas")
        elif uid in decisions.plans:
            self._logger.info("%s: all replicas are gone", uid)
        known = before.reasons if before and plan is None else ()
        for reason in status.reasons if status and status.reasons != known else ():
            self._logger.warning("%s: %s", uid, reason)


def _observe(mirror: Mirror, nodes: Iterable[NodeStatus]) -> Observed:
    return Observed(
        plans=keys.by_model(mirror.values(keys.PLACEMENTS, PlacementPlan)),
        statuses=keys.by_model(mirror.values(keys.STATUS, ModelStatus)),
        nodes={node.node_id: node for node in nodes},
        node_requests=keys.by_node(mirror.values(keys.NODE_REQUESTS, NodeRequest)),
        endpoints=keys.by_replica(mirror.values(keys.ENDPOINTS, EndpointInfo)),
    )


def _load(mirror: Mirror) -> Load:
    return Load(stats=keys.by_replica(mirror.values(keys.STATS, EndpointStats)), gateways=_gateways(mirror))


def _gateways(mirror: Mirror) -> tuple[GatewayStatus, ...]:
    return tuple(mirror.values(keys.GATEWAYS, GatewayStatus).values())


def _limits(settings: SchedulerSettings) -> Limits:
    return Limits(
        up_step=settings.scale_up_step,
        up_pause_s=settings.scale_up_pause_s,
        down_step=settings.scale_down_step,
        down_pause_s=settings.scale_down_pause_s,
    )
