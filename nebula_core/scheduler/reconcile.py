"""From model requests to placement plans: a pure decision, the same for the same values in whatever order they come.

Assignments leave a plan only by draining, and only when their node has deleted the endpoint. Those on a node that is gone wait for
it, unless it was given up. An endpoint that no assignment stands for gets a draining one if its node is up, so that it is told to stop it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from types import MappingProxyType

import msgspec

from nebula_core.interfaces import Placement
from nebula_core.scheduler.healing import Nodes, survey
from nebula_core.scheduler.learning import learned, peak
from nebula_core.scheduler.reasons import reasons
from nebula_core.scheduler.repair import repair
from nebula_core.scheduler.room import Room
from nebula_core.scheduler.settle import Settled, settle
from nebula_core.scheduler.world import Decisions, Goal, Memory, Observed, Refusal, Replica, Wanted, draining
from nebula_core.types import DRAIN, RUN, Assignment, EndpointInfo, ModelStatus, PlacementPlan, ReplicaSpec, Scaling

SILENCE_S = 5.0
"""How long a draining replica without an endpoint is kept: its node may be about to start it, from the plan before."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What an operator has chosen for all models."""

    placement: Placement | None = None
    """Chooses among the places that fit; `None`: the first one."""
    lost_after_s: float = 12.0
    """How long a node must be missing before its replicas are replaced."""
    gpu_memory_margin: float = 0.1
    """Share that is added to the GPU memory which a model's last run took."""


def reconcile(
    desired: Mapping[str, Goal],
    observed: Observed,
    memory: Memory,
    now: float,
    rules: Rules = Rules(),
    scalings: Mapping[str, Scaling] = MappingProxyType({}),
) -> Decisions:
    """Decide all plans and statuses. `now` is in monotonic seconds; what need not change is left out of the result.

    `scalings` are the accounts of the models whose number in `desired` follows their load.
    """
    nodes = survey(observed, memory, now, rules.lost_after_s)
    repaired = repair(observed)
    kept = _kept(desired, repaired.assignments, observed, nodes, memory, now)
    room = Room(observed.nodes, chain.from_iterable(kept.values()), rules.placement, nodes.closed)
    goals = {uid: _with_needs(desired.get(uid, Wanted()), observed.statuses.get(uid), rules) for uid in kept}
    settled = {uid: _settle(goals[uid], kept[uid], observed, nodes, room) for uid in kept}
    plans = {uid: _plan(uid, settled[uid].assignments, observed.plans.get(uid), uid in desired) for uid in kept}
    told = {uid: _status(uid, goals[uid], settled[uid], observed, nodes, room) for uid in kept if uid in desired or plans[uid]}
    told |= {uid: msgspec.structs.replace(told[uid], scaling=scalings[uid]) for uid in told.keys() & scalings.keys()}
    statuses: dict[str, ModelStatus | None] = {**dict.fromkeys(kept), **told}
    return Decisions(
        plans={uid: plan for uid, plan in plans.items() if plan != observed.plans.get(uid)},
        statuses={uid: status for uid, status in statuses.items() if status != observed.statuses.get(uid)},
        memory=_remember({uid: plan for uid, plan in plans.items() if plan}, observed, nodes, memory, now),
        faults=repaired.faults,
    )


def _kept(
    desired: Mapping[str, Goal],
    assignments: Mapping[str, Sequence[Assignment]],
    observed: Observed,
    nodes: Nodes,
    memory: Memory,
    now: float,
) -> dict[str, list[Assignment]]:
    """Each model's assignments without those that have ended, by model in order; a refused request's are left alone."""
    strays = _strays(assignments, observed)
    kept = {}
    for uid in sorted({*desired, *assignments, *observed.statuses, *strays}):
        planned = list(assignments.get(uid, ()))
        if not isinstance(desired.get(uid), Refusal):
            planned = [each for each in planned if not _ended(uid, each, observed, nodes, memory, now)] + strays[uid]
        kept[uid] = planned
    return kept


