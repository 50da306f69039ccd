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

    __slots__ = ("_count", "_pairs", "_since", "_speed", "_spoilt", "_work", "slowness")

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self.slowness = Slowness()
        self._since = self._work = self._pairs = 0.0
        self._count = 0
        self._spoilt = False

    @property
    def empty(self) -> bool:
        """No prompt was computed in it yet."""
        return not self._count

    def begin(self, now: float) -> None:
        """Forget what was, and begin anew."""
        self._since, self._count, self._work, self._pairs, self._spoilt = now, 0, 0.0, 0.0, False

    def spoil(self) -> None:
        """The replica waited for something else: its time will tell nothing of prompts."""
        self._spoilt = True

    def add(self, work: int, total: int, *, last: bool, decoding: int, now: float) -> None:
        """The last `work` bytes of a prompt of `total` were computed; `last`: nobody waits now. So many others are being decoded."""
        self._count += 1
        self._work += work
        self._pairs += work * (total - 0.5 * work)
        if not last and self._count < MANY:
            return
        if not self._spoilt:
            self._learn(now - self._since, decoding)
        self.begin(now)

    def _learn(self, seconds: float, decoding: int) -> None:
        count, speed = self._count, self._speed
        work, pairs = self._work / count, self._pairs / count
        if speed.known:
            self.slowness.learn(count * speed.expected_s(work, pairs) * speed.beside(decoding), seconds)
        speed.learn(count, work, pairs, seconds / count / self.slowness.factor, decoding)
