"""How many replicas a load needs, by queueing theory.

A replica computes some requests at a time; each of these places is a server of one queue, M/M/c with c = replicas x places. The load
a = arrivals per second x seconds of service is the number of servers that are busy on average (A. K. Erlang, 1917; J. D. C. Little, 1961).

- A request has to wait with the probability 1 / (1 + b Phi(b) / phi(b)), b = (c - a) / sqrt(a), Phi and phi being the normal distribution
  and its density: S. Halfin and W. Whitt, "Heavy-traffic limits for queues with many exponential servers", Operations Research 29 (1981).
  It is Erlang's formula C where servers are many, needs no whole number of them, and takes no time to compute.
- Who waits does so for longer than t with the probability exp(-(c - a) t / s), s being the seconds of service; with arrivals and services
  that vary otherwise than in M/M/c, s is multiplied by (Ca^2 + Cs^2) / 2: A. O. Allen, "Probability, Statistics, and Queueing Theory"
  (1990), after J. Cunneen.

A batch is no set of servers, since each request in it slows the others down (`work.py`). A replica is therefore reckoned with twice: as
its places, with the time that a request takes in so full a batch; and as one server, whose time each request takes a part of. There must
be enough replicas for both.
"""

from __future__ import annotations

from bisect import bisect_left
from math import ceil, erf, exp, pi, sqrt

from nebula_scaler_slo.work import Work

MOST = 10_000
"""More replicas than any model may have."""
FAR = 30.0
"""So many standard deviations above the load nothing waits, in any number that a float can hold."""


def waits_longer(servers: float, load: float, wait_s: float, service_s: float | None, variability: float) -> float:
    """Probability that a request waits longer than `wait_s`. Without a known time of service: that it waits at all."""
    if load <= 0:
        return 0.0
    if servers <= load:
        return 1.0
    b = (servers - load) / sqrt(load)
    if b > FAR:
        return 0.0
    tail = exp(-(servers - load) * wait_s / (service_s * variability)) if service_s else 1.0
    return tail / (1.0 + b * _cumulated(b) / _density(b))


def replicas(load: float, places: float, wait_s: float, service_s: float | None, variability: float, share: float) -> int:
    """The fewest replicas with which no more than `share` of the requests wait longer than `wait_s`."""
    least = max(1, ceil(load / places))
    enough = (number for number in range(least, MOST) if waits_longer(number * places, load, wait_s, service_s, variability) <= share)
    return next(enough, MOST)


def enough(per_s: float, work: Work, places: float, wait_s: float, variability: float, share: float) -> int:
    """The fewest replicas that pass so many requests per second, no more than `share` of which wait longer than `wait_s`."""

    def is_enough(number: int) -> bool:
        each = work.at_a_time(per_s / number)
        if each >= places:
            return False
        computing = waits_longer(number, per_s * work.each_s, wait_s, work.each_s, variability)
        placed = waits_longer(number * places, number * each, wait_s, work.takes_s(each), variability)
        return computing <= share and placed <= share

    return min(MOST, 1 + bisect_left(range(1, MOST), True, key=is_enough))


def _cumulated(b: float) -> float:
    return (1.0 + erf(b / sqrt(2.0))) / 2.0


def _density(b: float) -> float:
    return exp(-b * b / 2.0) / sqrt(2.0 * pi)
