"""The load that replicas asked for now will meet when they are ready.

Requests that come by chance are a Poisson process: their number in a time t varies by the root of it. A difference within three times
that is chance and changes nothing, so that a steady load is answered by a steady number of replicas.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from nebula_scaler_slo.memory import QUEUES, SETTLED_S, Memory
from nebula_scaler_slo.reading import Reading
from nebula_scaler_slo.work import Work

SURE = 3.0
"""Standard deviations."""


@dataclass(frozen=True)
class Forecast:
    """What there will be."""

    arrivals_per_s: float
    """With the trend."""
    backlog_per_s: float
    """What is to pass beside them, to be rid of the queue in time."""
    work: Work
    """What each takes."""


def forecast(seen: Memory, reading: Reading, work: Work, boot_s: float, clear_s: float, places: float, now: float) -> Forecast | None:
    """The load in `boot_s` seconds; `None`: nobody tells what comes."""
    ahead = arrivals_ahead(seen, boot_s, now)
    if ahead is None:
        return None
    running = seen.running.mean(now) or 0.0
    there = (running - SURE * sqrt(running)) / work.takes_s(running / max(1, reading.ready)) if running else 0.0
    arrivals = max(ahead, there)  # where arrivals are told wrong, what runs is there all the same
    backlog = _backlog(seen, reading, arrivals, work.most_per_s(places), boot_s, clear_s, now)
    return Forecast(arrivals, backlog, work)


def arrivals_ahead(seen: Memory, ahead_s: float, now: float) -> float | None:
    """Requests per second in `ahead_s` seconds: what they are, and how they rise if they surely do. A fall is not foreseen."""
    half_s = seen.arrivals.span_s / 2
    whole, late, last = seen.arrivals.mean(now), seen.arrivals.mean(now, half_s), seen.recent.mean(now)
    if whole is None or late is None or last is None:
        return last
    early = max(0.0, 2.0 * whole - late) if seen.arrivals.full(now) else late
    rise = late - early if late - early > SURE * sqrt((late + early) / half_s) else 0.0
    expected = late + rise / 2.0
    if abs(last - expected) > SURE * sqrt(max(expected, last) / SETTLED_S):
        return last  # a step, and no slope: it says nothing of what comes after it
    return expected + min(rise, rise * ahead_s / half_s)


def _backlog(seen: Memory, reading: Reading, arrivals: float, most_per_s: float, boot_s: float, clear_s: float, now: float) -> float:
    """The queue, and what it grows by until new replicas are ready, over the time in which it is to be gone."""
    queue = seen.queue.mean(now, SETTLED_S) or 0.0
    if queue <= QUEUES * max(1, reading.ready):
        return 0.0
    return (queue + max(0.0, arrivals - reading.ready * most_per_s) * boot_s) / clear_s
