"""What a request takes of a replica, learned from how many run and how fast they pass.

An engine that batches does everything in steps. A step takes a while whatever is in it, s, and c more for each sequence in it; a request
needs o of them for its answer, and its prompt p seconds of a step to itself. With n requests at a time and x of them passing per second,
each second is x p + x o (s + c n) / n = 1 (steps per second are x o / n), and by Little's law each of them takes

    n / x = o s + (p + o c) n = alone + each x n

So what a request takes grows by the same with every other one beside it, and no replica can pass more than 1 / `each` per second, however
many it takes at once. s and `each` are found by least squares from what was seen: answers of `o` tokens (1 where engines do not tell), n at
a time. Where neither ever changed, nothing tells the one from the other: then the half of the time is taken to be for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import msgspec

REMEMBERED_S = 3600.0
SPREAD = 0.15
"""Share of their mean by which the numbers at a time must have varied before what is seen counts as much as what is taken for granted."""
FOR_OTHERS = 0.5
"""Share of the time of a request that is taken to be for the others beside it, at the number that there were."""


@dataclass(frozen=True)
class Work:
    """Of one request, in seconds."""

    alone_s: float
    """That it takes whatever else runs."""
    each_s: float
    """That it takes longer for each request in the batch, itself included; and of the replica's time, so that 1 / `each_s` is the most."""

    def takes_s(self, at_a_time: float) -> float:
        """With so many at a time."""
        return self.alone_s + self.each_s * at_a_time

    def at_a_time(self, per_s: float) -> float:
        """Requests that a replica computes at a time if so many come per second; infinite if they never end."""
        left = 1.0 - self.each_s * per_s
        return self.alone_s * per_s / left if left > 0 else float("inf")

    def most_per_s(self, places: float) -> float:
        """Requests per second that a replica of so many places passes."""
        return places / self.takes_s(places)


class Seen(msgspec.Struct, frozen=True):
    """What requests took: means over an hour or so, the old fading away."""

    weight_s: float = 0.0
    long: float = 0.0
    """Tokens of an answer."""
    many: float = 0.0
    """Requests at a time per replica."""
    took_s: float = 0.0
    long_long: float = 0.0
    long_many: float = 0.0
    many_many: float = 0.0
    long_took: float = 0.0
    many_took: float = 0.0
    """Means of the products."""

    def learn(self, long: float, many: float, took_s: float, elapsed_s: float) -> Seen:
        """With what was seen for so long."""
        weight = exp(-elapsed_s / REMEMBERED_S) * self.weight_s + elapsed_s
        if not weight:
            return self
        seen = (long, many, took_s, long * long, long * many, many * many, long * took_s, many * took_s)
        before, share = msgspec.structs.astuple(self)[1:], elapsed_s / weight
        return Seen(weight, *(old + share * (new - old) for old, new in zip(before, seen, strict=True)))

    def work(self) -> Work | None:
        """What a request as long as the mean takes; `None`: nothing was seen.

        Least squares in units of the means, with as much weight on what is taken for granted as if the numbers had varied by `SPREAD`.
        """
        if not self.weight_s or min(self.long, self.many, self.took_s) <= 0:
            return None
        doubt, took_s = SPREAD * SPREAD, self.took_s
        a, b, c = self.long_long / self.long**2 + doubt, self.long_many / self.long / self.many, self.many_many / self.many**2 + doubt
        d = self.long_took / self.long + doubt * (1.0 - FOR_OTHERS) * took_s
        e = self.many_took / self.many + doubt * FOR_OTHERS * took_s
        for_others = min(max((a * e - b * d) / (a * c - b * b), 0.0), took_s)
        return Work(took_s - for_others, for_others / self.many)
