"""A model's replicas in words: where each is, how far it is, and why it is not ready. Pure functions."""

from __future__ import annotations

import msgspec

from nebula_core.admin.documents import ReplicaStatus
from nebula_core.admin.seen import Seen
from nebula_core.types import DRAINING, READY, RUN, STARTING, UNHEALTHY, Assignment, EndpointInfo

PLACED = "placed"
ABNORMAL = "abnormal"


def replicas(seen: Seen, uid: str) -> tuple[ReplicaStatus, ...]:
    """The replicas in a model's plan, those that are ending included."""
    plan = seen.plans.get(uid)
    assignments = plan.assignments if plan else ()
    successors = {each.replaces: each.replica_id for each in assignments if each.replaces and each.wanted == RUN}
    return tuple(_replica(seen, uid, each, successors.get(each.replica_id, "")) for each in assignments)


def _replica(seen: Seen, uid: str, assignment: Assignment, replaced_by: str) -> ReplicaStatus:
    endpoint, stats = seen.endpoints.get((uid, assignment.replica_id)), seen.stats.get((uid, assignment.replica_id))
    is_current = endpoint is not None and endpoint.assignment_version == assignment.assignment_version
    state = _state(seen, assignment, endpoint if is_current else None)
    routed = is_current and endpoint is not None and endpoint.state == READY and assignment.wanted == RUN
    return ReplicaStatus(
        replica_id=assignment.replica_id,
        node_id=assignment.node_id,
        state=state,
        reason=_missing(seen, assignment, routed) or _why(state, assignment.node_id, endpoint),
        routed=routed,
        replaces=assignment.replaces if assignment.wanted == RUN else "",
        replaced_by=replaced_by,
        url=endpoint.url if endpoint else "",
        incarnation=endpoint.incarnation if endpoint else 0,
        assignment_version=assignment.assignment_version,
        gpu_indexes=assignment.gpu_indexes,
        stats=msgspec.to_builtins(stats) if stats else None,
    )


def _state(seen: Seen, assignment: Assignment, endpoint: EndpointInfo | None) -> str:
    if assignment.wanted != RUN:
        return DRAINING
    if seen.is_missing(assignment.node_id):
        return ABNORMAL
    return endpoint.state if endpoint else PLACED


def _missing(seen: Seen, assignment: Assignment, routed: bool) -> str:
    """What follows from its node not being heard of; empty if it is."""
    if not seen.is_missing(assignment.node_id):
        return ""
    silence = f"its node {assignment.node_id} has not been heard of for {seen.lease_s:g} s or more"
    if assignment.wanted != RUN:
        return f"{silence}; it ends when the node is back"
    return f"{silence}; requests still go to it while it answers" if routed else f"{silence}, and it was not ready then"


def _why(state: str, node_id: str, endpoint: EndpointInfo | None) -> str:
    """Why a replica on a node that is heard of is not ready; empty if it is."""
    if state == READY:
        return ""
    if endpoint is not None and endpoint.reason:
        return endpoint.reason
    words = {
        PLACED: f"the node {node_id} has not begun to start it",
        STARTING: "the engine is starting",
        UNHEALTHY: "the engine does not answer its health check",
        DRAINING: "it finishes its running requests, then it stops",
    }
    return words.get(state, f'its node says "{state}", which this version of Nebula does not know')
