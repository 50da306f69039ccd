"""`Room`: the KV memory of a replica: what requests hold of it, and how soon they give it back."""

from __future__ import annotations

from math import inf

REMEMBERED = 0.8
"""Weight that the share of prompts in use keeps with each new sample."""
TELLING = 0.1
"""A sample tells it when running requests would fill at least so much of the memory."""
MOST_SHARE = 2.0
"""Answers at most double what prompts hold."""


class Room:
    """An engine begins with a prompt when all of it has room. Caches that nobody uses give way; who runs has to end first.

    What running prompts have in common and what their answers add, the engine alone knows. The memory that it reports to be in use,
    divided by the sum of their prompts, is learned from its samples. One that reports none is taken to have room for everybody.
    """

    __slots__ = ("_held", "_life_s", "_share", "budget", "known", "queued", "release_s", "running", "short")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Bytes of prompts that the memory holds."""
        self.known = False
        """Its engine reports what is in use."""
        self.running = self.queued = 0
        """Bytes of the prompts of those who have a first token, and of those who wait for it."""
        self.short = -inf
        """Bytes that are missing for all of them; below 0: so many more have room."""
        self.release_s = 0.0
        """Seconds until a byte is given back, while all who wait get their turn."""
        self._share = 1.0
        self._held = self._life_s = 0.0

    def note(self, usage: float | None, budget: int, beginning: int) -> None:
        """Take over a sample: the share in use, by those who run and `beginning` bytes of a prompt that is being computed."""
        self.budget, self.known = budget, usage is not None
        if usage is None:
            self.short = -inf
        elif self.running > TELLING * budget:
            share = min(usage * budget / (self.running + beginning), MOST_SHARE)
            self._share += (1.0 - REMEMBERED) * (share - self._share)

    def reckon(self, life_s: float) -> None:
        """Something began or ended, and what is in use is known; those who run go on for `life_s` on average."""
        self._held, self._life_s = self._share * self.running, life_s
        if self._held <= 0:
            self.short = -inf
            return
        self.short = self._held + self.queued - self.budget
        self.release_s = life_s / min(self._held + self.queued, self.budget)

    def lacking_s(self, total: int) -> float:
        """Seconds until the first in the queue, a prompt of `total` bytes, has room."""
        if self.short == -inf:
            return 0.0
        return max(0.0, self._held + total - self.budget) * self._life_s / self._held
