"""What is left of one node, and what keeps a replica from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set
from enum import IntEnum
from typing import Self

from msgspec.structs import replace

from nebula_core.interfaces import FreeGpu, Needs, Place, Spot
from nebula_core.types import Assignment, GpuStatus, NodeStatus, ReplicaSpec


class Obstacle(IntEnum):
    """What keeps a replica from a node, in the order that it is looked for."""

    CLOSED = 0
    """An operator wants nothing new there."""
    ENGINE = 1
    LABELS = 2
    MAX_PER_NODE = 3
    GPUS = 4
    """Too few that are free, or too few of these with the memory it needs."""


class NodeRoom:
    """A node with the GPUs and replicas that plans have given away. A GPU is taken while any assignment holds it, also a draining one."""

    def __init__(self, status: NodeStatus, replicas: Counter[str], taken: Set[int], closed: str = "") -> None:
        self.status = status
        self.closed = closed
        """In a word why it takes nothing new; empty: it does."""
        self.replicas = replicas
        """Replicas by model_uid."""
        self.total = replicas.total()
        self._taken = taken
        self._sound = {gpu.index: gpu for gpu in status.gpus if is_sound(gpu)}
        self.free = tuple(
            FreeGpu(index, gpu.name, gpu.memory_total_bytes) for index, gpu in sorted(self._sound.items()) if index not in taken
        )

    @classmethod
    def of(cls, status: NodeStatus, assignments: Collection[Assignment], closed: str = "") -> Self:
        """A node with all the assignments that plans have for it."""
        return cls(status, _by_model(assignments), _gpus_of(assignments), closed)

    def obstacle(self, spec: ReplicaSpec, needs: Needs) -> Obstacle | None:
        """The first thing that keeps the replica from this node; `None`: it fits."""
        if self.closed:
            return Obstacle.CLOSED
        if spec.engine not in self.status.engines:
            return Obstacle.ENGINE
        if not bears(self.status.labels, needs.node_labels):
            return Obstacle.LABELS
        if needs.max_per_node is not None and self.replicas[spec.model_uid] >= needs.max_per_node:
            return Obstacle.MAX_PER_NODE
        if spec.gpus and len(self.fitting(needs.gpu_memory_bytes)) < spec.gpus:
            return Obstacle.GPUS
        return None

    def fitting(self, memory_bytes: int | None) -> tuple[FreeGpu, ...]:
        """The free GPUs with so much memory that nobody uses, not even a process that is no engine's; `None`: whatever they have."""
        if memory_bytes is None:
            return self.free
        return tuple(gpu for gpu in self.free if _free_bytes(self._sound[gpu.index]) >= memory_bytes)

    def large_enough(self, memory_bytes: int | None) -> int:
        """How many GPUs would fit if the node were empty."""
        return sum(memory_bytes is None or (gpu.memory_total_bytes or 0) >= memory_bytes for gpu in self._sound.values())

    @property
    def faulty(self) -> int:
        """How many GPUs are given to nobody."""
        return len(self.status.gpus) - len(self._sound)

    def gives_room(self, assignment: Assignment) -> bool:
        """Whether the end of a replica here would free a GPU that can be given to another."""
        return any(index in self._sound for index in assignment.gpu_indexes)

    def kind(self) -> tuple[object, ...]:
        """The same for nodes that are alike in all but their name, as far as placement goes."""
        return self.free, tuple(sorted(self.status.labels.items())), len(self.status.gpus), self.status.machine.cpus, self.total

    def place(self, needs: Needs, siblings: int) -> Place:
        """This node as it is offered to a placement policy."""
        return Place(
            node_id=self.status.node_id,
            labels=self.status.labels,
            free_gpus=self.fitting(needs.gpu_memory_bytes),
            gpus=len(self.status.gpus),
            cpus=self.status.machine.cpus,
            replicas=self.total,
            siblings=siblings,
        )

    def occupy(self, model_uid: str, spot: Spot) -> None:
        """A replica of this model goes here."""
        self.replicas[model_uid] += 1
        self.total += 1
        self._taken = self._taken | set(spot.gpu_indexes)
        self.free = tuple(gpu for gpu in self.free if gpu.index not in self._taken)

    def without(self, gone: Collection[Assignment]) -> NodeRoom:
        """This node once these have ended; what their engines use of their GPUs is free then."""
        emptied = _gpus_of(gone)
        gpus = tuple(replace(gpu, memory_used_bytes=None) if gpu.index in emptied else gpu for gpu in self.status.gpus)
        return NodeRoom(replace(self.status, gpus=gpus), self.replicas - _by_model(gone), self._taken - emptied, self.closed)


def is_sound(gpu: GpuStatus) -> bool:
    """Whether a GPU can be given to a replica: one with memory errors that could not be corrected computes wrongly, or soon not at all."""
    return not gpu.ecc_errors


def bears(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all wanted labels are among `labels`."""
    return not wanted or wanted.items() <= labels.items()


def may_stay(assignment: Assignment, needs: Needs, node: NodeStatus | None, kept: int) -> bool:
    """Whether a replica's place still is what its request asks for, with `kept` others of its model there.

    Of a node that is gone nobody can tell. What was learned of its memory moves no replica: it runs where it is.
    """
    if needs.max_per_node is not None and kept >= needs.max_per_node:
        return False
    if node is None:
        return True
    return bears(node.labels, needs.node_labels) and not _is_too_small(assignment, needs, node)


def _is_too_small(assignment: Assignment, needs: Needs, node: NodeStatus) -> bool:
    least = needs.gpu_memory_bytes
    if least is None or needs.is_learned:
        return False
    for index in assignment.gpu_indexes:
        gpu = gpu_of(node, index)
        if gpu is not None and gpu.memory_total_bytes is not None and gpu.memory_total_bytes < least:
            return True
    return False


def gpu_of(node: NodeStatus, index: int) -> GpuStatus | None:
    """The GPU of that index; most nodes report theirs in order, and so it need not be looked for."""
    if index < len(node.gpus) and node.gpus[index].index == index:
        return node.gpus[index]
    return next((gpu for gpu in node.gpus if gpu.index == index), None)


def _free_bytes(gpu: GpuStatus) -> int:
    """0 for a GPU that does not tell how much it has."""
    return (gpu.memory_total_bytes or 0) - (gpu.memory_used_bytes or 0)


def _by_model(assignments: Iterable[Assignment]) -> Counter[str]:
    return Counter(assignment.spec.model_uid for assignment in assignments)


def _gpus_of(assignments: Iterable[Assignment]) -> set[int]:
    return {index for assignment in assignments for index in assignment.gpu_indexes}
