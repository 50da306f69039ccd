"""Places the replicas of a model apart, so that a node or a zone that fails takes as few of them as can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from nebula_core import Needs, Place, Placement, PluginSettings, Provider, ReplicaSpec, Spot, hookimpl


class Settings(PluginSettings):
    """`[placement_spread]`."""

    zone_label: str = Field("zone", min_length=1)
    """The label of a node that says what may fail together with others; nodes without it count as one zone."""


class Spread(Placement):
    """The zone with the fewest replicas of the model, there the node with the fewest, and of these the emptiest.

    Of equals the node whose name comes first.
    """

    def __init__(self, settings: Settings) -> None:
        self._label = settings.zone_label

    def choose(self, spec: ReplicaSpec, needs: Needs, places: Sequence[Place], siblings: Sequence[Mapping[str, str]]) -> Spot | None:
        """Always one of `places`."""
        in_zone = Counter(labels.get(self._label) for labels in siblings)

        def crowd(place: Place) -> tuple[int, int, float, str]:
            return in_zone[place.labels.get(self._label)], place.siblings, _use(place, spec.gpus), place.node_id

        return min(places, key=crowd).spot(spec.gpus)


def _use(place: Place, gpus: int) -> float:
    """Share of the node's GPUs that it cannot be given; for a replica without GPUs, the replicas per processor."""
    return 1 - len(place.free_gpus) / place.gpus if gpus else place.load


@hookimpl
def nebula_register_placements() -> list[Provider[Placement]]:
    """Offer `spread`."""
    return [Provider(name="spread", build=lambda context, settings: Spread(settings), settings_type=Settings)]
