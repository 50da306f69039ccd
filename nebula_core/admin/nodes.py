"""Nodes in words: which are up, what operators ask of them, and what still keeps a drained one from being empty. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from nebula_core.admin.documents import AssignedReplica, ModelView, NodeView, ReplicaStatus
from nebula_core.admin.seen import Seen
from nebula_core.store import keys
from nebula_core.types import DRAINING, NodeRequest

RUNNING = "running"


def names(seen: Seen) -> set[str]:
    """The nodes that are heard of, and those that plans or operators name."""
    named = {assignment.node_id for plan in seen.plans.values() for assignment in plan.assignments}
    return {*seen.nodes, *(named | seen.node_requests.keys() if seen.knows(keys.NODES) else ())}


def nodes(seen: Seen, models: Sequence[ModelView]) -> tuple[NodeView, ...]:
    """All of them in order of names; `models` are as they are shown."""
    placed: defaultdict[str, list[tuple[ModelView, ReplicaStatus]]] = defaultdict(list)
    for model in models:
        for replica in model.replicas:
            placed[replica.node_id].append((model, replica))
    return tuple(_node(seen, name, placed[name]) for name in sorted(names(seen)))


def _node(seen: Seen, name: str, placed: Sequence[tuple[ModelView, ReplicaStatus]]) -> NodeView:
    status, asked = seen.nodes.get(name), seen.node_requests.get(name, NodeRequest(node_id=name))
    reported = status.replicas if status else ()
    return NodeView.model_validate(
        {
            **(msgspec.to_builtins(status) if status else {"node_id": name}),
            "up": status is not None,
            "cordoned": asked.cordoned,
            "drained": asked.drained,
            "given_up": asked.given_up,
            "assigned": (*_assigned(seen, asked, placed), *_unplanned(reported, placed)),
        }
    )


def _assigned(seen: Seen, asked: NodeRequest, placed: Sequence[tuple[ModelView, ReplicaStatus]]) -> Iterator[AssignedReplica]:
    for model, replica in placed:
        reason = _what_keeps(seen, model, replica) if asked.drained else replica.reason
        yield AssignedReplica(model_uid=model.model_uid, replica_id=replica.replica_id, state=replica.state, reason=reason)


def _what_keeps(seen: Seen, model: ModelView, replica: ReplicaStatus) -> str:
    """Why a replica is still on a node that is to be empty."""
    if replica.state == DRAINING:
        requests = sum(gateway.draining.get(f"{model.model_uid}/{replica.replica_id}", 0) for gateway in seen.gateways)
        return f"it finishes its running requests ({requests} left), then it stops" if requests else replica.reason
    if replica.replaced_by:
        return f"replica {replica.replaced_by} takes its place once that is ready"
    if seen.scheduler is None and seen.knows(keys.SCHEDULER_LEADER):
        return "no scheduler leads, so that nothing moves; `nebula scheduler` starts one"
    if model.reasons:
        return f"it cannot move: {'; '.join(model.reasons)}"
    return replica.reason or "the scheduler has not moved it yet"


def _unplanned(reported: Sequence[str], placed: Sequence[tuple[ModelView, ReplicaStatus]]) -> Iterator[AssignedReplica]:
    """What a node says it runs, and no plan has there."""
    planned = {f"{model.model_uid}/{replica.replica_id}" for model, replica in placed}
    for name in reported:
        if name not in planned:
            uid, _, replica_id = name.rpartition("/")
            yield AssignedReplica(model_uid=uid, replica_id=replica_id, state=RUNNING, reason="its engine is about to end")
