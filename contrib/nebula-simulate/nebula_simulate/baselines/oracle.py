"""`oracle` and `oracle3`: what a router could do that knew each replica's true queue and cache."""

from __future__ import annotations

from collections.abc import Sequence

from nebula_core import Candidate, Pick, RouteRequest, Strategy
from nebula_simulate.scene import Scene


class Oracle(Strategy):
    """Least wait + `weight` × own uncached prefill, in seconds, as the engine itself reckons them; equals are drawn from by lot.

    With weight 1 it is greedy: the best for this request. Work also delays those who come after, which a weight of 3 allows for.
    """

    def __init__(self, scene: Scene, weight: float = 1.0) -> None:
        self._scene, self._weight = scene, weight

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """The replica of the least cost."""
        costs = [self._cost_s(request.request_id, candidate) for candidate in candidates]
        least = min(costs)
        equals = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost == least]
        return Pick(self._scene.rng.choice(equals), "oracle")

    def _cost_s(self, request_id: str, candidate: Candidate) -> float:
        engine, job = self._scene.engines[candidate.route.replica_id], self._scene.jobs[request_id]
        cached = engine.cached_tokens(job.blocks, job.prompt_tokens, queued=True)
        return engine.backlog_s(self._scene.clock()) + self._weight * engine.prefill_s(job.prompt_tokens - cached)