def _ended(uid: str, assignment: Assignment, observed: Observed, nodes: Nodes, memory: Memory, now: float) -> bool:
    if assignment.wanted == RUN:
        return False
    replica = (uid, assignment.replica_id)
    return assignment.node_id in nodes.abandoned or (replica not in observed.endpoints and now >= memory.leave_at.get(replica, inf))


def _strays(assignments: Mapping[str, Sequence[Assignment]], observed: Observed) -> defaultdict[str, list[Assignment]]:
    """A draining assignment for each endpoint that no plan has one for, by model. On a node that is gone nobody would end it."""
    planned = {(uid, each.replica_id) for uid, listed in assignments.items() for each in listed}
    found: defaultdict[str, list[Assignment]] = defaultdict(list)
    for uid, replica_id in sorted(observed.endpoints.keys() - planned):
        endpoint = observed.endpoints[uid, replica_id]
        if endpoint.node_id in observed.nodes:
            found[uid].append(_stray(endpoint))
    return found


def _stray(endpoint: EndpointInfo) -> Assignment:
    return Assignment(
        replica_id=endpoint.replica_id,
        node_id=endpoint.node_id,
        spec=ReplicaSpec(model_uid=endpoint.model_uid, engine=endpoint.engine),
        assignment_version=endpoint.assignment_version,
        wanted=DRAIN,
    )


def _with_needs(goal: Goal, status: ModelStatus | None, rules: Rules) -> Goal:
    if isinstance(goal, Refusal) or status is None or status.gpu_memory_peak is None:
        return goal
    return replace(goal, needs=learned(goal, status.gpu_memory_peak, rules.gpu_memory_margin))


def _settle(goal: Goal, assignments: Sequence[Assignment], observed: Observed, nodes: Nodes, room: Room) -> Settled:
    return Settled(tuple(assignments)) if isinstance(goal, Refusal) else settle(goal, assignments, observed, nodes, room)


def _plan(uid: str, assignments: tuple[Assignment, ...], old: PlacementPlan | None, requested: bool) -> PlacementPlan | None:
    """The plan with these assignments, or `old` itself if it holds them already; `None`: there is to be none."""
    if not assignments and (old is None or not requested):
        return None
    if old is not None and old.assignments == assignments:
        return old
    return PlacementPlan(model_uid=uid, plan_version=old.plan_version + 1 if old else 1, assignments=assignments)


def _status(uid: str, goal: Goal, settled: Settled, observed: Observed, nodes: Nodes, room: Room) -> ModelStatus:
    """What to say about a model, once all models have taken their room."""
    old = observed.statuses.get(uid)
    known = old.gpu_memory_peak if old else None
    if isinstance(goal, Refusal):
        placed = sum(each.wanted == RUN for each in settled.assignments)
        kept = old.scaling if old else None
        return ModelStatus(
            model_uid=uid, wanted=goal.wanted, placed=placed, reasons=(goal.reason,), gpu_memory_peak=known, scaling=kept
        )  # fmt: skip
    return ModelStatus(
        model_uid=uid,
        wanted=len(goal.specs),
        placed=len(goal.specs) - len(settled.unplaced) - (settled.waiting if settled.failing else 0),
        reasons=tuple(reasons(goal, settled, observed, nodes, room)),
        gpu_memory_peak=peak(goal, settled.assignments, observed, known),
    )


def _remember(plans: Mapping[str, PlacementPlan], observed: Observed, nodes: Nodes, memory: Memory, now: float) -> Memory:
    """A draining replica leaves as soon as the endpoint it has is gone; one without gets a time to show one."""

    def leave_at(replica: Replica) -> float:
        return now if replica in observed.endpoints else memory.leave_at.get(replica, now + SILENCE_S)

    leaving = {replica: leave_at(replica) for replica in draining(plans)}
    return Memory(leave_at=leaving, lost_at=nodes.lost_at, lose_from=memory.lose_from)
