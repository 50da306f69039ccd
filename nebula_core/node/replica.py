"""What a node knows of one replica, and how that changes: plain data and pure functions.

waiting ──start──► starting ──good probe──► up ──stop──► stopping
   ▲                  │ ended                │ ended         │ ended
   └──────────────────┴──────────────────────┴───────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from nebula_core.interfaces import Health
from nebula_core.types import DRAINING, READY, STARTING, UNHEALTHY, Assignment, EndpointInfo

Replica = tuple[str, str]
"""`(model_uid, replica_id)`."""

FAILED_PROBES = 3
"""So many in a row, and an engine that was ready counts as unhealthy."""
STABLE_S = 60.0
"""An engine that was ready for this long is given its next crash for free."""
LONGEST_BACK_OFF_S = 60.0


class Phase(StrEnum):
    """Where an engine stands."""

    WAITING = "waiting"
    """No engine; the next start is due some time."""
    STARTING = "starting"
    """It runs and has not been well yet."""
    UP = "up"
    """It has been well."""
    STOPPING = "stopping"
    """It is being ended."""


@dataclass(frozen=True)
class Drain:
    """No new requests shall reach a replica."""

    since: float
    revision: int
    """Gateways that have applied this revision of the store send it none."""


@dataclass(frozen=True, kw_only=True)
class ReplicaState:
    """One replica. Times are monotonic seconds of this node."""

    assignment: Assignment
    incarnation: int
    phase: Phase = Phase.WAITING
    url: str = ""
    api_key: str = ""
    due: float = 0.0
    """When the next start is due, while waiting."""
    started_at: float = 0.0
    ready_at: float | None = None
    """When this incarnation was first well; `None`: not yet."""
    crashes: int = 0
    """Ends that nobody asked for, in a row."""
    failed_probes: int = 0
    reason: str = ""
    """Why it is not ready."""
    planned: bool = False
    """Whether it is being stopped because a plan says so."""
    drain: Drain | None = None

    @property
    def is_unhealthy(self) -> bool:
        """Whether it was well and is no more."""
        return self.failed_probes >= FAILED_PROBES


def starting(assignment: Assignment, incarnation: int, before: ReplicaState | None, now: float) -> ReplicaState:
    """An engine is being started. What is known of its crashes goes on counting as long as the assignment is the same."""
    same = before is not None and before.assignment.assignment_version == assignment.assignment_version
    crashes, reason = (before.crashes, before.reason) if before is not None and same else (0, "")
    return ReplicaState(
        assignment=assignment, incarnation=incarnation, phase=Phase.STARTING, started_at=now, crashes=crashes, reason=reason
    )


def adopted(assignment: Assignment, incarnation: int, url: str, api_key: str, endpoint: EndpointInfo | None, now: float) -> ReplicaState:
    """An engine that an earlier daemon started; `endpoint` is what the store last knew of the replica."""
    was_ready = endpoint is not None and endpoint.incarnation == incarnation and endpoint.state in (READY, DRAINING)
    return ReplicaState(
        assignment=assignment,
        incarnation=incarnation,
        phase=Phase.UP if was_ready else Phase.STARTING,
        url=url,
        api_key=api_key,
        started_at=now,
        ready_at=now if was_ready else None,
    )


def probed(state: ReplicaState, health: Health, now: float) -> ReplicaState:
    """A probe looked at its engine."""
    if health.ok and state.phase is Phase.STARTING:
        return replace(state, phase=Phase.UP, ready_at=now, failed_probes=0, reason="")
    if state.phase is not Phase.UP:
        return state
    if health.ok:
        return replace(state, failed_probes=0, reason="")
    failed = state.failed_probes + 1
    return replace(state, failed_probes=failed, reason=f"{failed} failed probes in a row: {health.reason}")


def stopping(state: ReplicaState, reason: str, *, planned: bool) -> ReplicaState:
    """Its engine is being ended."""
    return replace(state, phase=Phase.STOPPING, reason=reason, planned=planned)


def stop_failed(state: ReplicaState) -> ReplicaState:
    """Its engine could not be ended: it runs on, and the next pass decides anew."""
    if state.phase is not Phase.STOPPING:
        return state
    return replace(state, phase=Phase.STARTING if state.ready_at is None else Phase.UP, planned=False)


def ended(state: ReplicaState, reason: str, now: float) -> ReplicaState:
    """Its engine has ended, or could not be started. An end that no plan asked for is paid with a growing wait."""
    if state.planned:
        return replace(state, phase=Phase.WAITING, due=now, reason="", planned=False, crashes=0, failed_probes=0, ready_at=None)
    stable = state.ready_at is not None and now - state.ready_at >= STABLE_S
    crashes = 0 if stable else state.crashes
    if state.ready_at is None:
        crashes = max(crashes, 1)
    return replace(
        state,
        phase=Phase.WAITING,
        due=now + back_off_s(crashes),
        crashes=crashes + 1,
        failed_probes=0,
        ready_at=None,
        reason=f"{state.reason}; {reason}" if state.phase is Phase.STOPPING else reason,
        drain=None,
    )


def back_off_s(crashes: int) -> float:
    """Seconds to wait before the next start: none at first, then 1, 2, 4, … up to a minute."""
    return min(LONGEST_BACK_OFF_S, 2.0 ** (min(crashes, 16) - 1)) if crashes else 0.0


def endpoint_of(state: ReplicaState, node_id: str) -> EndpointInfo:
    """What the store shall say of it."""
    assignment = state.assignment
    endpoint_state = _endpoint_state(state)
    return EndpointInfo(
        model_uid=assignment.spec.model_uid,
        replica_id=assignment.replica_id,
        node_id=node_id,
        assignment_version=assignment.assignment_version,
        incarnation=state.incarnation,
        engine=assignment.spec.engine,
        url=state.url,
        state=endpoint_state,
        reason="" if endpoint_state == READY else state.reason,
        served_names=assignment.spec.served_names,
        api_key=state.api_key,
    )


def _endpoint_state(state: ReplicaState) -> str:
    if state.drain is not None or state.planned:
        return DRAINING
    if state.phase is Phase.STARTING:
        return STARTING
    if state.phase is Phase.UP and not state.is_unhealthy:
        return READY
    return UNHEALTHY
