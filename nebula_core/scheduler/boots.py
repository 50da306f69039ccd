"""How long replicas take to be ready: learned from those that were seen to start."""

from __future__ import annotations

import msgspec

from nebula_core.scheduler.world import Observed
from nebula_core.types import STARTING, Assignment, Scaling

MOST_WATCHED = 64
"""Replicas that are starting and remembered at the same time: what is kept of a model stays small."""
UNKNOWN_BOOT_S = 600.0
"""How long a replica is counted on while nothing was learned."""
FALL = 0.3
"""By this share of the difference the learned time falls with a boot that was shorter; it rises at once with a longer one."""


def learn(account: Scaling, running: list[Assignment], observed: Observed, now: float) -> Scaling:
    """The account with `boot_s` and `booting` as of `now`, in seconds of the model's clock."""
    boot_s = account.boot_s
    booting: dict[str, float] = {}
    for assignment in running:
        since = account.booting.get(_key(assignment))
        if not observed.ready(assignment):
            if since is not None or len(booting) < MOST_WATCHED:
                booting[_key(assignment)] = now if since is None else since
        elif since is not None and _is_boot(now - since, boot_s):
            boot_s = _smoothed(boot_s, now - since)
    if (boot_s, booting) == (account.boot_s, account.booting):
        return account
    return msgspec.structs.replace(account, boot_s=boot_s, booting=booting)


def starting_s(assignment: Assignment, observed: Observed, account: Scaling, now: float) -> float | None:
    """For how long a replica that is not ready has been starting; `None`: it is not, or it takes too long to be counted on.

    One that fails and is started again is timed from the first of it, so that a crash loop is not taken for a boot.
    """
    endpoint = observed.endpoints.get((assignment.spec.model_uid, assignment.replica_id))
    is_of_this_plan = endpoint is not None and endpoint.assignment_version == assignment.assignment_version
    if assignment.node_id not in observed.nodes or (endpoint is not None and is_of_this_plan and endpoint.state != STARTING):
        return None
    elapsed = now - account.booting.get(_key(assignment), now)
    return elapsed if elapsed <= patience_s(account.boot_s) else None


def patience_s(boot_s: float | None) -> float:
    """How long a replica may take before it is no longer counted on."""
    return UNKNOWN_BOOT_S if boot_s is None else 60.0 + 3.0 * boot_s


def _is_boot(elapsed: float, boot_s: float | None) -> bool:
    """Whether so many seconds can be a boot's: too long a time is none, and a new leader's clock may be behind what the last one noted."""
    return 0 <= elapsed <= patience_s(boot_s)


def _smoothed(old: float | None, new: float) -> float:
    return new if old is None or new >= old else old + FALL * (new - old)


def _key(assignment: Assignment) -> str:
    return f"{assignment.replica_id}@{assignment.assignment_version}"
