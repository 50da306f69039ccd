"""In which order missing replicas take the parts of old ones. Pure.

What heals goes at once, and so does what comes in addition. A change of arguments goes from one serving replica to the next: no further
one is begun before the last has proved that it starts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from nebula_core.scheduler.difference import Difference, keys
from nebula_core.scheduler.healing import Nodes
from nebula_core.scheduler.world import Observed
from nebula_core.types import READY, UNHEALTHY, Assignment, ReplicaSpec


@dataclass(frozen=True)
class Move:
    """A missing replica, and the old one whose part it takes."""

    spec: ReplicaSpec
    old: Assignment | None = None
    """`None`: it comes in addition."""


@dataclass(frozen=True)
class Rollout:
    """What is to be placed, and what becomes of the old replicas."""

    now: list[Move] = field(default_factory=list)
    next: Move | None = None
    """The next step of a change, if nothing else is placed."""
    waiting: list[Assignment] = field(default_factory=list)
    """Old replicas whose turn comes later, that of `next` included."""
    excess: list[Assignment] = field(default_factory=list)
    """Old replicas that nothing replaces."""
    failing: Assignment | None = None
    """The new replica that does not start, for which the change has stopped."""


def roll_out(difference: Difference, observed: Observed, nodes: Nodes) -> Rollout:
    """Find the old replica for each missing one."""
    if not (difference.missing or difference.outdated or difference.held):
        return Rollout()
    olds = _by_worth(difference, observed, nodes)
    chosen, excess = olds[: len(difference.missing)], olds[len(difference.missing) :]
    heals, others, rest = _pair(difference, chosen)
    unproven = _unproven(difference, rest, observed)
    waiting, at_once = _by_turn(others, observed, nodes, is_blocked=bool(unproven))
    specs = iter(rest)
    now = heals + [Move(next(specs), old) for old in at_once] + [Move(next(specs)) for _ in rest[len(others) :]]
    return Rollout(
        now=now,
        next=Move(next(specs), waiting[0]) if waiting and not unproven else None,
        waiting=waiting,
        excess=_without_spared(excess, difference, observed),
        failing=next((new for new in unproven if _fails(new, observed) and (waiting or _changes(new, difference.held))), None),
    )


def _by_worth(difference: Difference, observed: Observed, nodes: Nodes) -> list[Assignment]:
    """The old replicas, those last that are done without first: what serves is worth most, and of that what may stay where it is."""
    evicted = sorted(difference.evicted, key=observed.serves, reverse=True)
    outdated = sorted(difference.outdated, key=lambda old: nodes.must_leave(old, observed))
    return sorted([*evicted, *outdated], key=observed.serves, reverse=True)


def _without_spared(excess: Sequence[Assignment], difference: Difference, observed: Observed) -> list[Assignment]:
    """Those that end, but for as many that serve as there are new replicas that are not ready and whose old one stays after all.

    Such a one takes the part of another old replica, which serves on until it is ready.
    """
    if not excess:
        return []
    kept = {each.replica_id for each in difference.keep}
    released = sum(each.replaces in kept and not observed.ready(each) for each in difference.keep)
    return [old for place, old in enumerate(excess) if place >= released or not observed.serves(old)]


def _pair(difference: Difference, chosen: Sequence[Assignment]) -> tuple[list[Move], list[Assignment], list[ReplicaSpec]]:
    """A move for each replica that only its place has to change of, those first that do not serve; the other olds, and the specs left."""
    ids = {old.replica_id for old in difference.evicted}
    moving = [old for old in chosen if old.replica_id in ids]
    by_key: defaultdict[str, list[Assignment]] = defaultdict(list)
    for old, key in zip(moving, keys(old.spec for old in moving), strict=True):
        by_key[key].append(old)
    moves, rest = [], []
    for spec, key in zip(difference.missing, keys(difference.missing), strict=True):
        if by_key[key]:
            moves.append(Move(spec, by_key[key].pop()))
        else:
            rest.append(spec)
    return moves, [old for old in chosen if old.replica_id not in ids], rest


def _unproven(difference: Difference, rest: Sequence[ReplicaSpec], observed: Observed) -> list[Assignment]:
    """The new replicas that have yet to show that they start."""
    awaited = set(keys(rest))
    unready = [each for each in difference.keep if not observed.ready(each)]
    return [each for each, key in zip(unready, keys(each.spec for each in unready), strict=True) if each.replaces or key in awaited]


def _by_turn(
    olds: Sequence[Assignment], observed: Observed, nodes: Nodes, *, is_blocked: bool
) -> tuple[list[Assignment], list[Assignment]]:
    """The old replicas that wait for their turn, and those that do not.

    Of those that may stay, one that is not well is replaced at once; but while a change is under way, it may yet be well again.
    """
    waiting: list[Assignment] = []
    at_once: list[Assignment] = []
    for old in olds:
        stays = not nodes.must_leave(old, observed) and (is_blocked or observed.serves(old))
        (waiting if stays else at_once).append(old)
    return waiting, at_once


def _changes(new: Assignment, held: Sequence[Assignment]) -> bool:
    """Whether it replaces one of another spec, which still runs."""
    return any(old.replica_id == new.replaces and old.spec != new.spec for old in held)


def _fails(new: Assignment, observed: Observed) -> bool:
    """Whether it was started and ended, or never became ready in its time; its node tries again and again."""
    endpoint = observed.endpoint_of(new)
    if endpoint is None or endpoint.assignment_version != new.assignment_version:
        return False
    return endpoint.state == UNHEALTHY or (endpoint.state != READY and endpoint.reason != "")
