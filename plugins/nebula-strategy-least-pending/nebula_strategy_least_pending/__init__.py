"""Routes each request to the replica with the fewest requests on it."""

from __future__ import annotations

from collections.abc import Sequence

from nebula_core import Candidate, Pick, Provider, RouteRequest, Strategy, Turns, hookimpl


class LeastPending(Strategy):
    """Lowest load wins; equally loaded replicas take turns, so that an idle fleet is not served by its first replica alone."""

    def __init__(self) -> None:
        self._turns = Turns()

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """The least loaded candidate. The search starts one further with each request, and ends at the first idle one."""
        count = len(candidates)
        turn = self._turns.next(request.model_uid, count)
        best = candidates[turn]
        least = best.load
        for offset in range(1 - count, 0):
            if least == 0:
                break
            candidate = candidates[turn + offset]
            if (load := candidate.load) < least:
                best, least = candidate, load
        return Pick(best, "least_pending")


@hookimpl
def nebula_register_strategies() -> list[Provider[Strategy]]:
    """Offer `least_pending`."""
    return [Provider(name="least_pending", build=lambda context, settings: LeastPending())]
