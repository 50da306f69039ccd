"""How many replicas load asks for, within what an operator allows: policies propose, this decides. Pure functions on plain data.

What an operator says goes at once: bounds, and `replicas` when it is set. Else the number changes only by a policy's proposal, no
further than a step, not before a pause, not beyond the bounds, and not upwards while replicas that were asked for have no place. What
is not known changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from nebula_core.interfaces import Proposal, ScalingSignals
from nebula_core.types import ModelRequest, Scaling

DOUBLING, QUARTER = 1, 4
"""A step up is as many replicas as there are, a step down a quarter of them, or the least step of `Limits` if that is more."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How fast a model's replicas may change."""

    up_step: int = 4
    up_pause_s: float = 15.0
    """Shortest time from one gain to the next."""
    down_step: int = 1
    down_pause_s: float = 60.0
    """Shortest time from any change to the next loss."""

    def most_up(self, replicas: int) -> int:
        """How many may come at once."""
        return max(self.up_step, replicas // DOUBLING)

    def most_down(self, replicas: int) -> int:
        """How many may go at once."""
        return max(self.down_step, replicas // QUARTER)


def is_scaled(request: ModelRequest) -> bool:
    """Whether load may change this model's replicas: if it says what the most of them is."""
    return request.max_replicas is not None


def bounds(request: ModelRequest) -> tuple[int, int]:
    """The fewest and the most replicas. Without `min_replicas` one stays: an idle model ends only where 0 is written down."""
    most = request.replicas if request.max_replicas is None else request.max_replicas
    return min(1, most) if request.min_replicas is None else request.min_replicas, most


def begin(request: ModelRequest, running: int | None) -> Scaling:
    """The account of a model that has none: `running` replicas if they are there and nobody knows why, else those of the request."""
    return Scaling(replicas=_within(request, request.replicas if running is None else running), asked=_asked(request))


def follow(last: Scaling, request: ModelRequest, now: float) -> Scaling:
    """What an operator has changed since, in force at once. `replicas` that only moved with the bounds are not an operator's number."""
    asked = _asked(request)
    if last.asked == asked:
        return last
    before = last.asked or asked
    is_a_number = asked[3] != before[3] or asked[0] not in (before[0], _within(request, before[0]))
    number = _within(request, request.replicas if is_a_number else last.replicas)
    said = f"{number} replicas were asked for" if is_a_number else f"the bounds are now {_bounds_in_words(request)}"
    return msgspec.structs.replace(_changed(last, number, said, now), asked=asked)


def freeze(last: Scaling, reason: str, now: float) -> Scaling:
    """Nothing changes, and nobody proposes."""
    return msgspec.structs.replace(last, at=now, policy="", proposed=None, inputs={}, reason=reason)


def decide(
    last: Scaling, request: ModelRequest, signals: ScalingSignals, proposal: Proposal, shortage: str, limits: Limits, now: float
) -> Scaling:
    """What a policy's proposal comes to. `shortage` says why replicas that were asked for have no place; empty: all have one."""
    number, why = _awake(last.replicas, signals, proposal.replicas)
    if not why:
        number, note = (None, "") if number is None else _limited(number, last, request, signals, shortage, limits, now)
        why = "; ".join(filter(None, (proposal.reason, note)))
    after = _changed(last, last.replicas if number is None else _within(request, number), why, now)
    return msgspec.structs.replace(after, at=now, reason=why, proposed=proposal.replicas, inputs=proposal.inputs, memory=proposal.memory)


def _awake(replicas: int, signals: ScalingSignals, proposed: int | None) -> tuple[int | None, str]:
    """A model at zero has no load to show: a request that waits for it is reason enough for a replica, at once.

    One in flight that does not wait is on a replica that drains, and needs no other.
    """
    if replicas == 0 and (signals.in_flight if signals.waiting is None else signals.waiting):
        return 1, "a request for it wakes it"
    return proposed, ""


def _limited(
    proposed: int, last: Scaling, request: ModelRequest, signals: ScalingSignals, shortage: str, limits: Limits, now: float
) -> tuple[int, str]:
    """The nearest number that is allowed, and what stood in the way."""
    least, most = bounds(request)
    number, note = min(max(proposed, least), most), ""
    if number != proposed:
        note = f"{proposed} proposed, and max_replicas is {most}" if proposed > most else f"{proposed} proposed, and {least} must stay"
    if number == 0 < last.replicas and signals.in_flight != 0:
        number, note = 1, "the last one stays: " + ("requests are in flight" if signals.in_flight else "no gateway tells of requests")
    if number > last.replicas:
        return _up(number, note, last, shortage, limits, now)
    return _down(number, note, last, limits, now) if number < last.replicas else (number, note)


def _up(number: int, note: str, last: Scaling, shortage: str, limits: Limits, now: float) -> tuple[int, str]:
    if shortage:
        return last.replicas, f"{number} proposed, and there is no place for more: {shortage}"
    left = _left(last.grown_at, limits.up_pause_s, now)
    if left > 0:
        return last.replicas, f"{number} proposed, and the next gain is allowed in {left:.0f} s"
    step = limits.most_up(last.replicas)
    return (number, note) if number <= last.replicas + step else (last.replicas + step, f"{number} proposed, and {step} may come at once")


def _down(number: int, note: str, last: Scaling, limits: Limits, now: float) -> tuple[int, str]:
    left = _left(last.changed_at, limits.down_pause_s, now)
    if left > 0:
        return last.replicas, f"{number} proposed, and the next loss is allowed in {left:.0f} s"
    step = limits.most_down(last.replicas)
    return (number, note) if number >= last.replicas - step else (last.replicas - step, f"{number} proposed, and {step} may go at once")


def _left(since: float | None, pause_s: float, now: float) -> float:
    return 0.0 if since is None else since + pause_s - now


def _changed(last: Scaling, number: int, why: str, now: float) -> Scaling:
    if number == last.replicas:
        return last
    return msgspec.structs.replace(
        last,
        replicas=number,
        reason=why,
        changed_at=now,
        changed_from=last.replicas,
        changed_why=why,
        grown_at=now if number > last.replicas else last.grown_at,
    )


def _within(request: ModelRequest, number: int) -> int:
    least, most = bounds(request)
    return min(max(number, least), most)


def _asked(request: ModelRequest) -> tuple[int, int | None, int | None, int]:
    return request.replicas, request.min_replicas, request.max_replicas, request.replicas_set


def _bounds_in_words(request: ModelRequest) -> str:
    least, most = bounds(request)
    return f"{least} to {most}"
