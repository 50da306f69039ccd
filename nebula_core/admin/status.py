"""The status of everything, in words: pure functions from the store's values to what is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from nebula_core.admin.documents import GatewayView, ModelView, NodeView, ReplicaStatus, Status, StoreView
from nebula_core.admin.routing import obstacle
from nebula_core.interfaces import Strategy
from nebula_core.masks import mask
from nebula_core.store import keys
from nebula_core.types import (
    DRAINING,
    READY,
    RUN,
    STARTING,
    UNHEALTHY,
    Assignment,
    EndpointInfo,
    EndpointStats,
    GatewayStatus,
    ModelRequest,
    ModelStatus,
    NodeStatus,
    PlacementPlan,
    Scaling,
)

PLACED = "placed"
STALE = "stale"
NO_STATS = EndpointStats()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The store's values. Models by model_uid, replicas by (model_uid, replica_id)."""

    requests: Mapping[str, ModelRequest] = field(default_factory=dict)
    wanted: Mapping[str, int] = field(default_factory=dict)
    """How many replicas each request comes to."""
    plans: Mapping[str, PlacementPlan] = field(default_factory=dict)
    statuses: Mapping[str, ModelStatus] = field(default_factory=dict)
    endpoints: Mapping[tuple[str, str], EndpointInfo] = field(default_factory=dict)
    stats: Mapping[tuple[str, str], EndpointStats] = field(default_factory=dict)
    nodes: Mapping[str, NodeStatus] = field(default_factory=dict)
    gateways: Sequence[GatewayStatus] = ()
    scheduler: str | None = None
    scheduler_problem: str = ""
    store: StoreView
    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    """Every strategy that is installed in the process that looks; for what they say of themselves."""
    strategy: str = ""
    """The one for models that name none."""
    fallback: str = ""
    """The one that decides where another cannot."""
    secrets: frozenset[str] = frozenset()
    """Texts that are shown nowhere."""

    def knows(self, prefix: str) -> bool:
        """Whether what lies there was ever read: if not, nothing follows from there being none."""
        return prefix not in self.store.never_read


def status(seen: Seen) -> Status:
    """Everything at a glance, in order of names."""
    return Status(
        models=tuple(model(seen, uid) for uid in sorted({*seen.requests, *seen.plans})),
        nodes=_nodes(seen),
        gateways=tuple(GatewayView.model_validate(msgspec.to_builtins(gateway)) for gateway in seen.gateways),
        scheduler=seen.scheduler,
        scheduler_problem=seen.scheduler_problem,
        store=seen.store,
    )


def model(seen: Seen, uid: str) -> ModelView:
    """One model, which has a request or a plan."""
    request, plan = seen.requests.get(uid), seen.plans.get(uid)
    assignments = plan.assignments if plan else ()
    replicas = tuple(_replica(seen, uid, assignment) for assignment in assignments)
    running = [replica.state for replica, assignment in zip(replicas, assignments, strict=True) if assignment.wanted == RUN]
    asked_for = request is not None or not seen.knows(keys.MODEL_REQUESTS)
    wanted = seen.wanted.get(uid, request.replicas) if request else len(running) if asked_for else 0
    strategy = (request.strategy if request else None) or seen.strategy
    scaling = seen.statuses[uid].scaling if uid in seen.statuses else None
    return ModelView(
        model_uid=uid,
        engine=request.engine if request else next((each.spec.engine for each in assignments), ""),
        aliases=request.aliases if request else (),
        state=model_state(wanted, running) if asked_for else "unloading",
        wanted=wanted,
        ready=running.count(READY),
        reasons=_reasons(seen, uid),
        strategy=strategy,
        routing=obstacle(strategy, seen.fallback, seen.strategies, _signals(seen, uid, replicas)),
        scaling=_scaling(scaling) if scaling else "",
        scaling_inputs=scaling.inputs if scaling else {},
        replicas=replicas,
        request=mask(msgspec.to_builtins(request), seen.secrets) if request else None,
    )


