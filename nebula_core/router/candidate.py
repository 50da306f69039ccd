"""`Candidate`: what a strategy chooses among."""

from __future__ import annotations

from nebula_core.router.routes import Route
from nebula_core.types import EndpointStats

NO_STATS = EndpointStats()


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
