"""What is seen of a fleet at one moment, as production sees it: with the age of a heartbeat, and only what engines and gateways tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seen:
    """A replica that is to run."""

    replica_id: str
    version: str
    """Of its assignment: a replica that comes later has another one, whatever its id."""
    ready: bool
    pending: int = 0
    running: int = 0
    usage: float = 0.0
    generated: int = 0
    """Tokens of all its answers so far."""

    @property
    def in_flight(self) -> int:
        """Requests that it has."""
        return self.pending + self.running


@dataclass(frozen=True, slots=True)
class Sight:
    """A fleet, and its traffic over the last half minute."""

    replicas: tuple[Seen, ...]
    in_flight: int
    waiting: int
    """Requests held because no replica is ready."""
    arrivals_per_s: float
    first_token_s: float | None
    """What 99 of 100 first tokens stayed below; `None`: there were none."""

    @property
    def ready(self) -> tuple[Seen, ...]:
        """Those that serve."""
        return tuple(each for each in self.replicas if each.ready)
