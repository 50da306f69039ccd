"""What a node has to do next: the plans and what it runs in, one action at most per replica out. No I/O.

Only a plan that speaks of a replica stops its engine: one that says `drain`, that wants it otherwise, or that has it on another node.
Where a plan is missing or does not list the replica, for whatever reason, nothing changes: what runs goes on, and is healed by what is
known of it. The scheduler gives each endpoint that no assignment stands for a draining one, so that nothing is left over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nebula_core.node.replica import Drain, Phase, Replica, ReplicaState
from nebula_core.types import DRAIN, RUN, Assignment, EndpointInfo, GatewayStatus


@dataclass(frozen=True)
class NodePlan:
    """The part of a model's plan that is this node's."""

    revision: int
    """The plan's `mod_revision`."""
    assignments: Mapping[str, Assignment]
    """By `replica_id`."""
    elsewhere: frozenset[str] = frozenset()
    """The `replica_id` of those that the plan has on other nodes."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What there is."""

    replicas: Mapping[Replica, ReplicaState] = field(default_factory=dict)
    """What this node runs, or tries to."""
    endpoints: Mapping[Replica, EndpointInfo] = field(default_factory=dict)
    """All that the store knows, also of other nodes."""
    gateways: Iterable[GatewayStatus] | None = ()
    """Those that are live; `None` while that is not known."""


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds."""

    start_timeout_s: float
    drain_deadline_s: float


@dataclass(frozen=True)
class Start:
    """Start an engine."""

    replica: Replica
    assignment: Assignment
    incarnation: int


@dataclass(frozen=True)
class BeginDrain:
    """Have gateways send nothing new."""

    replica: Replica
    revision: int


@dataclass(frozen=True)
class Resume:
    """A drain is called off."""

    replica: Replica


@dataclass(frozen=True)
class Stop:
    """End an engine: because a plan says so, or because it has failed and shall be started anew."""

    replica: Replica
    reason: str
    planned: bool


@dataclass(frozen=True)
class Forget:
    """Nothing runs and nothing shall: remove every trace from the store."""

    replica: Replica


Action = Start | BeginDrain | Resume | Stop | Forget


def reconcile(node_id: str, plans: Mapping[str, NodePlan], observed: Observed, limits: Limits, now: float) -> list[Action]:
    """The actions that bring this node to its plans. A model without an entry in `plans` has no plan that could be read."""
    planned = {(uid, replica_id) for uid, plan in plans.items() for replica_id in plan.assignments}
    stored = {replica for replica, endpoint in observed.endpoints.items() if endpoint.node_id == node_id}
    actions = []
    for replica in sorted(planned | stored | observed.replicas.keys()):
        action = _decide(replica, plans.get(replica[0]), replica in stored, observed, limits, now)
        if action is not None:
            actions.append(action)
    return actions


def unlisted(plans: Mapping[str, NodePlan], replicas: Iterable[Replica]) -> set[Replica]:
    """Those of `replicas` whose model has a plan that says nothing of them."""
    return {replica for replica in replicas if replica[0] in plans and not _is_listed(plans[replica[0]], replica)}


def next_start_s(replicas: Iterable[ReplicaState], now: float) -> float | None:
    """Seconds until the next start that is being waited for; `None`: there is none."""
    return min((max(0.0, state.due - now) for state in replicas if state.phase is Phase.WAITING), default=None)


def _decide(replica: Replica, plan: NodePlan | None, stored: bool, observed: Observed, limits: Limits, now: float) -> Action | None:
    state = observed.replicas.get(replica)
    if state is not None and state.phase is Phase.STOPPING:
        return None
    if plan is None or not _is_listed(plan, replica):
        return None if state is None else _keep(replica, state, None, observed, limits, now)
    wanted = plan.assignments.get(replica[1])
    if wanted is None or wanted.wanted == DRAIN:
        if state is None:
            return Forget(replica) if stored else None
        return Forget(replica) if state.phase is Phase.WAITING else _leave(replica, state, plan, observed, limits, now)
    if state is None:
        return _start(replica, wanted, observed) if wanted.wanted == RUN else None
    if wanted.assignment_version == state.assignment.assignment_version:
        return _keep(replica, state, plan, observed, limits, now)
    if state.phase is Phase.WAITING:
        return _start(replica, wanted, observed)
    return _leave(replica, state, plan, observed, limits, now)


def _is_listed(plan: NodePlan, replica: Replica) -> bool:
    return replica[1] in plan.assignments or replica[1] in plan.elsewhere


def _start(replica: Replica, assignment: Assignment, observed: Observed) -> Start:
    """With an incarnation above all that were seen, also by an earlier daemon."""
    state, endpoint = observed.replicas.get(replica), observed.endpoints.get(replica)
    last = max(state.incarnation if state else 0, endpoint.incarnation if endpoint else 0)
    return Start(replica, assignment, last + 1)


def _keep(replica: Replica, state: ReplicaState, plan: NodePlan | None, observed: Observed, limits: Limits, now: float) -> Action | None:
    """It shall run as it is: start what is due, end what has failed."""
    if state.phase is Phase.WAITING:
        return _start(replica, state.assignment, observed) if now >= state.due else None
    if state.phase is Phase.STARTING:
        late = now - state.started_at >= limits.start_timeout_s
        return Stop(replica, f"not ready within {limits.start_timeout_s:g} s ([node] start_timeout_s)", planned=False) if late else None
    if state.is_unhealthy:
        return Stop(replica, state.reason, planned=False)
    return Resume(replica) if state.drain is not None and plan is not None else None


def _leave(replica: Replica, state: ReplicaState, plan: NodePlan, observed: Observed, limits: Limits, now: float) -> Action | None:
    """It shall run no more, or not as it is: have its requests finish, then end it. One that never was ready has none."""
    if state.phase is Phase.STARTING:
        return Stop(replica, "", planned=True)
    if state.drain is None:
        return BeginDrain(replica, plan.revision)
    overdue = now - state.drain.since >= limits.drain_deadline_s
    return Stop(replica, "", planned=True) if overdue or _is_drained(replica, state.drain, observed.gateways) else None


def _is_drained(replica: Replica, drain: Drain, gateways: Iterable[GatewayStatus] | None) -> bool:
    """Whether no live gateway sends it requests any more, nor waits for an answer."""
    if gateways is None:
        return False
    name = "/".join(replica)
    return all(gateway.applied_revision >= drain.revision and not gateway.draining.get(name) for gateway in gateways)
