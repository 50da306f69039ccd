"""`Beginners`: replicas that have answered too little to be known, and go by what all of a model's replicas show together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nebula_strategy_prefix.pace import Pace

if TYPE_CHECKING:
    from nebula_strategy_prefix.replica import Replica


NEWS = 0.05
"""They are told when what a usual request takes has changed by so much: telling hundreds at each first token would cost 0.1 ms."""


class Beginners:
    """Those who answered first may prove faster than was believed of all: without this the others would never be asked."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        """Of all replicas, as long as there are beginners."""
        self.replicas: set[Replica] = set()
        self._told_s = 0.0

    def learn(self, effort: float, seconds: float, decoding: int) -> None:
        """Some replica's first token came."""
        self.pace.learn(effort, seconds, decoding)
        if abs(self.pace.mean_s - self._told_s) <= NEWS * self._told_s:
            return
        self._told_s = self.pace.mean_s
        for replica in self.replicas:
            replica.take_over()
