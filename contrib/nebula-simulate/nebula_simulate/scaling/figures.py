"""What came of a run, in figures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import isnan

from nebula_simulate.outcome import quantiles
from nebula_simulate.scaling.replay import Record

SHARE = 0.99
"""Of the requests that are to have their first token in time."""
PART_S = 10.0
"""Parts of the time after a step in which it is looked for."""

Figures = dict[str, float]


def figures(record: Record, slo_s: float, gpus: int) -> Figures:
    """By name; shares are 0–1, times in seconds."""
    answered = [each for each in record.ttft_s if not isnan(each)]
    asked = len(record.ttft_s) - record.refused
    numbers = [wanted for _, wanted, _, _, _ in record.looks]
    return {
        "attainment": sum(each <= slo_s for each in answered) / max(1, asked),
        "gpu_hours": record.paid_s * gpus / 3600.0,
        "failed": float(record.failed),
        "longest_wait_s": max(answered, default=0.0),
        "ttft_p99_s": quantiles(answered)[-1],
        "most_waiting": float(record.most_waiting),
        "most_pending": float(record.most_pending),
        "changes": float(sum(one != other for one, other in pairwise(numbers))),
        "most_replicas": float(max(numbers, default=0)),
        "requests": float(asked),
        "refused": float(record.refused),
        "served": len(answered) / max(1, len(record.ttft_s)),
    }


def regained_s(record: Record, slo_s: float) -> list[float]:
    """For each step of the workload: time after it until, of those who came from then on to the next step, so many were in time."""
    ends = [*record.workload.steps_at[1:], record.workload.length_s]
    return [_regained(record, slo_s, at, until) for at, until in zip(record.workload.steps_at, ends, strict=False)]


def _regained(record: Record, slo_s: float, at: float, until: float) -> float:
    """Looked for backwards from the end: the earliest part from which on the share is kept; all of the time if it never is."""
    came = late = 0
    found = until
    for since, came_then, late_then in reversed(list(_parts(record, slo_s, at, until))):
        came, late = came + came_then, late + late_then
        if late <= (1.0 - SHARE) * came:
            found = since
    return found - at


def _parts(record: Record, slo_s: float, at: float, until: float) -> Iterator[tuple[float, int, int]]:
    """When each begins, how many came in it, and how many of them waited too long."""
    counts: dict[int, list[int]] = {}
    for request, ttft_s in zip(record.workload.requests, record.ttft_s, strict=True):
        if at <= request.came < until:
            count = counts.setdefault(int((request.came - at) / PART_S), [0, 0])
            count[0] += 1
            count[1] += not ttft_s <= slo_s
    return ((at + part * PART_S, came, late) for part, (came, late) in sorted(counts.items()))
