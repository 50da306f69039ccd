"""The prefix cache's hit rate over a sliding window, from two counters."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class _Sample(NamedTuple):
    at: float
    computed: float
    cached: float


class HitRate:
    """Share of prompt tokens that came from the cache during the last `window_s` seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._samples: deque[_Sample] = deque()

    def observe(self, now: float, computed: float | None, cached: float | None) -> float | None:
        """Take in both counters, in one unit; the rate (0–1), or `None` while there is nothing to compare or no prompt came in.

        An engine that lacks one of them has no rate. A counter that went back means another engine process: what was before is forgotten.
        """
        if computed is None or cached is None:
            return None
        samples = self._samples
        if samples and (computed < samples[-1].computed or cached < samples[-1].cached):
            samples.clear()
        samples.append(_Sample(now, computed, cached))
        while len(samples) > 2 and samples[1].at <= now - self._window_s:
            samples.popleft()
        computed_since = computed - samples[0].computed
        cached_since = cached - samples[0].cached
        total = computed_since + cached_since
        return cached_since / total if total > 0 else None
