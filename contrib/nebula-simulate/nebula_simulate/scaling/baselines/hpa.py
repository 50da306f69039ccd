"""`hpa`: Kubernetes' HorizontalPodAutoscaler on a metric of its pods, here the requests that each has.

After its documentation ("Horizontal Pod Autoscaling", algorithm details and default behaviour), every 15 s:

    ratio = mean of the metric over ready pods / target;  within 10 % of 1: nothing changes
    wanted = ceil(ready pods x ratio)
    above 1, pods that are not ready count with 0 and among the pods; if that is no longer above 1.1, nothing changes
    up at once, by 4 pods or by as many as there are per 15 s, whichever is more
    down to the most that was wanted at any look of the last 300 s

The metric is a pod's own gauge (running and waiting requests), so that nothing is known while no pod is ready.
"""

from __future__ import annotations

from collections import deque
from math import ceil

from nebula_simulate.scaling.deciders import Bounds, Decider
from nebula_simulate.scaling.sight import Sight

TOLERANCE = 0.1
STABLE_S = 300.0
UP_PODS, UP_TIMES = 4, 2


class Hpa(Decider):
    """`target`: requests per pod."""

    every_s = 15.0

    def __init__(self, target: float, bounds: Bounds) -> None:
        self._target, self._bounds = target, bounds
        self._wanted: deque[tuple[float, int]] = deque()

    def wanted(self, sight: Sight, now: float) -> int:
        """By the rule above."""
        current = len(sight.replicas)
        if not self._wanted:
            self._wanted.append((now, current))  # what there is at first counts as wanted
        self._wanted.append((now, self._recommended(sight, current)))
        while self._wanted[0][0] <= now - STABLE_S:
            self._wanted.popleft()
        latest = self._wanted[-1][1]
        if latest < current:
            latest = min(current, max(number for _, number in self._wanted))
        return self._bounds.clamp(min(latest, max(current + UP_PODS, UP_TIMES * current)))

    def _recommended(self, sight: Sight, current: int) -> int:
        ready = len(sight.ready)
        if not ready:
            return current
        total = sum(each.in_flight for each in sight.ready)
        ratio = total / ready / self._target
        if ratio > 1 and ready < current:
            ratio, ready = total / current / self._target, current
            if ratio <= 1 + TOLERANCE:
                return current
        return current if abs(ratio - 1) <= TOLERANCE else ceil(ready * ratio)
