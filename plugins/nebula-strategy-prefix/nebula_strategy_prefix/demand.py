"""`Demand`: how much a model is asked of, and what a second of work on a replica therefore costs those who come later."""

from __future__ import annotations

from math import exp

WINDOW_S = 60.0
"""Arrivals weigh less with their age; after this time a third."""
SETTLE_S = 5.0
"""Before so much time is seen, no rate is believed to be higher than it would be over that time."""
SHARE = 0.5
"""Of those who arrive while a replica is busy so many are taken to wait there: the others find a better one."""
MOST = 10.0
"""A fleet at its limit counts as one that is a tenth idle; the queue itself says the rest."""


class Demand:
    """Arrivals and work of one model, over all its replicas."""

    __slots__ = ("_arrivals", "_last", "_span", "_work", "delayed_per_s")

    def __init__(self) -> None:
        self._arrivals = self._work = self._span = 0.0
        self._last: float | None = None
        self.delayed_per_s = 0.0
        """Requests that each second of a replica's queue will delay."""

    def arrived(self, work_s: float, replicas: int, now: float) -> None:
        """A request came that one of so many replicas computes for `work_s` seconds.

        While a replica is busy, requests arrive for it, and with the share of time that the fleet is busy, they in turn meet others.
        """
        passed = max(0.0, now - self._last) if self._last is not None else 0.0
        self._last = now
        kept = exp(-passed / WINDOW_S)
        self._arrivals = self._arrivals * kept + 1
        self._work = self._work * kept + work_s
        self._span = self._span * kept + passed
        time = max(self._span, SETTLE_S) * max(replicas, 1)
        idle = max(1.0 - self._work / time, 1.0 / MOST)
        self.delayed_per_s = SHARE * self._arrivals / time / idle
