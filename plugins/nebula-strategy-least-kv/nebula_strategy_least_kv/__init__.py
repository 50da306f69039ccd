"""Routes each request to the replica whose KV cache is the least used."""

from __future__ import annotations

from collections.abc import Sequence

from nebula_core import Candidate, Context, Pick, Provider, RouteRequest, Strategy, Turns, hookimpl


class LeastKv(Strategy):
    """The least used KV cache wins, in bytes if all engines report bytes, else as a share; ties go to the lower load,
    and where that is equal too the replicas take turns.

    A sample is seconds old, and a burst must not pile up on the replica that was the emptiest then. So each request beyond those
    that the sample counted weighs as much as a running one does on average.
    """

    signals = ("kv_cache_used_bytes", "kv_cache_usage")

    def __init__(self, context: Context) -> None:
        self._logger = context.logger
        self._missing = context.metrics.counter(
            "nebula_strategy_least_kv_missing_total", "Decisions left to the fallback, because an engine does not report its KV cache."
        ).labels()
        self._told: set[str] = set()
        self._turns = Turns()

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        """The candidate with the least KV cache in use; `None` unless all report it."""
        used = [candidate.stats.kv_cache_used_bytes for candidate in candidates]
        if None in used:
            used = [candidate.stats.kv_cache_usage for candidate in candidates]
        known = [value for value in used if value is not None]
        if len(known) < len(candidates):
            self._hand_over(candidates[used.index(None)])
            return None
        counted, loads = [_counted(candidate) for candidate in candidates], [candidate.load for candidate in candidates]
        per_request = sum(known) / (sum(counted) or sum(loads) or 1.0)
        expected = [value + max(0.0, load - seen) * per_request for value, load, seen in zip(known, loads, counted, strict=True)]
        start = self._turns.next(request.model_uid, len(candidates))
        best = min((*range(start, len(candidates)), *range(start)), key=lambda i: (expected[i], loads[i]))
        return Pick(candidates[best], "least_kv")

    def _hand_over(self, silent: Candidate) -> None:
        self._missing.inc()
        if silent.route.model_uid not in self._told:
            self._told.add(silent.route.model_uid)
            self._logger.warning(
                "least_kv: replica %s of %s reports no KV cache usage, so that [router] fallback decides; said once for each model",
                silent.route.replica_id,
                silent.route.model_uid,
            )


def _counted(candidate: Candidate) -> float:
    """Requests that were running when the sample was taken, as far as it says; those waiting hold no KV cache yet, but will."""
    return (candidate.stats.running or 0.0) + (candidate.stats.pending or 0.0)


@hookimpl
def nebula_register_strategies() -> list[Provider[Strategy]]:
    """Offer `least_kv`."""
    return [Provider(name="least_kv", build=lambda context, settings: LeastKv(context))]
