"""How places are chosen where no placement policy is installed: the safe minimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nebula_core.interfaces import Place, Placement, Spot
from nebula_core.types import ReplicaSpec


class FirstFit(Placement):
    """The first node and its first GPUs; a replica without GPUs goes to the node with the fewest replicas per processor."""

    def choose(self, spec: ReplicaSpec, places: Sequence[Place], siblings: Sequence[Mapping[str, str]]) -> Spot | None:
        """Always one of them."""
        place = places[0] if spec.gpus else min(places, key=lambda place: place.replicas / (place.cpus or 1))
        return Spot(place.node_id, tuple(gpu.index for gpu in place.free_gpus[: spec.gpus]))
