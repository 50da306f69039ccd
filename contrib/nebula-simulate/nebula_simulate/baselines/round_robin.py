"""`round_robin`: one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from nebula_core import Candidate, Pick, RouteRequest, Strategy


class RoundRobin(Strategy):
    """Counts, and knows nothing else; each gateway counts by itself."""

    def __init__(self) -> None:
        self._turn = -1

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """The next one."""
        self._turn = (self._turn + 1) % len(candidates)
        return Pick(candidates[self._turn], "round_robin")
