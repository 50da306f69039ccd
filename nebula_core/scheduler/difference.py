"""A model's wanted specs against the replicas that run: what stays, what must go elsewhere, what is outdated, what is missing. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from nebula_core.scheduler.healing import Nodes
from nebula_core.scheduler.node_room import may_stay
from nebula_core.scheduler.world import Observed, Wanted
from nebula_core.types import Assignment, ReplicaSpec


@dataclass(frozen=True)
class Difference:
    """Every running assignment is in one of the first four."""

    keep: list[Assignment] = field(default_factory=list)
    evicted: list[Assignment] = field(default_factory=list)
    """What they are is wanted, but not where they are."""
    outdated: list[Assignment] = field(default_factory=list)
    """What they are is not wanted any more, or there are too many of them."""
    held: list[Assignment] = field(default_factory=list)
    """Neither is ended yet of an old replica and the one that replaces it, for neither of the two that is kept is ready."""
    missing: list[ReplicaSpec] = field(default_factory=list)


def compare(wanted: Wanted, running: Sequence[Assignment], observed: Observed, nodes: Nodes) -> Difference:
    """Keep as many of each spec as are wanted, where they may stay: see `_in_order` for which."""
    lacking, on_node = Counter(keys(wanted.specs)), defaultdict[str, int](int)
    difference, misplaced, surplus = Difference(), [], []
    ordered = _in_order(running, observed)
    for assignment, key in zip(ordered, keys(each.spec for each in ordered), strict=True):
        node_id = assignment.node_id
        if nodes.must_leave(assignment, observed) or not may_stay(assignment, wanted.needs, observed.nodes.get(node_id), on_node[node_id]):
            misplaced.append((assignment, key))
        elif _count_down(lacking, key):
            on_node[node_id] += 1
            difference.keep.append(assignment)
        else:
            surplus.append(assignment)
    difference.missing.extend(spec for spec, key in zip(wanted.specs, keys(wanted.specs), strict=True) if _count_down(lacking, key))
    if misplaced or surplus:
        _sort_out(difference, misplaced, surplus, observed, nodes)
    return difference


def _in_order(running: Sequence[Assignment], observed: Observed) -> list[Assignment]:
    """Those that are worth most first.

    That is: ready ones; then those without a replacement that is ready; then those that served when they were last heard of; then those
    that replace none; then by replica id.
    """
    ready = {each.replica_id for each in running if observed.ready(each)}
    if len(ready) == len(running) and not any(each.replaces for each in running):
        return sorted(running, key=by_id)
    replaced = {each.replaces for each in running if each.replaces and each.replica_id in ready}

    def rank(each: Assignment) -> tuple[object, ...]:
        if each.replica_id in ready:
            return False, each.replica_id in replaced, each.replaces != "", by_id(each)
        return True, each.replica_id in replaced, not observed.serves(each), each.replaces != "", by_id(each)

    return sorted(running, key=rank)


def _sort_out(
    difference: Difference, misplaced: list[tuple[Assignment, str]], surplus: list[Assignment], observed: Observed, nodes: Nodes
) -> None:
    """Say of each that is not kept what it is."""
    unready = [each for each in difference.keep if not observed.ready(each)]
    awaited = {each.replaces for each in unready}
    unready_ids = {each.replica_id for each in unready}

    def is_held(each: Assignment) -> bool:
        if each.replica_id in awaited:
            return observed.serves(each) or not nodes.must_leave(each, observed)
        return each.replaces in unready_ids and each.node_id not in nodes.lost

    lacking = Counter(keys(difference.missing))
    for assignment, key in misplaced:
        if is_held(assignment):
            difference.held.append(assignment)
        else:
            (difference.evicted if _count_down(lacking, key) else difference.outdated).append(assignment)
    for assignment in surplus:
        (difference.held if is_held(assignment) else difference.outdated).append(assignment)


def _count_down(lacking: Counter[str], key: str) -> bool:
    if not lacking[key]:
        return False
    lacking[key] -= 1
    return True


def keys(specs: Iterable[ReplicaSpec]) -> Iterator[str]:
    """The same for equal specs, whatever the order of their engine's keys; those that stand together are digested once."""
    for spec, equal in groupby(specs):
        key = spec.version("", ())
        yield from (key for _ in equal)


def by_id(assignment: Assignment) -> tuple[int, str]:
    """Sorts "2" before "10"."""
    return len(assignment.replica_id), assignment.replica_id
