"""Where a replica fits: the nodes that are up, with the GPUs and replicas that plans have given away already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapreplace

from nebula_core.types import Assignment, NodeStatus, ReplicaSpec


@dataclass(frozen=True)
class Spot:
    """A node and the GPUs on it that a replica gets."""

    node_id: str
    gpu_indexes: tuple[int, ...] = ()


class Room:
    """What is left on each node. A GPU is taken as long as any assignment of any plan holds it, a draining one included."""

    def __init__(self, nodes: Mapping[str, NodeStatus], assignments: Iterable[Assignment]) -> None:
        self._nodes = [nodes[name] for name in sorted(nodes)]
        self._free = {name: sorted(gpu.index for gpu in node.gpus) for name, node in nodes.items()}
        self._replicas: Counter[str] = Counter()
        self._known_offers: dict[str, list[NodeStatus]] = {}
        self._emptiest_first: dict[str, list[tuple[int, str]]] = {}
        for assignment in assignments:
            self._occupy(Spot(assignment.node_id, assignment.gpu_indexes))

    def take(self, spec: ReplicaSpec) -> Spot | None:
        """Find a spot for `spec` and occupy it: first fit by GPUs, or the node with the fewest replicas if it needs none."""
        nodes = self._offering(spec.engine)
        spot = self._with_gpus(spec.gpus, nodes) if spec.gpus else self._emptiest(spec.engine, nodes)
        if spot is not None:
            self._occupy(spot)
        return spot

    def shortage(self, spec: ReplicaSpec) -> str:
        """Why `spec` fits nowhere, in words for an operator."""
        nodes = self._offering(spec.engine)
        return self._too_few_gpus(spec.gpus, nodes) if nodes else self._nobody_offers(spec.engine)

    def victims(self, spec: ReplicaSpec, may_go: Sequence[Assignment]) -> list[Assignment]:
        """The assignments, all of one node and the first of `may_go`, whose end would make room for `spec`; empty if none would."""
        for node in self._offering(spec.engine):
            free, chosen = len(self._free[node.node_id]), []
            for assignment in may_go:
                if free < spec.gpus and assignment.node_id == node.node_id and assignment.gpu_indexes:
                    free += len(assignment.gpu_indexes)
                    chosen.append(assignment)
            if chosen and free >= spec.gpus:
                return chosen
        return []

    def _occupy(self, spot: Spot) -> None:
        self._replicas[spot.node_id] += 1
        free = self._free.get(spot.node_id, [])
        self._free[spot.node_id] = [index for index in free if index not in spot.gpu_indexes]

    def _offering(self, engine: str) -> list[NodeStatus]:
        if engine not in self._known_offers:
            self._known_offers[engine] = [node for node in self._nodes if engine in node.engines]
        return self._known_offers[engine]

    def _with_gpus(self, count: int, nodes: Sequence[NodeStatus]) -> Spot | None:
        fitting = (node.node_id for node in nodes if len(self._free[node.node_id]) >= count)
        found = next(fitting, None)
        return None if found is None else Spot(found, tuple(self._free[found][:count]))

    def _emptiest(self, engine: str, nodes: Sequence[NodeStatus]) -> Spot | None:
        """From a heap by replicas and name, put right where it lags behind: counts only grow."""
        if engine not in self._emptiest_first:
            self._emptiest_first[engine] = sorted((self._replicas[node.node_id], node.node_id) for node in nodes)
        heap = self._emptiest_first[engine]
        while heap and heap[0][0] != self._replicas[heap[0][1]]:
            heapreplace(heap, (self._replicas[heap[0][1]], heap[0][1]))
        return Spot(heap[0][1]) if heap else None

    def _nobody_offers(self, engine: str) -> str:
        if not self._nodes:
            return "no node is up"
        offered = ", ".join(sorted({name for node in self._nodes for name in node.engines})) or "none"
        return f'no node offers the engine "{engine}"; nodes offer: {offered}'

    def _too_few_gpus(self, count: int, nodes: Sequence[NodeStatus]) -> str:
        best = max(nodes, key=lambda node: len(self._free[node.node_id])).node_id
        return f"needs {count} GPU{'s' if count > 1 else ''}; the best node, {best}, has {len(self._free[best])} free"
