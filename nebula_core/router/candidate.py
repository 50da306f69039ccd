"""What a strategy chooses among and learns from."""

from __future__ import annotations

from typing import Literal

import msgspec

from nebula_core.router.prefix import PrefixBlocks, hash_prefix
from nebula_core.types import EndpointStats

NO_STATS = EndpointStats()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as the routing table holds it: where it is and under what names it answers."""

    model_uid: str = ""
    replica_id: str
    assignment_version: str
    incarnation: int
    url: str
    served_names: tuple[str, ...] = ()
    api_key: str = ""


class ModelRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the routing table, as the control process hands it to the workers."""

    model_uid: str
    aliases: tuple[str, ...] = ()
    created: int = 0
    strategy: str | None = None
    first_byte_timeout_s: float | None = None
    routes: tuple[Route, ...] = ()
    """Replicas that may be routed to."""
    note: str = ""
    """Why there is none, in words for a client."""
    off: bool = False
    """Its operator wants no replica of it, so that none will come."""
    boot_s: float | None = None
    """Time that a replica takes to be ready, about, as learned; `None`: not known."""


FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0


class Candidate:
    """A routable replica with its load. Lives as long as the replica stays in the table, and is updated in place.

    `charged` counts this gateway worker's requests on it, `charged_elsewhere` the other workers' and gateways'. `foreign` is what
    the engine reports beyond both: requests that reached it by another way. It is measured against the most that was charged
    since the sample before, for a sample is always a little late, and a burst that has passed must not be counted twice.
    """

    __slots__ = ("charged", "charged_elsewhere", "down_until", "foreign", "most_charged", "pause_s", "route", "stats")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.stats: EndpointStats = NO_STATS
        self.charged = 0
        self.charged_elsewhere = 0
        self.foreign = 0.0
        self.most_charged = 0
        self.down_until = 0.0
        self.pause_s = FIRST_PAUSE_S

    @property
    def load(self) -> float:
        """Requests on this replica now, waiting or running."""
        return self.charged + self.charged_elsewhere + self.foreign

    def charge(self) -> None:
        """Count one request onto it."""
        self.charged += 1
        if (total := self.charged + self.charged_elsewhere) > self.most_charged:
            self.most_charged = total

    def discharge(self) -> None:
        """Take one request off it."""
        self.charged -= 1

    def set_charged_elsewhere(self, count: int) -> None:
        """Take over the other workers' and gateways' count."""
        self.charged_elsewhere = count
        self.most_charged = max(self.most_charged, self.charged + count)

    def set_stats(self, stats: EndpointStats) -> None:
        """Take over a new sample of the engine's own account."""
        self.stats = stats
        if stats.pending is not None and stats.running is not None:
            self.foreign = max(0.0, stats.pending + stats.running - self.most_charged)
        self.most_charged = self.charged + self.charged_elsewhere

    def suspect(self, now: float) -> None:
        """Prefer others for a while, longer each time: a connection to it was refused or lost."""
        self.down_until = now + self.pause_s
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)

    def trust(self) -> None:
        """It answered: prefer it no less than others."""
        self.down_until = 0.0
        self.pause_s = FIRST_PAUSE_S


class RouteRequest(msgspec.Struct):
    """What a strategy may know of a request."""

    request_id: str
    model_uid: str
    path: str
    body: bytes
    """The request's body as the client sent it."""
    prefix_blocks: PrefixBlocks | None = None
    """What `blocks` has found; a trace, which has no body, supplies it."""

    def blocks(self, seed: int = 0) -> PrefixBlocks:
        """The prompt's prefix as a chain of hashes, computed when first asked for."""
        if self.prefix_blocks is None:
            self.prefix_blocks = hash_prefix(self.path, self.body, seed)
        return self.prefix_blocks


class Pick(msgspec.Struct, frozen=True):
    """A strategy's choice. `reason` is a short constant for counters and logs, such as `least_pending` or `prefix_hit`."""

    candidate: Candidate
    reason: str


class Lost(msgspec.Struct, frozen=True):
    """A replica that refused or dropped a connection, for the other workers to know."""

    model_uid: str
    replica_id: str
    incarnation: int


class RouteEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step in the life of a request on a replica, or the end of the replica (`gone`, without a request).

    Plain data: what another worker or gateway saw is observed in the same way.
    """

    kind: Literal["charged", "first_token", "finished", "failed", "gone"]
    model_uid: str
    replica_id: str
    incarnation: int
    request_id: str = ""
    at: float
    """Monotonic seconds of the gateway that saw it."""
    prefix_blocks: PrefixBlocks | None = None
    """With `charged`: the request's prefix, if the strategy that decided asked for it."""
    whole: bool = False
    """With `finished`: the answer came all at once, so that this tells of its first token too."""
