"""One model's assignments: the difference of two multisets, what its request comes to and what its plan runs.

What is in both stays where it is; what is missing is placed; what is too much drains. A replica that cannot stay where it is, for its
node is lost or drained or its request forbids the place, is one too much and one missing. What takes another's place is started first,
where there is room, and the old replica serves until the new one is ready; where there is none, one old replica at a time makes room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby

import msgspec

from nebula_core.interfaces import Needs, Spot
from nebula_core.scheduler.difference import Difference, by_id, compare
from nebula_core.scheduler.healing import Nodes
from nebula_core.scheduler.rollout import Move, Rollout, roll_out
from nebula_core.scheduler.room import Room
from nebula_core.scheduler.world import Observed, Wanted
from nebula_core.types import DRAIN, RUN, Assignment, ReplicaSpec


@dataclass(frozen=True)
class Settled:
    """A model's assignments as they should be, and what could not be done."""

    assignments: tuple[Assignment, ...]
    unplaced: tuple[Move, ...] = ()
    """What fits nowhere."""
    waiting: int = 0
    """Old replicas whose turn to be replaced comes later."""
    failing: Assignment | None = None
    """The new replica that does not start, for which they wait."""


def settle(wanted: Wanted, assignments: Sequence[Assignment], observed: Observed, nodes: Nodes, room: Room) -> Settled:
    """Bring `assignments` to `wanted`, taking what is placed from `room`."""
    difference = compare(wanted, [each for each in assignments if each.wanted == RUN], observed, nodes)
    rollout = roll_out(difference, observed, nodes)
    placer = _Placer(wanted.needs, difference, {each.replica_id for each in assignments}, observed, room)
    placer.place(rollout.now)
    if rollout.next is not None and not placer.added and all(move.spec != rollout.next.spec for move in placer.unplaced):
        placer.place([rollout.next])
    ending = _ending(rollout, placer.unplaced, observed, nodes)
    unplaced = placer.unplaced
    is_changing = placer.added or any(
        (each.wanted != RUN or each.replica_id in ending) and each.node_id in observed.nodes for each in assignments
    )
    if unplaced and not is_changing and all(map(observed.ready, difference.keep)):
        victims = _victims(unplaced[0], wanted.needs, difference, rollout, observed, room)
        unplaced = [*unplaced, *_in_want(unplaced, rollout, victims)]
        ending |= victims
    after = [msgspec.structs.replace(each, wanted=DRAIN, replaces="") if each.replica_id in ending else each for each in assignments]
    return Settled(
        assignments=tuple(_without_stale_links([*after, *placer.added], observed)),
        unplaced=tuple(Move(move.spec) if move.old is not None and move.old.replica_id in ending else move for move in unplaced),
        waiting=len(rollout.waiting),
        failing=rollout.failing,
    )


class _Placer:
    """Places a model's missing replicas, one after another."""

    def __init__(self, needs: Needs, difference: Difference, used: set[str], observed: Observed, room: Room) -> None:
        self._needs, self._staying, self._observed, self._room = needs, difference.keep, observed, room
        self._ids = _free_ids(used)
        self.added: list[Assignment] = []
        self.unplaced: list[Move] = []

    def place(self, moves: Iterable[Move]) -> None:
        """Find a spot for each of them."""
        for spec, equal in groupby(moves, key=lambda move: move.spec):
            search = self._room.search(spec, self._needs, [*self._staying, *self.added])
            for move in equal:
                spot = search.take()
                if spot is None:
                    self.unplaced.append(move)
                else:
                    replica_id = next(name for name in self._ids if (spec.model_uid, name) not in self._observed.endpoints)
                    self.added.append(_assign(replica_id, spec, spot, replaces=self._served_by(move.old)))

    def _served_by(self, old: Assignment | None) -> str:
        return old.replica_id if old is not None and self._observed.serves(old) else ""


def _ending(rollout: Rollout, unplaced: Sequence[Move], observed: Observed, nodes: Nodes) -> set[str]:
    """The ids of old replicas that end now: those too many, and those that do not serve, for nothing is lost with them.

    One that has to leave its place and has no other stays: it may yet be well again. Of a lost node nobody expects that.
    """
    misplaced = [move.old for move in unplaced if move.old is not None and nodes.must_leave(move.old, observed)]
    stuck = {old.replica_id for old in misplaced if old.node_id not in nodes.lost}
    idle = {move.old.replica_id for move in rollout.now if move.old is not None and not observed.serves(move.old)}
    return {old.replica_id for old in rollout.excess} | (idle - stuck)


def _victims(move: Move, needs: Needs, difference: Difference, rollout: Rollout, observed: Observed, room: Room) -> set[str]:
    """The ids of old replicas that make room for a new one, the highest first."""
    spared = {old.replica_id for old in rollout.excess}
    leaving = [old for old in (*difference.evicted, *difference.outdated) if old.replica_id not in spared and observed.serves(old)]
    may_go = sorted(leaving, key=by_id, reverse=True)
    return {old.replica_id for old in room.victims(move.spec, needs, may_go)}


def _in_want(unplaced: Sequence[Move], rollout: Rollout, victims: set[str]) -> list[Move]:
    """What has no place either from now on, for the old replica that stood in for it makes room."""
    ended = sum(old.replica_id in victims for old in rollout.waiting)
    return [Move(unplaced[0].spec)] * (ended - (rollout.next in unplaced))


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


def _without_stale_links(assignments: Sequence[Assignment], observed: Observed) -> list[Assignment]:
    """`replaces` forgotten where the new replica is ready, or the old one serves no more; its id may soon be given to another one."""
    ids = {each.replica_id for each in assignments if each.wanted == RUN}

    def is_stale(each: Assignment) -> bool:
        return each.replaces != "" and (each.replaces not in ids or observed.ready(each))

    return [msgspec.structs.replace(each, replaces="") if is_stale(each) else each for each in assignments]
