"""Workloads for a scaled fleet: a trace of requests, a mix of clients whose rates are known, or a pattern of steps."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf, log, sqrt
from pathlib import Path
from random import Random

from nebula_simulate import traces
from nebula_simulate.errors import SimulationError
from nebula_simulate.scaling.requests import Request, Workload
from nebula_simulate.scaling.servegen import Rate, rates

SPREAD = 0.8
"""Standard deviation of the logarithm of lengths that are drawn: 90 of 100 lie between a quarter and four times their median."""
MOST = 8
"""Times the mean, where a drawn length is cut off."""


class Lengths:
    """Lengths of prompts and answers where a workload has none: log-normal about means, as those of chats are."""

    def __init__(self, prompt_tokens: float, output_tokens: float, rng: Random) -> None:
        self._means, self._rng = (prompt_tokens, output_tokens), rng

    def request(self, came: float) -> Request:
        """One more."""
        return Request(came, *(self._draw(mean) for mean in self._means))

    def _draw(self, mean: float) -> int:
        drawn = self._rng.lognormvariate(log(mean) - SPREAD * SPREAD / 2, SPREAD)
        return max(1, round(min(drawn, MOST * mean)))


def steps(pattern: Sequence[float], step_s: float, lengths: Lengths, rng: Random) -> Workload:
    """So many requests per second, each rate for `step_s`; they come by chance."""
    rates_at = [Rate(place * step_s, (place + 1) * step_s, rate, 1.0, "") for place, rate in enumerate(pattern)]
    requests = [lengths.request(at) for at in _comes(rates_at, 1.0, rng)]
    starts = list(accumulate([step_s] * (len(pattern) - 1)))
    return Workload(f"steps {','.join(f'{rate:g}' for rate in pattern)}", requests, tuple(starts))


def servegen(path: Path, begin_s: float, duration_s: float | None, load: float, lengths: Lengths, seed: int) -> Workload:
    """The clients of a ServeGen mix, each by its own law; the rate of each is multiplied by the load."""
    clients = rates(path, begin_s, inf if duration_s is None else begin_s + duration_s)
    streams = [_comes(each, load, Random(f"{seed} {name}")) for name, each in sorted(clients.items())]
    requests = [lengths.request(at) for at in heapq.merge(*streams)]
    if not requests:
        raise SimulationError(f"{path}: nobody sends anything from second {begin_s:g} on; choose another --begin")
    return Workload(path.name.removesuffix(".tar.zst"), requests)


def replayed(path: Path, trace_format: str, load: float, duration_s: float | None) -> Workload:
    """A trace with times of its own, `load` times as fast; those that follow an answer come when the trace has them."""
    trace = traces.read(path, trace_format)
    if not trace.timed:
        raise SimulationError(f"--format {trace_format}: its sessions have no times, so that nothing can be said of load over time")
    until = inf if duration_s is None else duration_s
    found = sorted(
        Request(session.start_s / load, session.turns[0].prompt_tokens, max(1, session.turns[0].output_tokens))
        for session in trace.sessions
        if session.start_s < until
    )
    return Workload(path.name, found)


def _comes(rates_at: Sequence[Rate], load: float, rng: Random) -> Iterator[float]:
    """When one client's requests come: in each window, times between them are drawn from its law."""
    for rate in rates_at:
        at = rate.since + rate.gap(load, rng) * rng.random()
        while at < rate.until:
            yield at
            at += rate.gap(load, rng)


def burstiness(workload: Workload, window_s: float = 30.0) -> float:
    """Standard deviation of the requests per window over that of chance alone."""
    counts = [0] * (int(workload.length_s / window_s) + 1)
    for request in workload.requests:
        counts[int(request.came / window_s)] += 1
    mean = sum(counts) / len(counts)
    return sqrt(sum((count - mean) ** 2 for count in counts) / len(counts) / mean)
