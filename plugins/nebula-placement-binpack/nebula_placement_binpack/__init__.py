"""Places replicas on the fullest node they fit on, so that whole nodes stay free for models that need many GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nebula_core import Needs, Place, Placement, Provider, ReplicaSpec, Spot, hookimpl


class Binpack(Placement):
    """Best fit: the smallest GPUs that have the memory, then the node that has the fewest left over.

    What needs no GPU goes where the fewest replicas per processor are: nothing tells when such a node is full. Of equals, a node with
    fewer replicas of the model comes first, then the one whose name does.
    """

    def choose(self, spec: ReplicaSpec, needs: Needs, places: Sequence[Place], siblings: Sequence[Mapping[str, str]]) -> Spot | None:
        """Always one of `places`."""
        if not spec.gpus:
            return min(places, key=lambda place: (place.load, place.siblings, place.node_id)).spot(0)
        by_size = needs.gpu_memory_bytes is not None  # nobody knows whether the smallest will do otherwise
        return min(places, key=lambda place: _waste(place, spec.gpus, by_size=by_size)).spot(spec.gpus)


def _waste(place: Place, gpus: int, *, by_size: bool) -> tuple[int, int, int, str]:
    memory = sum(gpu.memory_total_bytes or 0 for gpu in place.alike(gpus)) if by_size else 0
    return memory, len(place.free_gpus) - gpus, place.siblings, place.node_id


@hookimpl
def nebula_register_placements() -> list[Provider[Placement]]:
    """Offer `binpack`."""
    return [Provider(name="binpack", build=lambda context, settings: Binpack())]
