"""Who says how many replicas there shall be: the production code with one of its policies, or something to compare it with."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from nebula_core import EndpointStats, ModelRequest, ScalingPolicy
from nebula_core.scheduler.autoscale import Limits
from nebula_core.scheduler.autoscaler import Autoscaler
from nebula_core.scheduler.demand import Load
from nebula_core.scheduler.world import Observed
from nebula_core.types import (
    READY,
    STARTING,
    Assignment,
    EndpointInfo,
    GatewayStatus,
    NodeStatus,
    PlacementPlan,
    ReplicaSpec,
    Scaling,
    Traffic,
)
from nebula_simulate.scaling.sight import Seen, Sight

UID, NODE = "model", "node"
SPEC = ReplicaSpec(model_uid=UID, engine="sim")


@dataclass(frozen=True)
class Bounds:
    """What an operator allows."""

    least: int = 1
    most: int = 16

    def clamp(self, number: int) -> int:
        """The nearest number that is allowed."""
        return min(max(number, self.least), self.most)


class Decider(ABC):
    """One per run: it may remember."""

    every_s: float = 10.0
    """How often it is asked."""

    @abstractmethod
    def wanted(self, sight: Sight, now: float) -> int:
        """How many replicas there shall be from now on."""


@dataclass
class Production(Decider):
    """`Autoscaler`, as the leading scheduler asks it: the policy proposes, bounds, steps and pauses are the core's."""

    name: str
    policy: ScalingPolicy
    bounds: Bounds
    start: int
    first_token_s: float
    limits: Limits = field(default_factory=Limits)
    every_s: float = 10.0

    def __post_init__(self) -> None:
        self._request = ModelRequest(
            model_uid=UID,
            engine="sim",
            replicas=self.start,
            min_replicas=self.bounds.least,
            max_replicas=self.bounds.most,
            first_token_target_s=self.first_token_s,
        )
        logger = logging.getLogger("nebula.simulate.scaling")
        self._autoscaler = Autoscaler({self.name: self.policy}, self.name, self.limits, self.every_s, logger)
        self.account: Scaling | None = None
        """The last decision: its reason and what it was made from."""

    def wanted(self, sight: Sight, now: float) -> int:
        """What the autoscaler's account says."""
        self.account = self._autoscaler.look({UID: self._request}, _observed(sight), _load(sight), now)[UID]
        return self.account.replicas


def _observed(sight: Sight) -> Observed:
    plan = tuple(
        Assignment(replica_id=each.replica_id, node_id=NODE, spec=SPEC, assignment_version=each.version) for each in sight.replicas
    )
    return Observed(
        plans={UID: PlacementPlan(model_uid=UID, plan_version=1, assignments=plan)} if plan else {},
        nodes={NODE: NodeStatus(node_id=NODE, address="127.0.0.1")},
        endpoints={(UID, each.replica_id): _endpoint(each) for each in sight.replicas},
    )


def _endpoint(seen: Seen) -> EndpointInfo:
    return EndpointInfo(
        model_uid=UID, replica_id=seen.replica_id, node_id=NODE, assignment_version=seen.version, incarnation=1, engine="sim",
        state=READY if seen.ready else STARTING,
    )  # fmt: skip


def _load(sight: Sight) -> Load:
    traffic = Traffic(arrivals_per_s=sight.arrivals_per_s, waiting=sight.waiting, first_token_s=sight.first_token_s)
    gateway = GatewayStatus(gateway_id="gateway", address="", demand={UID: sight.in_flight}, traffic={UID: traffic})
    return Load(stats={(UID, each.replica_id): _stats(each) for each in sight.ready}, gateways=(gateway,))


def _stats(seen: Seen) -> EndpointStats:
    return EndpointStats(
        pending=float(seen.pending), running=float(seen.running), kv_cache_usage=seen.usage, generated_tokens_total=float(seen.generated),
        incarnation=1,
    )  # fmt: skip
