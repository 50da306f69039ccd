"""What a request takes of a replica, learned from how many run and how fast they pass.

An engine that batches does everything in steps. A step takes a while whatever is in it, s, and c more for each sequence in it; a request
needs o of them for its answer, and its prompt p seconds of a step to itself. With n requests at a time and x of them passing per second,
each second is x p + x o (s + c n) / n = 1 (steps per second are x o / n), and by Little's law each of them takes

    n / x = o s + (p + o c) n = alone + each x n

So what a request takes grows by the same with every other one beside it, and no replica can pass more than 1 / `each` per second, however
many it takes at once. s and `each` are found by least squares from what was seen: answers of `o` tokens (1 where engines do not tell), n at
a time. Where neither ever changed, nothing tells the one from the other: then a part of the time is taken to be for the others, half of it
where there are some, and less where a request has the engine nearly to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import msgspec

REMEMBERED_S = 3600.0
LOOKED_AT_S = 60.0
"""Time over which the number of requests at a time is a mean."""
SPREAD = 0.15
"""Share of their mean by which the numbers at a time must have varied before what is seen counts as much as what is taken for granted."""
FOR_OTHERS, SOME = 0.5, 5.0
"""Share of the time of a request that is taken to be for the batch that it is in, if that has so many or more; in a smaller one as much
less. A step reads the weights whatever it computes, so that a request which is alone tells nearly nothing of what a replica can pass."""
FEW = 20.0
"""Requests that tell nothing: what was seen of ten times as many still counts less than what is taken for granted, about."""


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
    chance: float = 0.0
    """Mean variance of `many` by chance alone, as a share of its square."""
    requests: float = 0.0
    """That passed meanwhile."""

    def learn(self, long: float, many: float, took_s: float, elapsed_s: float, per_s: float) -> Seen:
        """With what was seen for so long, while so many requests passed per second; with few of them, chance has a part in it."""
        fade = exp(-elapsed_s / REMEMBERED_S)
        weight = fade * self.weight_s + elapsed_s
        if not weight:
            return self
        chance = min(1.0, 2.0 * took_s / LOOKED_AT_S) / (per_s * took_s)  # of the mean number over that time (M/G/oo)
        seen = (long, many, took_s, long * long, long * many, many * many, long * took_s, many * took_s, chance)
        before, share = msgspec.structs.astuple(self)[1:-1], elapsed_s / weight
        means = [old + share * (new - old) for old, new in zip(before, seen, strict=True)]
        return Seen(*(weight, *means, fade * self.requests + per_s * elapsed_s))

    def work(self) -> Work | None:
        """What a request as long as the mean takes; `None`: nothing was seen.

        Least squares in units of the means, with as much weight on what is taken for granted as if the numbers had varied by `SPREAD`.
        Where more run by chance, each seems to have taken longer by as much, for its time is reckoned from their number: that part of
        what was seen to vary together is left out.
        """
        if not self.weight_s or min(self.long, self.many, self.took_s, self.requests) <= 0:
            return None
        doubt, took_s = SPREAD * SPREAD + FEW / self.requests, self.took_s
        guess = FOR_OTHERS * min(1.0, self.many / SOME)
        varied = self.many_many / self.many**2
        by_chance = min(self.chance, max(0.0, varied - 1.0))
        a, b, c = self.long_long / self.long**2 + doubt, self.long_many / self.long / self.many, varied - by_chance + doubt
        d = self.long_took / self.long + doubt * (1.0 - guess) * took_s
        e = self.many_took / self.many - by_chance * took_s + doubt * guess * took_s
        for_others = min(max((a * e - b * d) / (a * c - b * b), 0.0), took_s)
        return Work(took_s - for_others, for_others / self.many)
