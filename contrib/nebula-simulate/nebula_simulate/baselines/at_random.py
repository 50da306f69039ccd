"""`random`: any replica, each with the same chance."""

from __future__ import annotations

from collections.abc import Sequence

from nebula_core import Candidate, Pick, RouteRequest, Strategy
from nebula_simulate.scene import Scene


class AtRandom(Strategy):
    """Knows nothing."""

    def __init__(self, scene: Scene) -> None:
        self._rng = scene.rng

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """Throw dice."""
        return Pick(self._rng.choice(candidates), "random")
