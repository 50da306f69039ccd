"""What a pass of the scheduler looks at, what it remembers and what it decides: plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import inf

from nebula_core.interfaces import Needs
from nebula_core.types import READY, RUN, Assignment, EndpointInfo, ModelStatus, NodeRequest, NodeStatus, PlacementPlan, ReplicaSpec

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
    node_requests: Mapping[str, NodeRequest] = field(default_factory=dict)
    """What operators ask of nodes, whether these are up or not."""
    endpoints: Mapping[Replica, EndpointInfo] = field(default_factory=dict)

    def endpoint_of(self, assignment: Assignment) -> EndpointInfo | None:
        """What was last said of a replica, be it of an earlier version of its assignment."""
        return self.endpoints.get((assignment.spec.model_uid, assignment.replica_id))

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
    lost_at: Mapping[str, float] = field(default_factory=dict)
    """When a missing node is lost, in monotonic seconds."""
    lose_from: float = -inf
    """No node is lost before, in monotonic seconds: a new leader gives all of them the time to be heard of."""

    def next_after(self, now: float) -> float | None:
        """When the next pass is due for something remembered; `None`: nothing is."""
        return min((at for at in chain(self.leave_at.values(), self.lost_at.values()) if at > now), default=None)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What has to be written, by model; `None` deletes. What stays as it is does not appear."""

    plans: Mapping[str, PlacementPlan | None]
    statuses: Mapping[str, ModelStatus | None]
    memory: Memory
    faults: tuple[str, ...] = ()
    """What was wrong with plans that somebody else has written to, and was left out of them."""


def draining(plans: Mapping[str, PlacementPlan]) -> Iterator[Replica]:
    """All replicas that are to end."""
    return ((uid, a.replica_id) for uid, plan in plans.items() for a in plan.assignments if a.wanted != RUN)
