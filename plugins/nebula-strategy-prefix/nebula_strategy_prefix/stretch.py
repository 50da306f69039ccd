"""`Stretch`: prompts that a replica computed without a pause, from which is learned what one takes."""

from __future__ import annotations

from nebula_strategy_prefix.slowness import Slowness
from nebula_strategy_prefix.speed import Speed

MANY = 8
"""After so many prompts, what the last one's step did for the next one matters little."""


class Stretch:
    """Engines compute several prompts in one step, so that first tokens come in bunches and the time of one says little.

    The time from when somebody waits until nobody does is that of all the prompts in between, and so is that of many in a row.
    """

    __slots__ = ("_pairs", "_speed", "_spoilt", "_work", "count", "since", "slowness")

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self.slowness = Slowness()
        self.since = self._work = self._pairs = 0.0
        self.count = 0
        """Prompts computed in it; before the first, `since` is when somebody began to wait."""
        self._spoilt = False

    def begin(self, now: float) -> None:
        """Forget what was, and begin anew."""
        self.since, self.count, self._work, self._pairs, self._spoilt = now, 0, 0.0, 0.0, False

    def spoil(self) -> None:
        """The replica waited for something else: its time will tell nothing of prompts."""
        self._spoilt = True

    def add(self, work: int, total: int, *, last: bool, decoding: int, now: float) -> None:
        """The last `work` bytes of a prompt of `total` were computed; `last`: nobody waits now. So many others are being decoded."""
        self.count += 1
        self._work += work
        self._pairs += work * (total - 0.5 * work)
        if not last and self.count < MANY:
            return
        seconds = now - self.since
        if not self._spoilt and seconds >= 0:  # news of other workers come late, and here one of an earlier time did
            count, speed = self.count, self._speed
            each, pairs = self._work / count, self._pairs / count
            if speed.known:
                self.slowness.learn(count * speed.expected_s(each, pairs) * speed.beside(decoding), seconds)
            speed.learn(count, each, pairs, seconds / count / self.slowness.factor, decoding)
        self.since, self.count, self._work, self._pairs, self._spoilt = now, 0, 0.0, 0.0, False
