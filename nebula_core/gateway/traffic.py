"""How many requests come for each model, and how soon they are answered: read from what workers count anyway, so that none pays for it.

Every request is picked for once when it comes, and once more for each further attempt and after a wait for a replica:
arrivals = picks − attempts made again − waits that ended with a replica. All three lie in one snapshot, so that the difference is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

import msgspec

from nebula_core.gateway.data_path.measures import SECONDS
from nebula_core.snapshots import Sample, Snapshot
from nebula_core.types import Traffic

SPAN_S = 30.0
"""Time that traffic is told of."""
STEP_S = 1.0
"""Workers tell their counts about this often."""
LEAST_S = 5.0
"""A gateway that has just started does not take its first request for a flood."""
LEAST_ANSWERS = 20
"""With fewer, the slowest of them would stand for 99 of 100."""
SHARE = 0.99
ALIKE = 0.1
"""A figure that differs by less from what was told is no news: nothing is written for chance."""
PLACES = 2
"""Significant digits that are told."""

_PICKS, _RETRIES, _WAITS = "nebula_route_total", "nebula_retry_total", "nebula_wait_total"
_FIRST_TOKENS = "nebula_time_to_first_token_seconds"


class Counts(NamedTuple):
    """A model's counts since its workers' start."""

    arrivals: float = 0.0
    first_tokens: tuple[int, ...] = (0,) * (len(SECONDS) + 1)
    """Per bucket of `SECONDS`; the last is for what took longer."""


class Look(NamedTuple):
    """All models' counts at a time."""

    at: float
    models: Mapping[str, Counts]


def counts(snapshots: Iterable[Snapshot]) -> dict[str, Counts]:
    """The sum of several workers' counts, by model_uid."""
    found: dict[str, Counts] = {}
    for snapshot in snapshots:
        for family in snapshot:
            for sample in family.samples if family.name in (_PICKS, _RETRIES, _WAITS, _FIRST_TOKENS) else ():
                uid = sample.labels[0]
                found[uid] = _add(found.get(uid, Counts()), family.name, sample)
    return found


def _add(known: Counts, name: str, sample: Sample) -> Counts:
    if name == _FIRST_TOKENS:
        return known._replace(first_tokens=tuple(map(sum, zip(known.first_tokens, sample.buckets, strict=True))))
    if name == _PICKS:
        return known._replace(arrivals=known.arrivals + sample.value)
    is_further = name == _RETRIES or sample.labels[1] == "admitted"
    return known._replace(arrivals=known.arrivals - sample.value) if is_further else known


def measure(looks: tuple[Look, ...], waiting: Mapping[str, int]) -> dict[str, Traffic]:
    """The traffic from the oldest look to the newest, of the models that have any, with what waits now."""
    first, last = looks[0], looks[-1]
    seconds = max(LEAST_S, last.at - first.at)
    found = {}
    for uid in sorted({*last.models, *waiting}):
        before, now = first.models.get(uid, Counts()), last.models.get(uid, Counts())
        arrivals = max(0.0, now.arrivals - before.arrivals)
        answered = [b - a for a, b in zip(before.first_tokens, now.first_tokens, strict=True)]
        if arrivals or any(answered) or waiting.get(uid):
            found[uid] = Traffic(
                arrivals_per_s=_rounded(arrivals / seconds), waiting=waiting.get(uid, 0), first_token_s=_rounded(quantile(answered))
            )
    return found


def quantile(buckets: list[int], share: float = SHARE) -> float | None:
    """The seconds that this share of what lies in the buckets of `SECONDS` stayed below, evenly spread within each; `None`: too few."""
    total = sum(buckets)
    if total < LEAST_ANSWERS:
        return None
    rank, reached = share * total, list(accumulate(buckets))
    at = next(i for i, count in enumerate(reached) if count >= rank)
    if at == len(SECONDS):
        return SECONDS[-1]
    low = SECONDS[at - 1] if at else 0.0
    return low + (SECONDS[at] - low) * (rank - (reached[at] - buckets[at])) / buckets[at]


def calm(told: Mapping[str, Traffic], new: Mapping[str, Traffic]) -> dict[str, Traffic]:
    """`new` with the figures that were told before where they are much the same."""
    return {uid: _calm(told[uid], traffic) if uid in told else traffic for uid, traffic in new.items()}


def _calm(told: Traffic, new: Traffic) -> Traffic:
    return msgspec.structs.replace(
        new,
        arrivals_per_s=_unless_alike(told.arrivals_per_s, new.arrivals_per_s),
        first_token_s=_unless_alike(told.first_token_s, new.first_token_s),
    )


def _unless_alike(told: float | None, new: float | None) -> float | None:
    return told if told is not None and new is not None and abs(new - told) <= ALIKE * told else new


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{PLACES}g}")


class TrafficMeter:
    """The traffic of the last half minute, from counts that begin at zero when this does; `clock` gives monotonic seconds."""

    def __init__(self, read: Callable[[], dict[str, Counts]], clock: Callable[[], float]) -> None:
        self._read, self._clock = read, clock
        self._looks: tuple[Look, ...] = (Look(clock(), {}),)
        self._waiting: dict[str, int] = {}
        self._told: dict[str, Traffic] = {}

    def now(self, waiting: Mapping[str, int]) -> dict[str, Traffic]:
        """What there is to tell; counts are looked at no more often than they come. `waiting`: requests held now, by model_uid."""
        now = self._clock()
        is_due = now - self._looks[-1].at >= STEP_S
        if not is_due and waiting == self._waiting:
            return self._told
        if is_due:
            self._looks = kept((*self._looks, Look(now, self._read())))
        self._waiting = dict(waiting)
        self._told = calm(self._told, measure(self._looks, waiting))
        return self._told


def kept(looks: tuple[Look, ...]) -> tuple[Look, ...]:
    """Without those that are older than the span, but for the one that it begins with."""
    begins = looks[-1].at - SPAN_S
    old = sum(look.at <= begins for look in looks)
    return looks[max(0, old - 1) :]
