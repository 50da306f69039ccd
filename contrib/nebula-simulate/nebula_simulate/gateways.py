"""The gateways: routers as production has them, each with strategies of its own, who hear of each other's requests a little late."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from nebula_core import EndpointStats, Route, RouteEvent, RouteRequest, Strategy
from nebula_core.metrics import Metrics
from nebula_core.router.candidate import Candidate
from nebula_core.router.guard import Charge
from nebula_core.router.router import Router
from nebula_core.router.routes import ModelRoute
from nebula_core.router.table import RoutingTable
from nebula_simulate.errors import SimulationError
from nebula_simulate.timeline import Timeline

MODEL = "simulated"


class _Strict(logging.Handler):
    """Ends the simulation at the first fault of a strategy, over which production would route on: its figures would be another's."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise what was caught."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            raise SimulationError(f"{record.getMessage().partition(';')[0]}: {type(error).__name__}: {error}") from error


def _strict() -> logging.Logger:
    logger = logging.Logger("nebula.simulate.router")
    logger.addHandler(_Strict())
    return logger


class Gateways:
    """So many routers over the same replicas. `delay_s` after one has charged a request or seen an event, the others know."""

    def __init__(
        self,
        strategies: Sequence[Mapping[str, Strategy]],
        *,
        default: str,
        fallback: str,
        replicas: Sequence[str],
        timeline: Timeline,
        delay_s: float,
    ) -> None:
        self._timeline, self._delay_s = timeline, delay_s
        self._metrics = Metrics()
        self._routers = [
            Router(_table(replicas), own, default=default, fallback=fallback, clock=timeline.clock, metrics=self._metrics, logger=_strict())
            for own in strategies
        ]
        self._models = [router.table.models[MODEL] for router in self._routers]
        self._told: dict[str, list[int]] = {replica: [0] * len(self._routers) for replica in replicas}
        """Charges that each gateway has told the others of, per replica."""
        if len(self._routers) > 1:
            for router in self._routers:
                router.shared = []

    def __len__(self) -> int:
        return len(self._routers)

    @property
    def fallbacks(self) -> int:
        """Decisions that the strategy left to the fallback."""
        routed = next(family for family in self._metrics.snapshot() if family.name == "nebula_route_total")
        return int(sum(sample.value for sample in routed.samples if sample.labels[1] != "picked"))

    def pick(self, gateway: int, request: RouteRequest) -> Charge:
        """Have one of the gateways route a request."""
        charge = self._routers[gateway].pick(self._models[gateway], request)
        assert charge is not None, "all replicas are candidates all the time"
        self.share(gateway)
        return charge

    def share(self, gateway: int) -> None:
        """Send the others what is new at a gateway: to be called when a charge of its own began, answered or ended."""
        if len(self._routers) == 1:
            return
        router = self._routers[gateway]
        events, router.shared = router.shared or [], []
        charges = [(candidate.route.replica_id, candidate.charged) for candidate in router.touched]
        router.touched.clear()
        if events or charges:
            self._timeline.at(self._timeline.now + self._delay_s, lambda: self._deliver(gateway, charges, events))

    def set_stats(self, replica: str, stats: EndpointStats) -> None:
        """Hand all gateways a replica's sample."""
        for router in self._routers:
            _candidate(router, replica).set_stats(stats)

    def _deliver(self, sender: int, charges: Sequence[tuple[str, int]], events: Sequence[RouteEvent]) -> None:
        for replica, count in charges:
            self._told[replica][sender] = count
        for gateway, router in enumerate(self._routers):
            if gateway == sender:
                continue
            for replica, _ in charges:
                told = self._told[replica]
                _candidate(router, replica).set_charged_elsewhere(sum(told) - told[gateway])
            router.observe(events)


def _table(replicas: Sequence[str]) -> RoutingTable:
    table = RoutingTable()
    routes = [Route(model_uid=MODEL, replica_id=replica, assignment_version="1", incarnation=1, url="") for replica in replicas]
    table.update([ModelRoute(model_uid=MODEL, routes=tuple(routes))])
    return table


def _candidate(router: Router, replica: str) -> Candidate:
    candidate = router.table.replica(MODEL, replica)
    assert candidate is not None
    return candidate
