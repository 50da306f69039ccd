"""The rule: caches too full, or queues too long, for a while: more. Nothing waiting for a longer while, and room in the others: fewer."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import msgspec
from pydantic import Field, model_validator

from nebula_core import PluginSettings, Proposal, ScalingPolicy, ScalingSignals, Window
from nebula_scaler_load.memory import Memory
from nebula_scaler_load.reading import Reading, read

LEAST_SEEN = 0.5
"""Share of the short window for which load must have been seen before it counts."""


class Settings(PluginSettings):
    """`[scaler_load]`."""

    high: float = Field(0.8, gt=0, le=1)
    """Mean `kv_cache_usage` above which replicas are added."""
    low: float = Field(0.6, gt=0, le=1)
    """Mean `kv_cache_usage` that the remaining replicas would have at most, for one to be taken away. Between the two nothing changes."""
    queue: float = Field(4.0, gt=0)
    """Requests waiting per replica above which replicas are added, however full the caches are: some engines fill up before those do."""
    up_window_s: float = Field(60.0, gt=0)
    """Time over which one of them must be exceeded."""
    down_window_s: float = Field(300.0, gt=0)
    """Time for which nothing may have waited, and `low` been kept."""

    @model_validator(mode="after")
    def _are_apart(self) -> Settings:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g}), or replicas would come and go in turn")
        return self


class LoadPolicy(ScalingPolicy):
    """By what engines say of themselves alone; gateways count for the last replica only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def propose(self, signals: ScalingSignals, memory: Mapping[str, Any], now: float) -> Proposal:
        """One step of the rule."""
        reading = read(signals)
        fresh = Memory.fresh(self._settings.up_window_s, self._settings.down_window_s, signals.wanted)
        seen = Memory.recall(memory, fresh).add(reading, fresh, now)
        number, reason = self._decide(reading, signals.wanted, seen, now)
        inputs = {
            "ready": float(reading.ready),
            "starting": float(reading.coming),
            "kv_cache_usage": reading.per_replica(seen.caches.mean(now)),
            "pending_per_replica": reading.per_replica(seen.queue.mean(now)),
            "quiet_s": seen.waiting.covered_s(now) if seen.waiting.most(now) == 0 else 0.0,
        }
        return Proposal(replicas=number, reason=reason, inputs=inputs, memory=msgspec.to_builtins(seen))

    def _decide(self, reading: Reading, wanted: int, seen: Memory, now: float) -> tuple[int | None, str]:
        if not reading.ready:
            return None, f"no replica is ready, {reading.coming} starting" if wanted else "there are none until somebody asks for it"
        if reading.caches is None and reading.pending is None:
            return None, "too few replicas tell their load"
        caches, queue = (
            self._excess(seen.caches, self._settings.high, reading, now),
            self._excess(seen.queue, self._settings.queue, reading, now),
        )
        if caches or queue:
            return wanted + max(caches, queue), self._usage(reading, seen, now) if caches else self._queue(reading, seen, now)
        return self._fewer(reading, wanted, seen, now)

    def _excess(self, window: Window, mark: float, reading: Reading, now: float) -> int:
        """How many replicas more would bring the mean down to the mark; those that are starting count as if they served."""
        total, capacity = window.mean(now) or 0.0, reading.ready + reading.coming
        if window.covered_s(now) < LEAST_SEEN * self._settings.up_window_s or total <= mark * capacity:
            return 0
        return max(1, ceil(total / mark) - capacity)

    def _fewer(self, reading: Reading, wanted: int, seen: Memory, now: float) -> tuple[int, str]:
        if not reading.is_whole:
            return wanted, f"{self._usage(reading, seen, now)}; not every replica tells its load, so none goes"
        if seen.waiting.most(now) != 0 or not seen.waiting.full(now):
            return wanted, self._usage(reading, seen, now)
        quiet = f"nothing has waited for {self._settings.down_window_s:.0f} s"
        if seen.requests.most(now) == 0:
            return max(0, wanted - 1), f"{quiet}, and there was no request at all"
        left = max(1, ceil((seen.most_caches.most(now) or 0.0) / self._settings.low))
        if left >= min(wanted, reading.ready + reading.coming):
            return wanted, f"{quiet}, and fewer replicas would have more than {self._settings.low:.0%} of their KV caches in use"
        return wanted - 1, f"{quiet}, and the others will have no more than {self._settings.low:.0%} of their KV caches in use"

    def _usage(self, reading: Reading, seen: Memory, now: float) -> str:
        mean = reading.per_replica(seen.caches.mean(now))
        if mean is None:
            return "how full the KV caches are is not known"
        relation = "above" if mean > self._settings.high else "not above"
        return f"{mean:.0%} of the KV caches in use{self._over(reading)}, {relation} {self._settings.high:.0%}"

    def _queue(self, reading: Reading, seen: Memory, now: float) -> str:
        mean = reading.per_replica(seen.queue.mean(now)) or 0.0
        return f"{mean:.1f} requests waiting per replica{self._over(reading)}, above {self._settings.queue:g}"

    def _over(self, reading: Reading) -> str:
        starting = f" and {reading.coming} starting" if reading.coming else ""
        return f" over {self._settings.up_window_s:.0f} s ({reading.ready} ready{starting})"
