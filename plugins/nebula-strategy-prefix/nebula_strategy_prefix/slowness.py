"""`Slowness`: by what factor a replica is slower than the others of its model, as far as there is strong evidence."""

from __future__ import annotations

from math import exp, log, sqrt

DECAY = 0.95
"""Each stretch of work weighs this much less with every later one: about the last twenty count."""
EVEN_S = 0.02
"""Times are compared with so much added: what is shorter is noise."""
TELLING_S = 0.2
"""A shorter stretch counts less: it is mostly what its step did besides."""
MOST = log(10.0)
"""A stretch counts as no more than this."""
DOUBTED, SURE = 3.0, 6.0
"""A mean of fewer standard errors says nothing, one of more is believed, and in between it counts in part."""
LEAST_ERROR = 0.01
"""No mean is known better."""
REFIT = 4
"""Looked at with every so many: it hardly moves with one of twenty."""
LEAST = 6.0
"""With fewer stretches of equal weight a replica is like the others."""


class Slowness:
    """The mean of log(seconds taken / seconds expected): slow replicas and fast ones are told alike, and one odd stretch moves it little.

    Replicas of one model are mostly alike, and what noise makes of them costs more than a true difference found a little later.
    """

    __slots__ = ("_seen", "_squares", "_sum", "_weight", "_weight2", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        """1: like the others, 2: twice as slow."""
        self._seen = 0
        self._weight = self._weight2 = self._sum = self._squares = 0.0

    def learn(self, expected_s: float, seconds: float) -> None:
        """What the others would have done in `expected_s` took so many seconds."""
        ratio = min(max(log((seconds + EVEN_S) / (expected_s + EVEN_S)), -MOST), MOST)
        weight = (expected_s + EVEN_S) / (expected_s + TELLING_S)
        self._weight = self._weight * DECAY + weight
        self._weight2 = self._weight2 * DECAY * DECAY + weight * weight
        self._sum = self._sum * DECAY + weight * ratio
        self._squares = self._squares * DECAY + weight * ratio * ratio
        self._seen += 1
        if self._seen % REFIT == 0:
            self._believe()

    def _believe(self) -> None:
        count = self._weight * self._weight / self._weight2
        if count < LEAST:
            return
        mean = self._sum / self._weight
        error = max(LEAST_ERROR, sqrt(max(0.0, self._squares / self._weight - mean * mean) / count))
        belief = (abs(mean) / error - DOUBTED) / (SURE - DOUBTED)
        self.factor = exp(mean * min(max(belief, 0.0), 1.0))
