"""What a model's load is: the store's values as the signals that scaling policies go by. What cannot be is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import msgspec

from nebula_core.interfaces import ReplicaSignals, ScalingSignals
from nebula_core.scheduler import boots
from nebula_core.scheduler.world import Observed, Replica
from nebula_core.types import RUN, Assignment, EndpointStats, GatewayStatus, ModelRequest, Scaling, Traffic

MOST_USAGE = 1.05
"""Engines round, and some count a block twice; what is above this is no share of a cache."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What engines and gateways say of their load."""

    stats: Mapping[Replica, EndpointStats] = field(default_factory=dict)
    gateways: Sequence[GatewayStatus] = ()
    """Those that are up."""

    def in_flight(self, uid: str) -> float | None:
        """Requests in flight or waiting at all gateways; `None`: there is no gateway to know."""
        return sum(max(0, gateway.demand.get(uid, 0)) for gateway in self.gateways) if self.gateways else None

    def is_called(self, uid: str) -> bool:
        """Whether requests wait for a replica; where a gateway does not tell what waits, whether there are any."""
        traffic = self.traffic(uid)
        return bool(self.in_flight(uid)) if traffic is None else any(each.waiting > 0 for each in traffic)

    def traffic(self, uid: str) -> tuple[Traffic, ...] | None:
        """What each gateway has seen of the model; `None`: one of them has not measured it, or there is none."""
        if not self.gateways or any(gateway.traffic is None for gateway in self.gateways):
            return None
        return tuple((gateway.traffic or {}).get(uid, Traffic(arrivals_per_s=0.0)) for gateway in self.gateways)


def signals(request: ModelRequest, observed: Observed, load: Load, account: Scaling, now: float) -> ScalingSignals:
    """What there is to go by; `account` is the model's, with its boots learned at `now`, in seconds of its own clock."""
    uid = request.model_uid
    traffic = load.traffic(uid)
    return ScalingSignals(
        model_uid=uid,
        wanted=account.replicas,
        replicas=tuple(_replica(uid, each, observed, load, account, now) for each in running(uid, observed)),
        in_flight=load.in_flight(uid),
        waiting=None if traffic is None else sum(max(0, each.waiting) for each in traffic),
        arrivals_per_s=_sum([each.arrivals_per_s for each in traffic]) if traffic is not None else None,
        first_token_s=max((value for each in traffic or () if (value := _known(each.first_token_s)) is not None), default=None),
        first_token_target_s=request.first_token_target_s,
        boot_s=account.boot_s,
        since_change_s=None if account.changed_at is None else now - account.changed_at,
    )


def running(uid: str, observed: Observed) -> list[Assignment]:
    """The model's assignments that are to run. Old ones that serve until their replacement is ready count, for they carry load."""
    plan = observed.plans.get(uid)
    return [each for each in plan.assignments if each.wanted == RUN] if plan else []


def _replica(uid: str, assignment: Assignment, observed: Observed, load: Load, account: Scaling, now: float) -> ReplicaSignals:
    ready = observed.ready(assignment)
    endpoint = observed.endpoints.get((uid, assignment.replica_id))
    stats = load.stats.get((uid, assignment.replica_id))
    is_of_this_run = endpoint is not None and stats is not None and stats.incarnation == endpoint.incarnation
    return ReplicaSignals(
        replica_id=assignment.replica_id,
        ready=ready,
        starting_s=None if ready else boots.starting_s(assignment, observed, account, now),
        stats=_plausible(stats) if ready and stats is not None and is_of_this_run else None,
    )


def _plausible(stats: EndpointStats) -> EndpointStats:
    """The same without what no engine can mean: nothing is scaled by a wrong number."""
    usage = _known(stats.kv_cache_usage)
    return msgspec.structs.replace(
        stats,
        pending=_known(stats.pending),
        running=_known(stats.running),
        kv_cache_usage=None if usage is None or usage > MOST_USAGE else min(1.0, usage),
    )


def _known(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) or value < 0 else value


def _sum(values: Sequence[float | None]) -> float | None:
    """Of values that are all known."""
    known = [value for each in values if (value := _known(each)) is not None]
    return sum(known) if len(known) == len(values) else None
