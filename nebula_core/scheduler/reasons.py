"""Why a model is not as it was asked for, in words for an operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from nebula_core.scheduler.healing import Nodes
from nebula_core.scheduler.room import Room
from nebula_core.scheduler.settle import Settled
from nebula_core.scheduler.world import Observed, Wanted
from nebula_core.types import RUN, Assignment


def reasons(wanted: Wanted, settled: Settled, observed: Observed, nodes: Nodes, room: Room) -> Iterator[str]:
    """What keeps the model from it, once all models have taken their room."""
    if settled.failing is not None:
        endpoint = observed.endpoint_of(settled.failing)
        why = (endpoint.reason if endpoint else "") or "its engine is not well"
        uid, replica_id = settled.failing.spec.model_uid, settled.failing.replica_id
        yield f"the change has stopped: replica {replica_id} does not start: {why}; `nebula models rollback {uid}` goes back"
    yield from _shortages(wanted, settled, observed, nodes, room)
    if nodes.frozen and any(each.wanted == RUN and each.node_id in nodes.missing for each in settled.assignments):
        yield nodes.frozen


def _shortages(wanted: Wanted, settled: Settled, observed: Observed, nodes: Nodes, room: Room) -> Iterator[str]:
    """Why replicas fit nowhere, and how many each; equal ones that stand together are looked at once."""

    def leaves(old: Assignment | None) -> str:
        return nodes.why(old) if old is not None and nodes.must_leave(old, observed) else ""

    counted: Counter[tuple[str, str]] = Counter()
    for (spec, leaving), equal in groupby(settled.unplaced, key=lambda move: (move.spec, leaves(move.old))):
        counted[leaving, room.shortage(spec, wanted.needs)] += sum(1 for _ in equal)
    for (leaving, why), count in counted.items():
        if leaving:
            yield f"{leaving}, and {count} {'replica has' if count == 1 else 'replicas have'} no other place: {why}"
        else:
            yield f"{count} of {len(wanted.specs)} replicas cannot be placed: {why}"
