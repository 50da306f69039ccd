"""A placement policy whose faults harm nobody: what it may not answer is logged, and the first place that fits is taken."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from nebula_core.interfaces import Place, Placement, Spot
from nebula_core.scheduler.first_fit import FirstFit
from nebula_core.types import ReplicaSpec


class Careful(Placement):
    """Asks `policy`, and says once what is wrong with its answers."""

    def __init__(self, policy: Placement, logger: logging.Logger) -> None:
        self._policy, self._logger = policy, logger
        self._first_fit = FirstFit()
        self._told: set[str] = set()

    def choose(self, spec: ReplicaSpec, places: Sequence[Place], siblings: Sequence[Mapping[str, str]]) -> Spot | None:
        """What the policy says, if that is one of `places` and as many of its free GPUs as needed."""
        try:
            spot = self._policy.choose(spec, places, siblings)
        except Exception as error:  # noqa: BLE001 - a fault in one plugin must not keep models from being placed; it is logged, once
            return self._instead(spec, places, siblings, f"it failed: {error!r}", error)
        if spot is None or _is_offered(spot, spec.gpus, places):
            return spot
        return self._instead(spec, places, siblings, f"it chose {spot}, which was not offered", None)

    def _instead(
        self, spec: ReplicaSpec, places: Sequence[Place], siblings: Sequence[Mapping[str, str]], fault: str, error: Exception | None
    ) -> Spot | None:
        kind = type(error).__name__ if error else "answer"
        if kind not in self._told:
            self._told.add(kind)
            name = type(self._policy).__name__
            self._logger.error("the placement policy %s is passed over for %s: %s", name, spec.model_uid, fault, exc_info=error)
        return self._first_fit.choose(spec, places, siblings)


def _is_offered(spot: Spot, gpus: int, places: Sequence[Place]) -> bool:
    place = next((place for place in places if place.node_id == spot.node_id), None)
    chosen = set(spot.gpu_indexes)
    return place is not None and len(chosen) == len(spot.gpu_indexes) == gpus and chosen <= {gpu.index for gpu in place.free_gpus}
