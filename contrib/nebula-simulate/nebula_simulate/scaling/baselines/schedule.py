"""A fleet by the clock: so many replicas at such times, whatever comes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from nebula_simulate.scaling.deciders import Decider
from nebula_simulate.scaling.sight import Sight


class Schedule(Decider):
    """`changes` are (second, replicas from then on), in their order; the first is at 0."""

    def __init__(self, changes: Sequence[tuple[float, int]], every_s: float = 10.0) -> None:
        self._times, self._numbers = [at for at, _ in changes], [number for _, number in changes]
        self.every_s = every_s

    @property
    def first(self) -> int:
        """Replicas at the beginning."""
        return self._numbers[0]

    def wanted(self, sight: Sight, now: float) -> int:
        """What it was told to begin with."""
        return self._numbers[max(0, bisect_right(self._times, now) - 1)]


def fixed(number: int) -> Schedule:
    """Always as many."""
    return Schedule([(0.0, number)])
