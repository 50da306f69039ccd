"""What a pass of the scheduler looks at, what it remembers and what it decides: plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nebula_core.interfaces import Needs
from nebula_core.types import READY, RUN, Assignment, EndpointInfo, ModelStatus, NodeStatus, PlacementPlan, ReplicaSpec

Replica = tuple[str, str]
"""`(model_uid, replica_id)`."""


@dataclass(frozen=True)
class Refusal:
    """A model request that cannot be followed: its plan stays as it is."""

    wanted: int
    reason: str


@dataclass(frozen=True)
class Wanted:
    """The replicas that a model request comes to."""

    specs: tuple[ReplicaSpec, ...] = ()
    needs: Needs = field(default_factory=Needs)


Goal = Wanted | Refusal
"""What a model request comes to. A model without a goal is being unloaded."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The store as it stands."""

    plans: Mapping[str, PlacementPlan] = field(default_factory=dict)
    statuses: Mapping[str, ModelStatus] = field(default_factory=dict)
    nodes: Mapping[str, NodeStatus] = field(default_factory=dict)
    """Those that are up."""
    endpoints: Mapping[Replica, EndpointInfo] = field(default_factory=dict)

    def serves(self, assignment: Assignment) -> bool:
        """Whether this very assignment was ready when its node was last heard of; it is routed to even if that is long ago."""
        endpoint = self.endpoints.get((assignment.spec.model_uid, assignment.replica_id))
        return endpoint is not None and endpoint.state == READY and endpoint.assignment_version == assignment.assignment_version

    def ready(self, assignment: Assignment) -> bool:
        """Whether it serves, on a node that is up."""
        return assignment.node_id in self.nodes and self.serves(assignment)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the leader keeps between passes. A new leader may begin with an empty one."""

    leave_at: Mapping[Replica, float] = field(default_factory=dict)
    """When a draining replica may leave its plan, in monotonic seconds, provided that it has no endpoint then."""

    def next_after(self, now: float) -> float | None:
        """When the next pass is due for something remembered; `None`: nothing is."""
        return min((at for at in self.leave_at.values() if at > now), default=None)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What has to be written, by model; `None` deletes. What stays as it is does not appear."""

    plans: Mapping[str, PlacementPlan | None]
    statuses: Mapping[str, ModelStatus | None]
    memory: Memory


def draining(plans: Mapping[str, PlacementPlan]) -> Iterator[Replica]:
    """All replicas that are to end."""
    return ((uid, a.replica_id) for uid, plan in plans.items() for a in plan.assignments if a.wanted != RUN)
