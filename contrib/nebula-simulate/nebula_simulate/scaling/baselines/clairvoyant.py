"""`clairvoyant`: knows every request that will come, and has the fewest replicas that serve them in time.

    load(t) = requests per second over the minute around t, of all that come
    need(t) = ceil(load(t) / rate), in parts of 10 s
    the k-th replica is there while need(t) >= k. It is started a boot time before, holds its GPUs from then on, and is kept over a
    pause that is not longer than a boot time, since to start it again would cost as much.

Replica by replica that is the cheapest schedule whose ready replicas never fall below need(t): a bound for all that keep up with the
load at that rate. `rate` is what one replica takes of these requests with 99 of 100 first tokens in time; `fewest` finds the largest one
with which a replay of the schedule keeps that, in steps of 4 %. A policy that lets some requests be late on purpose may be cheaper.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from math import ceil

from nebula_simulate.scaling.requests import Workload

PART_S = 10.0
AROUND = 3
"""Parts before and after that count for the load at a time: about a minute."""
DOWN, MOST_TRIES = 0.96, 32
Changes = list[tuple[float, int]]


def needs(workload: Workload, rate: float) -> list[int]:
    """Replicas for each part of the workload, at least one."""
    counts = [0] * (int(workload.length_s / PART_S) + 1)
    for request in workload.requests:
        counts[int(request.came / PART_S)] += 1
    sums = list(accumulate(counts, initial=0))

    def load(part: int) -> float:
        since, until = max(0, part - AROUND), min(len(counts), part + AROUND + 1)
        return (sums[until] - sums[since]) / ((until - since) * PART_S)

    return [max(1, ceil(load(part) / rate)) for part in range(len(counts))]


def schedule(need: list[int], boot_s: float) -> Changes:
    """When to have how many: (second, replicas from then on), the first at 0."""
    steps: dict[int, int] = {}
    for level in range(1, max(need) + 1):
        for since, until in _spans(need, level, boot_s):
            steps[since] = steps.get(since, 0) + 1
            steps[until] = steps.get(until, 0) - 1
    times = sorted({0, *steps})
    numbers = accumulate(steps.get(at, 0) for at in times)
    return [(at * PART_S, number) for at, number in zip(times, numbers, strict=True)]


def _spans(need: list[int], level: int, boot_s: float) -> Iterator[tuple[int, int]]:
    """Parts from and until which this replica is paid for: its boots come before it is needed, and short pauses are bridged."""
    boot = ceil(boot_s / PART_S)
    begins = ends = None
    for part, number in enumerate([*need, 0]):
        if number >= level and begins is None:
            begins = part
        if number >= level or begins is None:
            ends = None
            continue
        ends = part if ends is None else ends
        if part == len(need) or part - ends >= boot:
            yield max(0, begins - boot), ends
            begins = ends = None


def fewest(workload: Workload, top: float, boot_s: float, keeps: Callable[[Changes], bool]) -> Changes:
    """The cheapest schedule of its kind that `keeps` the SLO; `top` is a rate that no replica can exceed."""
    found = [schedule(needs(workload, top * DOWN**tries), boot_s) for tries in range(MOST_TRIES)]
    return found[min(MOST_TRIES - 1, bisect_left(range(MOST_TRIES), True, key=lambda tries: keeps(found[tries])))]
