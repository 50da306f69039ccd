"""A placement policy whose faults harm nobody: what it may not answer is logged, and the first place that fits is taken."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from nebula_core.interfaces import Needs, Place, Placement, Spot
from nebula_core.scheduler.first_fit import FirstFit
from nebula_core.types import ReplicaSpec


class Careful(Placement):
    """Asks `policy`, and says once what is wrong with its answers."""

    def __init__(self, policy: Placement, logger: logging.Logger) -> None:
        self._policy, self._logger = policy, logger
        self._first_fit = FirstFit()
        self._told: set[str] = set()

    def choose(self, spec: ReplicaSpec, needs: Needs, places: Sequence[Place], siblings: Sequence[Mapping[str, str]]) -> Spot | None:
        """What the policy says, if that is one of `places` and as many of its free GPUs as needed."""
        try:
            spot = self._policy.choose(spec, needs, places, siblings)
        except Exception as error:  # noqa: BLE001 - a fault in one plugin must not keep models from being placed; it is logged, once
            self._tell(spec, f"it failed: {error!r}", error)
        else:
            if spot is None or _is_offered(spot, spec.gpus, places):
                return spot
            self._tell(spec, f"it chose {spot}, which was not offered", None)
        return self._first_fit.choose(spec, needs, places, siblings)

    def _tell(self, spec: ReplicaSpec, fault: str, error: Exception | None) -> None:
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            name = type(self._policy).__name__
            self._logger.error("the placement policy %s is passed over for %s: %s", name, spec.model_uid, fault, exc_info=error)


def _is_offered(spot: Spot, gpus: int, places: Sequence[Place]) -> bool:
    place = next((place for place in places if place.node_id == spot.node_id), None)
    chosen = set(spot.gpu_indexes)
    return place is not None and len(chosen) == len(spot.gpu_indexes) == gpus and chosen <= {gpu.index for gpu in place.free_gpus}
