"""Routes each request to the replica whose engine reports the highest prefix cache hit rate."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from nebula_core import Candidate, Context, Pick, PluginSettings, Provider, RouteRequest, Strategy, Turns, hookimpl


class HitRateSettings(PluginSettings):
    """`[strategy_hit_rate]`."""

    threshold: float = Field(0.3, ge=0, le=1)
    """The best hit rate must be at least this (0–1); below it the least loaded replica is taken."""


class HitRate(Strategy):
    """The highest `prefix_cache_hit_rate` wins, ties go to the lower load; if none reaches the threshold, the lowest load wins.

    Equals take turns, so that an idle fleet is not served by its first replica alone.
    """

    signals = ("prefix_cache_hit_rate",)
    signals_of = "any"

    def __init__(self, context: Context, settings: HitRateSettings) -> None:
        self._threshold = settings.threshold
        self._logger = context.logger
        self._missing = context.metrics.counter(
            "nebula_strategy_hit_rate_missing_total", "Decisions left to the fallback, because no engine reports a prefix cache hit rate."
        ).labels()
        self._told: set[str] = set()
        self._turns = Turns()

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        """The candidate with the highest hit rate, or the lowest load; `None` if no engine reports a hit rate."""
        rates = [candidate.stats.prefix_cache_hit_rate for candidate in candidates]
        known = [rate for rate in rates if rate is not None]
        if not known:
            self._hand_over(request.model_uid)
            return None
        best = max(known)
        if best < self._threshold:
            return Pick(self._least_loaded(request.model_uid, candidates), "least_pending")
        highest = [candidate for candidate, rate in zip(candidates, rates, strict=True) if rate == best]
        return Pick(self._least_loaded(request.model_uid, highest), "hit_rate")

    def _least_loaded(self, model_uid: str, candidates: Sequence[Candidate]) -> Candidate:
        start = self._turns.next(model_uid, len(candidates))
        return min([*candidates[start:], *candidates[:start]], key=lambda candidate: candidate.load)

    def _hand_over(self, model_uid: str) -> None:
        self._missing.inc()
        if model_uid not in self._told:
            self._told.add(model_uid)
            self._logger.warning(
                "hit_rate: no replica of %s reports a prefix cache hit rate, so that [router] fallback decides; said once for each model",
                model_uid,
            )


@hookimpl
def nebula_register_strategies() -> list[Provider[Strategy]]:
    """Offer `hit_rate`."""
    return [Provider(name="hit_rate", build=HitRate, settings_type=HitRateSettings)]
