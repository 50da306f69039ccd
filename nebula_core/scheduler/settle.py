"""One model's assignments: the difference of two multisets, what its request comes to and what its plan runs.

What is in both stays where it is; what is missing is placed; what is too much drains. A replica on a node that its request does not
allow any more, by its labels for example, is one too much and one missing. A spec that takes another's place is started
first, where there is room, and the old replica serves until the new one is ready; where there is none, one old replica at a time
makes room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby

import msgspec

from nebula_core.interfaces import Needs, Spot
from nebula_core.scheduler.node_room import may_stay
from nebula_core.scheduler.room import Room
from nebula_core.scheduler.world import Observed, Wanted
from nebula_core.types import DRAIN, RUN, Assignment, ReplicaSpec


@dataclass(frozen=True)
class Settled:
    """A model's assignments as they should be, and the specs that fit nowhere."""

    assignments: tuple[Assignment, ...]
    unplaced: tuple[ReplicaSpec, ...] = ()


def settle(wanted: Wanted, assignments: Sequence[Assignment], observed: Observed, room: Room) -> Settled:
    """Bring `assignments` to `wanted`, taking what is placed from `room`."""
    difference = _compare(wanted, [each for each in assignments if each.wanted == RUN], observed)
    held = _held(difference, observed)
    replaceable = [old for old in difference.surplus if old.replica_id not in held and observed.serves(old)]
    olds = replaceable[: len(difference.missing)]
    added, unplaced = _place(difference, wanted.needs, olds, {each.replica_id for each in assignments}, room)
    ending = {old.replica_id for old in difference.surplus} - held - {old.replica_id for old in olds}
    changing = added or ending or any(each.wanted != RUN for each in assignments)
    if unplaced and not changing and all(map(observed.ready, difference.keep)):
        ending = {old.replica_id for old in room.victims(unplaced[0], wanted.needs, sorted(olds, key=_by_id, reverse=True))}
    after = [msgspec.structs.replace(each, wanted=DRAIN, replaces="") if each.replica_id in ending else each for each in assignments]
    return Settled(tuple(_without_stale_links([*after, *added])), tuple(unplaced))


@dataclass(frozen=True)
class _Difference:
    """A model's wanted specs against its running assignments."""

    keep: list[Assignment]
    surplus: list[Assignment]
    missing: list[ReplicaSpec]


def _compare(wanted: Wanted, running: Iterable[Assignment], observed: Observed) -> _Difference:
    """Keep as many of each spec as are wanted, where they may stay: ready ones first, then those with the lowest replica ids."""
    lacking, on_node = Counter(_keys(wanted.specs)), Counter[str]()
    difference = _Difference([], [], [])
    ordered = sorted(running, key=lambda each: (not observed.ready(each), _by_id(each)))
    for assignment, key in zip(ordered, _keys(each.spec for each in ordered), strict=True):
        node_id = assignment.node_id
        stays = may_stay(assignment, wanted.needs, observed.nodes.get(node_id), on_node[node_id]) and _count_down(lacking, key)
        on_node[node_id] += stays
        (difference.keep if stays else difference.surplus).append(assignment)
    difference.missing.extend(spec for spec, key in zip(wanted.specs, _keys(wanted.specs), strict=True) if _count_down(lacking, key))
    return difference


def _count_down(lacking: Counter[str], key: str) -> bool:
    if not lacking[key]:
        return False
    lacking[key] -= 1
    return True


def _held(difference: _Difference, observed: Observed) -> set[str]:
    """The ids of old replicas that serve until the one that replaces them is ready."""
    awaited = {each.replaces for each in difference.keep if not observed.ready(each)}
    return {old.replica_id for old in difference.surplus if old.replica_id in awaited and observed.serves(old)}


def _place(
    difference: _Difference, needs: Needs, olds: Sequence[Assignment], used: set[str], room: Room
) -> tuple[list[Assignment], list[ReplicaSpec]]:
    """New assignments for the missing specs, the first of which replace `olds`, and the specs that fit nowhere."""
    added: list[Assignment] = []
    unplaced: list[ReplicaSpec] = []
    ids, replaced = _free_ids(used), iter(olds)
    for spec, equal in groupby(difference.missing):
        search = room.search(spec, needs, [*difference.keep, *added])
        for _ in equal:
            spot, old = search.take(), next(replaced, None)
            if spot is None:
                unplaced.append(spec)
            else:
                added.append(_assign(next(ids), spec, spot, replaces=old.replica_id if old else ""))
    return added, unplaced


def _assign(replica_id: str, spec: ReplicaSpec, spot: Spot, replaces: str) -> Assignment:
    return Assignment(
        replica_id=replica_id,
        node_id=spot.node_id,
        spec=spec,
        assignment_version=spec.version(spot.node_id, spot.gpu_indexes),
        gpu_indexes=spot.gpu_indexes,
        replaces=replaces,
    )


def _free_ids(used: set[str]) -> Iterator[str]:
    return (name for name in map(str, count()) if name not in used)


def _without_stale_links(assignments: Sequence[Assignment]) -> list[Assignment]:
    """`replaces` forgotten where the old replica is gone, for its id may be given to another one."""
    ids = {each.replica_id for each in assignments}
    return [msgspec.structs.replace(each, replaces="") if each.replaces and each.replaces not in ids else each for each in assignments]


def _keys(specs: Iterable[ReplicaSpec]) -> Iterator[str]:
    """The same for equal specs, whatever the order of their engine's keys; those that stand together are digested once."""
    for spec, equal in groupby(specs):
        key = spec.version("", ())
        yield from (key for _ in equal)


def _by_id(assignment: Assignment) -> tuple[int, str]:
    """Sorts "2" before "10"."""
    return len(assignment.replica_id), assignment.replica_id
