"""Plans that somebody else has written to: what cannot be is left out of them, and said. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nebula_core.scheduler.world import Observed
from nebula_core.types import Assignment

Gpu = tuple[str, int]
"""`(node_id, index)`."""


@dataclass(frozen=True)
class Repaired:
    """The assignments of all plans, by model, and what is wrong with those that were left out, in words for an operator."""

    assignments: Mapping[str, tuple[Assignment, ...]]
    faults: tuple[str, ...] = ()


def repair(observed: Observed) -> Repaired:
    """Every replica of a model once, with the GPUs that it needs, each of which is given once; of several, ready replicas stay."""
    every = [(uid, each) for uid, plan in sorted(observed.plans.items()) for each in plan.assignments]
    if _are_sound(every):
        return Repaired({uid: plan.assignments for uid, plan in observed.plans.items()})
    seen = _Seen()
    every.sort(key=lambda listed: not observed.ready(listed[1]))
    faults = [(uid, each, fault) for uid, each in every if (fault := seen.fault(uid, each))]
    out = {id(each) for _, each, _ in faults}
    return Repaired(
        assignments={uid: tuple(each for each in plan.assignments if id(each) not in out) for uid, plan in observed.plans.items()},
        faults=tuple(f"the plan of {uid}: replica {each.replica_id} on {each.node_id} is left out: {fault}" for uid, each, fault in faults),
    )


@dataclass(frozen=True)
class _Seen:
    """What was found in plans so far."""

    replicas: set[tuple[str, str]] = field(default_factory=set)
    gpus: dict[Gpu, str] = field(default_factory=dict)

    def fault(self, uid: str, assignment: Assignment) -> str:
        """What is wrong with the next assignment; empty: nothing is."""
        if assignment.spec.model_uid != uid:
            return f"it is one of the model {assignment.spec.model_uid}"
        if (uid, assignment.replica_id) in self.replicas:
            return "the plan lists it twice"
        gpus = [(assignment.node_id, index) for index in assignment.gpu_indexes]
        if assignment.gpu_indexes and len(set(gpus)) != assignment.spec.gpus:
            return f"it has {len(set(gpus))} GPUs and needs {assignment.spec.gpus}"
        if taken := [gpu for gpu in gpus if gpu in self.gpus]:
            return f"GPU {taken[0][1]} is that of {self.gpus[taken[0]]}"
        self.replicas.add((uid, assignment.replica_id))
        self.gpus.update(dict.fromkeys(gpus, f"{uid}/{assignment.replica_id}"))
        return ""


def _are_sound(every: Sequence[tuple[str, Assignment]]) -> bool:
    """Whether nothing is wrong with any of them, which is quickly told."""
    odd = [each for uid, each in every if each.spec.model_uid != uid or (each.gpu_indexes and len(each.gpu_indexes) != each.spec.gpus)]
    replicas = {(uid, each.replica_id) for uid, each in every}
    gpus = [(each.node_id, index) for _, each in every for index in each.gpu_indexes]
    return not odd and len(replicas) == len(every) and len(set(gpus)) == len(gpus)
