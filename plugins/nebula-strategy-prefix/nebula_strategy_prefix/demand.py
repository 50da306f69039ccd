"""`Demand`: how much a model is asked of, and what a second of work on a replica therefore costs those who come later."""

from __future__ import annotations

from math import exp

WINDOW_S = 60.0
"""Arrivals weigh less with their age; after this time a third."""
RESOLUTION_S = 0.001
"""Arrivals closer together than this are summed up at once: in a flood the sums cost more than what they are about."""
SETTLE_S = 5.0
"""Before so much time is seen, no rate is believed to be higher than it would be over that time."""
SHARE = 0.5
"""On a fleet that is busy all the time, of those who arrive while a replica is busy so many wait there: the others find a better one."""
MOST = 10.0
"""A fleet at its limit counts as one that is a tenth idle; the queue itself says the rest."""


class Demand:
    """Arrivals and work of one model, over all its replicas."""

    __slots__ = ("_arrivals", "_last", "_new", "_new_work", "_span", "_work", "delayed_per_s")

    def __init__(self) -> None:
        self._arrivals = self._work = self._span = 0.0
        self._last: float | None = None
        self._new = 0
        self._new_work = 0.0
        """What came since the sums were last made."""
        self.delayed_per_s = 0.0
        """Requests that each second of a replica's queue will delay."""

    def arrived(self, work_s: float, replicas: int, now: float) -> None:
        """A request came that one of so many replicas computes for `work_s` seconds."""
        self._new += 1
        self._new_work += work_s
        if self._last is None or now - self._last >= RESOLUTION_S:
            self._sum_up(replicas, now)

    def _sum_up(self, replicas: int, now: float) -> None:
        """Work holds up those who arrive for its replica meanwhile, and who in turn hold up others, the more the less idle the fleet is.

        They wait only as far as no other replica is idle, for which the share of time that the fleet is busy stands.
        """
        passed = max(0.0, now - self._last) if self._last is not None else 0.0
        kept = exp(-passed / WINDOW_S)
        self._arrivals = self._arrivals * kept + self._new
        self._work = self._work * kept + self._new_work
        self._span = self._span * kept + passed
        self._last, self._new, self._new_work = now, 0, 0.0
        time = max(self._span, SETTLE_S) * max(replicas, 1)
        idle = max(1.0 - self._work / time, 1.0 / MOST)
        self.delayed_per_s = SHARE * (1.0 - idle) * self._arrivals / time / idle
