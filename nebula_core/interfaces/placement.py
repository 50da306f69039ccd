"""`Placement`: where a replica goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from nebula_core.types import ReplicaSpec


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's replicas need of their place, beside the engine and the GPUs that their spec names.

    They are no part of the spec: a replica that still has what it needs is not started anew when they change.
    """

    gpu_memory_bytes: int | None = None
    """Free memory of each GPU; `None`: nobody knows."""
    is_learned: bool = False
    """Whether that is what an earlier run took, and not what the request declares."""
    node_labels: Mapping[str, str] = {}
    max_per_node: int | None = None


class FreeGpu(msgspec.Struct, frozen=True):
    """A GPU that a replica may be given."""

    index: int
    name: str = ""
    memory_total_bytes: int | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A node that a replica fits on."""

    node_id: str
    labels: Mapping[str, str] = {}
    free_gpus: tuple[FreeGpu, ...] = ()
    """Those with the memory it needs that no other replica holds, by index; at least as many as it needs."""
    gpus: int = 0
    """All GPUs of the node, those in use included."""
    cpus: int | None = None
    """Logical processors of the node."""
    replicas: int = 0
    """Replicas of all models on it."""
    siblings: int = 0
    """Those of them that are of this model."""

    @property
    def load(self) -> float:
        """Replicas per processor: what replicas without GPUs go by, of whose needs nothing else is known."""
        return self.replicas / (self.cpus or 1)

    def alike(self, count: int) -> tuple[FreeGpu, ...]:
        """So many of its free GPUs that differ as little as can be in memory, for one engine on all of them; the smallest such."""
        by_size = sorted(self.free_gpus, key=lambda gpu: (gpu.memory_total_bytes or 0, gpu.name, gpu.index))
        groups = [tuple(by_size[first : first + count]) for first in range(len(by_size) - count + 1)]
        return min(groups, key=lambda group: (_sizes_apart(group), group[0].memory_total_bytes or 0)) if count else ()

    def spot(self, count: int) -> Spot:
        """This node with those GPUs."""
        return Spot(self.node_id, tuple(sorted(gpu.index for gpu in self.alike(count))))


class Spot(msgspec.Struct, frozen=True):
    """A node and the GPUs on it that a replica gets."""

    node_id: str
    gpu_indexes: tuple[int, ...] = ()


def _sizes_apart(gpus: Sequence[FreeGpu]) -> int:
    return (gpus[-1].memory_total_bytes or 0) - (gpus[0].memory_total_bytes or 0)


class Placement(ABC):
    """Chooses among the places that a replica fits on. Pure: the same values in, the same answer out, for standby schedulers, too.

    What a replica needs (engine, labels, GPUs and their memory, `max_per_node`) is seen to before; so is that no GPU is given twice.
    """

    @abstractmethod
    def choose(self, spec: ReplicaSpec, needs: Needs, places: Sequence[Place], siblings: Sequence[Mapping[str, str]]) -> Spot | None:
        """A node of `places` and as many of its free GPUs as `spec.gpus`; `None`: it shall wait.

        `places` are never empty, and by node_id; of nodes that are alike in all but their name, only the first is among them.
        `siblings` are the labels of the nodes that this model's other replicas are on, one for each replica.
        """