def _scaling(account: Scaling) -> str:
    """What load asks for, in words."""
    said = f"{account.policy} asks for {account.replicas}: {account.reason}" if account.policy else account.reason
    if account.changed_at is None or account.changed_from is None:
        return said
    return f"{said}; {account.at - account.changed_at:.0f} s ago it was {account.changed_from}: {account.changed_why}"


def model_state(wanted: int, running: Sequence[str]) -> str:
    """A model's state by its replicas' states, the draining ones left out."""
    if wanted == 0:
        return "stopped"
    if running.count(READY) >= wanted:
        return "ready"
    if READY in running or STALE in running:
        return "degraded"
    if PLACED in running or STARTING in running:
        return "starting"
    return "failed" if running else "unplaced"


def _reasons(seen: Seen, uid: str) -> tuple[str, ...]:
    if uid in seen.statuses:
        return seen.statuses[uid].reasons
    if seen.scheduler_problem:
        return (seen.scheduler_problem,)
    if seen.scheduler is None and seen.knows(keys.SCHEDULER_LEADER):
        return ("no scheduler runs, so nothing is placed; start one with `nebula scheduler`",)
    return ()


def _signals(seen: Seen, uid: str, replicas: Sequence[ReplicaStatus]) -> dict[str, EndpointStats]:
    """What is known of the replicas that are routed to; samples of an engine's earlier start do not count."""
    routed = {replica.replica_id: replica.incarnation for replica in replicas if replica.state in (READY, STALE)}
    known = {replica_id: seen.stats.get((uid, replica_id), NO_STATS) for replica_id in routed}
    return {replica_id: stats if stats.incarnation == routed[replica_id] else NO_STATS for replica_id, stats in known.items()}


def _replica(seen: Seen, uid: str, assignment: Assignment) -> ReplicaStatus:
    endpoint, stats = seen.endpoints.get((uid, assignment.replica_id)), seen.stats.get((uid, assignment.replica_id))
    up = assignment.node_id in seen.nodes or not seen.knows(keys.NODES)
    state = _replica_state(assignment, endpoint, up)
    return ReplicaStatus(
        replica_id=assignment.replica_id,
        node_id=assignment.node_id,
        state=state,
        reason=_why(state, assignment.node_id, endpoint, up),
        url=endpoint.url if endpoint else "",
        incarnation=endpoint.incarnation if endpoint else 0,
        assignment_version=assignment.assignment_version,
        gpu_indexes=assignment.gpu_indexes,
        stats=msgspec.to_builtins(stats) if stats else None,
    )


def _replica_state(assignment: Assignment, endpoint: EndpointInfo | None, up: bool) -> str:
    if assignment.wanted != RUN:
        return DRAINING
    if endpoint is None or endpoint.assignment_version != assignment.assignment_version:
        return PLACED
    return STALE if endpoint.state == READY and not up else endpoint.state


def _why(state: str, node_id: str, endpoint: EndpointInfo | None, up: bool) -> str:
    """Why a replica is not ready; empty if it is."""
    if state == READY:
        return ""
    if state == STALE:
        return f"the node {node_id} is not heard of; requests go to the replica while it answers"
    if not up:
        return f"the node {node_id} is not heard of"
    if endpoint is not None and endpoint.reason:
        return endpoint.reason
    words = {
        PLACED: f"the node {node_id} has not begun to start it",
        STARTING: "the engine is starting",
        UNHEALTHY: "the engine does not answer its health check",
        DRAINING: "it finishes its running requests, then it stops",
    }
    return words.get(state, f'its node says "{state}", which this version of Nebula does not know')


def _nodes(seen: Seen) -> tuple[NodeView, ...]:
    named = {assignment.node_id for plan in seen.plans.values() for assignment in plan.assignments}
    gone = [NodeView(node_id=name, up=False) for name in named - seen.nodes.keys() if seen.knows(keys.NODES)]
    up = [NodeView.model_validate({**msgspec.to_builtins(node), "up": True}) for node in seen.nodes.values()]
    return tuple(sorted((*up, *gone), key=lambda node: node.node_id))
