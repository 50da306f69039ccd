"""One run: a workload, a fleet, and who scales it, on one clock."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, nan

from nebula_simulate.scaling.deciders import Decider
from nebula_simulate.scaling.engine import EngineSpec
from nebula_simulate.scaling.fleet import Fleet, Replica, Room
from nebula_simulate.scaling.requests import Request, Workload
from nebula_simulate.scaling.sight import Sight
from nebula_simulate.scaling.traffic import Traffic

AGE_S = 3.0
"""What is told of engines and traffic was read a heartbeat ago."""
ENGINE, READY, TELL, LOOK = 0, 1, 2, 3
"""Kinds of events."""


@dataclass(frozen=True)
class Scene:
    """What all that are compared have in common."""

    engine: EngineSpec = field(default_factory=EngineSpec)
    boot_s: float = 120.0
    start: int = 1
    """Replicas that are ready at the beginning."""
    room: Room = field(default_factory=Room)


@dataclass
class Record:
    """What happened."""

    workload: Workload
    ttft_s: array[float]
    """Of each request, from its coming; NaN: it was not answered."""
    looks: list[tuple[float, int, int, float, int]] = field(default_factory=list)
    """Time, replicas wanted and ready, arrivals per second, requests in flight."""
    failed: int = 0
    refused: int = 0
    """Requests that no engine can hold: left out."""
    most_waiting: int = 0
    most_pending: int = 0
    paid_s: float = 0.0
    """Seconds of replicas until the last request came, those that started or drained included."""


class Run:
    """Plays a workload to its last answer; nobody is asked to scale after the last request has come."""

    def __init__(self, workload: Workload, scene: Scene, decider: Decider) -> None:
        self._scene, self._decider = scene, decider
        self._requests: Sequence[Request] = workload.requests
        self._events: list[tuple[float, int, int, Replica | None]] = []
        self._count = 0
        self._fleet = Fleet(scene.engine, scene.boot_s, scene.room, self._watch)
        self._traffic = Traffic()
        self._told: Sight | None = None
        self.record = Record(workload, array("d", [nan]) * len(workload.requests))

    def run(self) -> Record:
        """All of it."""
        self._fleet.warm(self._scene.start)
        self._at(0.0, TELL)
        self._at(0.0, LOOK)
        came, last = 0, len(self._requests)
        while came < last or self._events:
            until = self._events[0][0] if self._events else inf
            while came < last and self._requests[came].came <= until:
                self._arrive(came)
                came += 1
                until = self._events[0][0]
            if self._events:
                self._next(is_over=came == last)
        return self._closed()

    def _at(self, when: float, kind: int, replica: Replica | None = None) -> None:
        self._count += 1
        heappush(self._events, (when, self._count, kind, replica))

    def _watch(self, replica: Replica) -> None:
        self._at(replica.engine.next_at, ENGINE, replica)

    def _arrive(self, request_id: int) -> None:
        request = self._requests[request_id]
        if request_id == len(self._requests) - 1:
            self.record.paid_s = self._fleet.paid_s(request.came)
        if not self._scene.engine.fits(request):
            self.record.refused += 1
            return
        self._traffic.arrived(request.came)
        self._fleet.take(request_id, request, request.came)

    def _next(self, *, is_over: bool) -> None:
        now, _, kind, replica = heappop(self._events)
        if kind == ENGINE and replica is not None:
            self._step(replica, now)
        elif kind == READY and replica is not None:
            self._fleet.become_ready(replica, now)
        elif kind == TELL:
            self._told = self._sight(now)
        elif not is_over or self._fleet.waiting:
            self._look(now)

    def _step(self, replica: Replica, now: float) -> None:
        if replica.engine.next_at != now:
            return  # its step ended earlier, because somebody came
        first, ended = replica.engine.advance()
        for token in first:
            ttft_s = now - self._requests[token.request_id].came
            self.record.ttft_s[token.request_id] = ttft_s
            self._traffic.began(now, ttft_s)
        if replica.engine.in_flight:
            self._watch(replica)
        elif ended:
            self._fleet.end_if_idle(replica, now)

    def _look(self, now: float) -> None:
        """Ask, scale, and have everything told again a heartbeat before the next look."""
        self._fleet.expire(now)
        assert self._told is not None
        wanted = self._decider.wanted(self._told, now)
        for replica in self._fleet.scale(wanted, now):
            self._at(replica.ready_at, READY, replica)
        pending = self._fleet.pending + self._fleet.waiting
        self.record.most_pending = max(self.record.most_pending, pending)
        self.record.looks.append((now, wanted, self._fleet.ready, self._told.arrivals_per_s, self._told.in_flight))
        self._at(now + self._decider.every_s - min(AGE_S, self._decider.every_s), TELL)
        self._at(now + self._decider.every_s, LOOK)

    def _sight(self, now: float) -> Sight:
        self._fleet.expire(now)
        rate, first_token_s = self._traffic.measured(now)
        return Sight(
            replicas=tuple(each.seen() for each in self._fleet.members.values()),
            in_flight=self._fleet.in_flight,
            waiting=self._fleet.waiting,
            arrivals_per_s=rate,
            first_token_s=first_token_s,
        )

    def _closed(self) -> Record:
        record, fleet = self.record, self._fleet
        record.failed, record.most_waiting = len(fleet.failed), fleet.most_waiting
        return record
