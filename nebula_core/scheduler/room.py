"""Where replicas fit: the nodes that are up, with the GPUs and replicas that plans have given away already. `closed` ones take none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from heapq import heappop, heappush
from types import MappingProxyType

from nebula_core.interfaces import Needs, Placement, Spot
from nebula_core.scheduler.first_fit import FirstFit
from nebula_core.scheduler.node_room import NodeRoom
from nebula_core.scheduler.shortage import explain
from nebula_core.types import Assignment, NodeStatus, ReplicaSpec

Kind = tuple[object, ...]


class Room:
    """What is left on each node. Most passes place nothing: nothing is counted before it is asked for."""

    def __init__(
        self,
        nodes: Mapping[str, NodeStatus],
        assignments: Iterable[Assignment],
        placement: Placement | None = None,
        closed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._statuses, self._assignments, self._closed = nodes, list(assignments), closed
        self.placement = placement or FirstFit()
        self._numbers: dict[Kind, int] = {}

    def search(self, spec: ReplicaSpec, needs: Needs, staying: Iterable[Assignment]) -> Search:
        """A search of places for replicas of this spec, whose model has the assignments `staying` beside them."""
        return Search(self, spec, needs, [assignment.node_id for assignment in staying])

    def shortage(self, spec: ReplicaSpec, needs: Needs) -> str:
        """Why `spec` fits nowhere, in words for an operator."""
        return explain(spec, needs, list(self.nodes.values()))

    def victims(self, spec: ReplicaSpec, needs: Needs, may_go: Sequence[Assignment]) -> list[Assignment]:
        """The assignments, all of one node and the first of `may_go`, whose end would make room for `spec`; empty if none would."""
        for name in sorted({assignment.node_id for assignment in may_go} & self.nodes.keys()):
            room, chosen = self.nodes[name], []
            for assignment in may_go:
                if assignment.node_id == name and _would_help(room, assignment, spec, needs):
                    chosen.append(assignment)
                    if room.without(chosen).obstacle(spec, needs) is None:
                        return chosen
        return []

    @cached_property
    def nodes(self) -> dict[str, NodeRoom]:
        """By name, in order."""
        on_node: defaultdict[str, list[Assignment]] = defaultdict(list)
        for assignment in self._assignments:
            on_node[assignment.node_id].append(assignment)
        return {name: NodeRoom.of(self._statuses[name], on_node[name], self._closed.get(name, "")) for name in sorted(self._statuses)}

    @cached_property
    def kinds(self) -> dict[str, int]:
        """The kind of each node as a number, which is hashed faster than what it stands for."""
        return {name: self._number(room) for name, room in self.nodes.items()}

    def occupy(self, spec: ReplicaSpec, spot: Spot) -> None:
        """A replica of this spec goes there."""
        room = self.nodes[spot.node_id]
        room.occupy(spec.model_uid, spot)
        self.kinds[spot.node_id] = self._number(room)

    def _number(self, room: NodeRoom) -> int:
        return self._numbers.setdefault(room.kind(), len(self._numbers))


def _would_help(room: NodeRoom, assignment: Assignment, spec: ReplicaSpec, needs: Needs) -> bool:
    return needs.max_per_node is not None or (spec.gpus > 0 and room.gives_room(assignment))


class Search:
    """Places for equal replicas of a model, one after another. Nodes that are alike are looked at once, in the shape of the first."""

    def __init__(self, room: Room, spec: ReplicaSpec, needs: Needs, siblings: Sequence[str]) -> None:
        self._room, self._spec, self._needs = room, spec, needs
        self._siblings: defaultdict[str, int] = defaultdict(int)
        for name in siblings:
            self._siblings[name] += 1
        self._labels = [room.nodes[name].status.labels if name in room.nodes else {} for name in siblings]
        self._alike: defaultdict[Kind, list[str]] = defaultdict(list)
        """Heaps of names."""
        for name in room.nodes:  # in order, and so each list is a heap
            self._offer(name)

    def take(self) -> Spot | None:
        """Have the placement policy choose a spot, and occupy it; `None`: there is none, or it would have none of them."""
        firsts = {names[0]: kind for kind, names in self._alike.items() if names}
        places = [self._room.nodes[name].place(self._needs, self._siblings.get(name, 0)) for name in sorted(firsts)]
        spot = self._room.placement.choose(self._spec, self._needs, places, self._labels) if places else None
        if spot is not None:
            heappop(self._alike[firsts[spot.node_id]])
            self._room.occupy(self._spec, spot)
            self._siblings[spot.node_id] += 1
            self._labels.append(self._room.nodes[spot.node_id].status.labels)
            self._offer(spot.node_id)
        return spot

    def _offer(self, name: str) -> None:
        room = self._room.nodes[name]
        if room.obstacle(self._spec, self._needs) is None:
            fitting = () if self._needs.gpu_memory_bytes is None else room.fitting(self._needs.gpu_memory_bytes)
            heappush(self._alike[self._room.kinds[name], self._siblings.get(name, 0), fitting], name)
