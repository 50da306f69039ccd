"""The router: filters candidates, asks the strategy, and charges the pick, all in one step without waiting in between."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from nebula_core.interfaces import Explanation, Strategy
from nebula_core.metrics import Metrics, Value
from nebula_core.router.blocks import PrefixBlocks
from nebula_core.router.candidate import Candidate
from nebula_core.router.events import Lost, RouteEvent, RouteRequest
from nebula_core.router.guard import Charge, Failure
from nebula_core.router.routes import ModelRoute
from nebula_core.router.table import Model, RoutingTable

EventKind = Literal["charged", "first_token", "finished", "failed", "gone"]

COMPLAIN_S = 10.0


class Router:
    """Picks replicas for requests. One per gateway worker, used by its event loop alone.

    `strategies` holds every strategy by name, the default and the fallback among them.
    """

    def __init__(
        self,
        table: RoutingTable,
        strategies: Mapping[str, Strategy],
        *,
        default: str,
        fallback: str,
        clock: Callable[[], float],
        metrics: Metrics,
        logger: logging.Logger,
    ) -> None:
        self.table = table
        self.touched: set[Candidate] = set()
        """Candidates whose charges changed since the reporter last looked."""
        self.failures: list[Lost] = []
        """Replicas that refused or dropped a connection since then, each once."""
        self.shared: list[RouteEvent] | None = None
        """Events for other workers' strategies since then; `None` where there is no other worker."""
        self._strategies = strategies
        self._default, self._fallback = default, fallback
        self._observers = self._in_use()
        self._clock, self._logger = clock, logger
        self._quiet_until: dict[str, float] = {}
        self._suspicion_ends = 0.0
        """When the last candidate that is down gets its next chance; 0 while all are well, so that none need be looked at."""
        self._picked: dict[str, Value] = {}
        """A model's counter, bound: to look it up costs 0.15 us."""
        self._routed = metrics.counter("nebula_route_total", "Routing decisions by model and outcome.", labels=("model_uid", "status"))

    def pick(self, model: Model, request: RouteRequest, tried: Collection[Candidate] = ()) -> Charge | None:
        """Choose a replica that was not tried yet and charge the request to it; `None` if the model has none."""
        candidates: Sequence[Candidate] = model.candidates
        if tried or self._suspicion_ends:
            candidates = self._usable(candidates, tried)
        if not candidates:
            self._routed.labels(model.model_uid, "no_candidate").inc()
            return None
        candidate = self._select(model.strategy or self._default, request, candidates)
        if candidate is None:
            candidate = self._fall_back(model, request, candidates)
        else:
            picked = self._picked.get(model.model_uid)
            if picked is None:
                picked = self._picked[model.model_uid] = self._routed.labels(model.model_uid, "picked")
            picked.value += 1
        return Charge(self, candidate, request.request_id, request.prefix_blocks)

    def note(
        self, kind: EventKind, candidate: Candidate, request_id: str, blocks: PrefixBlocks | None = None, *, whole: bool = False
    ) -> None:
        """A charge began, answered or ended: tell the strategies that observe. One function, for every request comes here twice or more."""
        if kind != "first_token":
            self.touched.add(candidate)
        if not self._observers:
            return
        route = candidate.route
        event = RouteEvent(
            kind=kind,
            model_uid=route.model_uid,
            replica_id=route.replica_id,
            incarnation=route.incarnation,
            request_id=request_id,
            at=self._clock(),
            prefix_blocks=blocks,
            whole=whole,
        )
        for name, strategy in self._observers:
            try:
                strategy.observe(event)
            except Exception:  # noqa: BLE001 - a plugin's fault must cost no request
                self._complain(name)
        if self.shared is not None:
            self.shared.append(event)

    def note_failure(self, charge: Charge, failure: Failure) -> None:
        """A charge ended without a whole answer. A client that left says nothing about the replica."""
        if failure in ("refused", "reset"):
            self._suspect(charge.candidate)
            route = charge.candidate.route
            lost = Lost(route.model_uid, route.replica_id, route.incarnation)
            if lost not in self.failures:  # so that they stay few while nobody takes them
                self.failures.append(lost)
        self.note("failed", charge.candidate, charge.request_id)

    def update(self, models: Iterable[ModelRoute], removed: Iterable[str] = (), *, whole: bool = False) -> None:
        """Take over new versions of some models, or (`whole`) of all; strategies in use hear of the replicas that are gone."""
        gone = self.table.update(models, removed, whole=whole)
        self._observers = self._in_use()
        self._suspicion_ends = max(
            (candidate.down_until for model in self.table.models.values() for candidate in model.candidates), default=0.0
        )
        now = self._clock()
        self.observe(
            RouteEvent(kind="gone", model_uid=route.model_uid, replica_id=route.replica_id, incarnation=route.incarnation, at=now)
            for route in (candidate.route for candidate in gone)
        )

    def observe(self, events: Iterable[RouteEvent]) -> None:
        """Tell the strategies what another worker saw, or what the table says.

        Of a replica that has left the table here, or is yet to come, no beginning is told: nothing would ever end it.
        """
        for event in events:
            if event.kind == "charged" and self.table.replica(event.model_uid, event.replica_id) is None:
                continue
            for name, strategy in self._observers:
                try:
                    strategy.observe(event)
                except Exception:  # noqa: BLE001 - as in `note`
                    self._complain(name)

    def explain(self, request_id: str) -> tuple[Explanation, ...]:
        """What the strategies still know of their decisions on a request, in order of time."""
        found: list[Explanation] = []
        for name, strategy in self._strategies.items():
            try:
                told = [{**msgspec.to_builtins(decision), "strategy": name} for decision in strategy.explain(request_id)]
                found += msgspec.convert(told, list[Explanation])  # what is of another type could not be sent
            except Exception:  # noqa: BLE001 - as in `note`
                self._complain(name)
        return tuple(sorted(found, key=lambda decision: decision.at))

    def _in_use(self) -> list[tuple[str, Strategy]]:
        """The strategies that observe and that some model is routed by: an event for another one would be for nobody."""
        names = {self._default, self._fallback, *(model.strategy for model in self.table.models.values())}
        return [(name, s) for name, s in self._strategies.items() if name in names and type(s).observe is not Strategy.observe]

    def suspect(self, lost: Lost) -> None:
        """Another worker could not connect to a replica."""
        candidate = self.table.replica(lost.model_uid, lost.replica_id)
        if candidate is not None and candidate.route.incarnation == lost.incarnation:
            self._suspect(candidate)

    def _suspect(self, candidate: Candidate) -> None:
        candidate.suspect(self._clock())
        self._suspicion_ends = max(self._suspicion_ends, candidate.down_until)

    def _usable(self, candidates: Sequence[Candidate], tried: Collection[Candidate]) -> Sequence[Candidate]:
        """Those not tried; of these, those not under suspicion, unless all are: then one of them may be back."""
        if tried:
            candidates = [candidate for candidate in candidates if candidate not in tried]
        now = self._clock()
        if now >= self._suspicion_ends:
            self._suspicion_ends = 0.0
        return [candidate for candidate in candidates if candidate.down_until <= now] or candidates

    def _fall_back(self, model: Model, request: RouteRequest, candidates: Sequence[Candidate]) -> Candidate:
        """The fallback's choice where the strategy had none, and the least loaded where that has none either."""
        candidate, status = self._select(self._fallback, request, candidates), "fallback"
        if candidate is None:
            candidate, status = min(candidates, key=_load), "no_strategy"
        self._routed.labels(model.model_uid, status).value += 1
        return candidate

    def _select(self, name: str, request: RouteRequest, candidates: Sequence[Candidate]) -> Candidate | None:
        try:
            pick = self._strategies[name].select(request, candidates)
            return None if pick is None else pick.candidate
        except Exception:  # noqa: BLE001 - a plugin's fault must cost no request: it is logged, and the fallback decides
            self._complain(name)
            return None

    def _complain(self, name: str) -> None:
        """Log the present exception, now and then only: the next request will bring it again."""
        now = self._clock()
        if now >= self._quiet_until.get(name, now):
            self._quiet_until[name] = now + COMPLAIN_S
            self._logger.exception("the routing strategy %r failed; while it does, this is said every %.0f s", name, COMPLAIN_S)


def _load(candidate: Candidate) -> float:
    return candidate.load
