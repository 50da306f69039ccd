"""What can be relied on of the nodes: which are lost, which take nothing new, which replicas must leave their place. Pure.

A node that plans name and that is not up is *missing*: its endpoints are abnormal, and still routed to while connections succeed. After
a while it is *lost*, and its replicas are replaced. If too many are missing at once, it is more likely that they cannot be heard of than
that they are gone: then nothing is lost. That is seen in the store at each pass, so that a new leader comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nebula_core.scheduler.node_room import is_sound
from nebula_core.scheduler.world import Memory, Observed
from nebula_core.types import RUN, UNHEALTHY, Assignment, NodeRequest, NodeStatus

MASS_SHARE, MASS_LEAST = 0.3, 3
"""More than this share of the nodes, and at least so many, missing together: nothing on them is replaced."""
MOST_NAMES = 5
"""Nodes that a reason names; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The nodes, as far as a pass goes by them."""

    missing: frozenset[str] = frozenset()
    """Plans have replicas on them, and they are not up."""
    lost: frozenset[str] = frozenset()
    """Those of them whose replicas are to be replaced."""
    abandoned: frozenset[str] = frozenset()
    """Those that are not up and were given up: nobody will clean up there."""
    drained: frozenset[str] = frozenset()
    """Those up that are to be emptied."""
    closed: Mapping[str, str] = field(default_factory=dict)
    """Those that take nothing new, and in a word why."""
    sound_gpus: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Those of each node that is up and reports GPUs at all: one whose driver cannot be read reports none, and nobody can tell."""
    faulty_gpus: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Those that are there and not sound, where there are such."""
    frozen: str = ""
    """Why nothing on missing nodes is replaced, in words for an operator; empty: it is."""
    lost_at: Mapping[str, float] = field(default_factory=dict)
    """When each missing node is lost, in monotonic seconds; while nothing is, there is none."""

    def must_leave(self, assignment: Assignment, observed: Observed) -> bool:
        """Whether a replica cannot stay where it is, whatever is asked of its model."""
        node_id = assignment.node_id
        if node_id in self.lost or node_id in self.drained:
            return True
        sound = self.sound_gpus.get(node_id)
        if sound is not None:
            return not sound.issuperset(assignment.gpu_indexes)
        if not assignment.gpu_indexes or node_id in self.missing:
            return False
        endpoint = observed.endpoint_of(assignment)
        return endpoint is not None and endpoint.state == UNHEALTHY  # it is not well, and no GPU is there for its next start

    def why(self, assignment: Assignment) -> str:
        """Why a replica must leave, in words for an operator."""
        node_id = assignment.node_id
        if node_id in self.lost:
            return f"node {node_id} is gone"
        if node_id in self.drained:
            return f"node {node_id} is drained"
        if node_id not in self.sound_gpus:
            return f"node {node_id} reports no GPUs any more"
        bad = min(set(assignment.gpu_indexes) - self.sound_gpus[node_id])
        is_there = bad in self.faulty_gpus.get(node_id, ())
        return f"GPU {bad} of node {node_id} {'has memory errors that cannot be corrected' if is_there else 'is gone'}"


def survey(observed: Observed, memory: Memory, now: float, lost_after_s: float) -> Nodes:
    """The nodes at `now`, in monotonic seconds; a node is lost once it has been missing for `lost_after_s` and a new leader has waited."""
    up, requests = observed.nodes, observed.node_requests
    named = {each.node_id for plan in observed.plans.values() for each in plan.assignments if each.wanted == RUN}
    missing = frozenset(named - up.keys())
    abandoned = frozenset(name for name, request in requests.items() if request.given_up and name not in up)
    frozen = _frozen(sorted(missing - abandoned), len(up))
    fresh = max(now + lost_after_s, memory.lose_from)
    lost_at = {} if frozen else {name: memory.lost_at.get(name, fresh) for name in missing - abandoned}
    sound = {name: _sound(node) for name, node in up.items() if node.gpus}
    return Nodes(
        missing=missing,
        lost=frozenset(name for name, at in lost_at.items() if now >= at) | (missing & abandoned),
        abandoned=abandoned,
        drained=frozenset(name for name, request in requests.items() if request.drained and name in up),
        closed={name: word for name, request in requests.items() if (word := _closed(request))},
        sound_gpus=sound,
        faulty_gpus={name: _all(up[name]) - indexes for name, indexes in sound.items() if len(indexes) < len(up[name].gpus)},
        frozen=frozen,
        lost_at=lost_at,
    )


def _frozen(gone: list[str], up: int) -> str:
    """Why nothing is replaced, so many nodes being gone together; empty: they are few enough."""
    known = up + len(gone)
    if len(gone) < MASS_LEAST or len(gone) <= MASS_SHARE * known:
        return ""
    names = ", ".join(gone[:MOST_NAMES]) + (f" and {len(gone) - MOST_NAMES} more" if len(gone) > MOST_NAMES else "")
    return (
        f"{len(gone)} of {known} nodes are gone together ({names}): nothing on them is replaced until enough are back; "
        "`nebula nodes forget NODE` says of one that it will not come back"
    )


def _closed(request: NodeRequest) -> str:
    if request.drained:
        return "drained"
    if request.given_up:
        return "given up"
    return "cordoned" if request.cordoned else ""


def _sound(node: NodeStatus) -> frozenset[int]:
    return frozenset([gpu.index for gpu in node.gpus if is_sound(gpu)])


def _all(node: NodeStatus) -> frozenset[int]:
    return frozenset(gpu.index for gpu in node.gpus)
