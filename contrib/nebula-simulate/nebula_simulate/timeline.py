"""Virtual time: what is to be done, in order of when."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Act = Callable[[], None]


class Timeline:
    """A clock that jumps from one thing to the next. What is due at the same time is done in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Act]] = []
        self._count = 0

    def clock(self) -> float:
        """Virtual seconds since the start."""
        return self.now

    def at(self, when: float, act: Act) -> None:
        """Do something at a time, which must not be past."""
        self._count += 1
        heapq.heappush(self._due, (when, self._count, act))

    def step(self) -> bool:
        """Jump to what is due next and do it; false if nothing is."""
        if not self._due:
            return False
        self.now, _, act = heapq.heappop(self._due)
        act()
        return True
