"""`Beginners`: replicas that have answered too little to be known, and go by what all of a model's replicas show together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nebula_strategy_prefix.pace import Pace

if TYPE_CHECKING:
    from nebula_strategy_prefix.replica import Replica


class Beginners:
    """Those who answered first may prove faster than was believed of all: without this the others would never be asked."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        """Of all replicas, as long as there are beginners."""
        self.replicas: set[Replica] = set()

    def learn(self, effort: float, seconds: float, decoding: int) -> None:
        """Some replica's first token came."""
        self.pace.learn(effort, seconds, decoding)
        for replica in self.replicas:
            replica.take_over()
