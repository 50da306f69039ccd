"""How places are chosen where no placement policy is installed: the safe minimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nebula_core.interfaces import Needs, Place, Placement, Spot
from nebula_core.types import ReplicaSpec


class FirstFit(Placement):
    """The first node; a replica without GPUs goes to the node with the fewest replicas per processor."""

    def choose(self, spec: ReplicaSpec, needs: Needs, places: Sequence[Place], siblings: Sequence[Mapping[str, str]]) -> Spot | None:
        """Always one of them."""
        place = places[0] if spec.gpus else min(places, key=lambda place: place.load)
        return place.spot(spec.gpus)
