"""`apa`: AIBrix's own autoscaler of pods (`podautoscaler`, algorithm/apa.go and its documentation), on the requests that each pod has.

Every 10 s, with the mean of the metric over pods and over a stable window of 180 s:

    ratio = mean / target
    ratio > 1.1: min(ceil(2 x pods), ceil(pods x ratio))       ratio < 0.9: max(floor(pods / 2), ceil(pods x ratio))
    up at once;  down to the most that was wanted at any look of the last 300 s

As documented, and read in its favour where what was shipped differs: the cooldown takes the most for going down (the code took the
least); a pod that does not answer yet is left out of the mean (the code read 0); and while pods are starting none are added on their
account (the code added some at every look, until that was mended).
"""

from __future__ import annotations

from collections import deque
from math import ceil, floor

from nebula_simulate.scaling.deciders import Bounds, Decider
from nebula_simulate.scaling.sight import Sight

TOLERANCE = 0.1
UP_RATE, DOWN_RATE = 2, 2
STABLE_S, COOLDOWN_S = 180.0, 300.0


class Apa(Decider):
    """`target`: requests per pod."""

    every_s = 10.0

    def __init__(self, target: float, bounds: Bounds) -> None:
        self._target, self._bounds = target, bounds
        self._seen: deque[tuple[float, float]] = deque()
        self._wanted: deque[tuple[float, int]] = deque()

    def wanted(self, sight: Sight, now: float) -> int:
        """By the rule above."""
        ready, current = sight.ready, len(sight.replicas)
        if ready:
            self._seen.append((now, sum(each.in_flight for each in ready) / len(ready)))
        _forget(self._seen, now - STABLE_S)
        if not self._wanted:
            self._wanted.append((now, current))  # what there is at first counts as wanted
        self._wanted.append((now, self._recommended(len(ready), current)))
        _forget(self._wanted, now - COOLDOWN_S)
        latest = self._wanted[-1][1]
        if latest < current:
            latest = min(current, max(number for _, number in self._wanted))
        return self._bounds.clamp(latest)

    def _recommended(self, ready: int, current: int) -> int:
        if not self._seen or not ready:
            return current
        ratio = sum(value for _, value in self._seen) / len(self._seen) / self._target
        if ratio > 1 + TOLERANCE:
            return max(current, min(ceil(UP_RATE * ready), ceil(ready * ratio)))
        if ratio < 1 - TOLERANCE:
            return max(floor(current / DOWN_RATE), ceil(current * ratio))
        return current


def _forget(seen: deque[tuple[float, float]] | deque[tuple[float, int]], before: float) -> None:
    while seen and seen[0][0] <= before:
        seen.popleft()
