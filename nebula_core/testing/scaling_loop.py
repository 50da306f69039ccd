"""A model in virtual time, scaled by a policy: requests come by chance, replicas boot, queue and compute, and the real autoscaler looks on.

A replica here computes `places` requests at a time, and each takes its time whatever else runs: simpler than an engine, and enough to
see whether a policy settles, how late it is, and what it costs. An hour takes about a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heapreplace
from itertools import pairwise, takewhile
from random import Random

import msgspec

from nebula_core.interfaces import ScalingPolicy
from nebula_core.scheduler.autoscale import Limits
from nebula_core.scheduler.autoscaler import Autoscaler
from nebula_core.scheduler.demand import Load
from nebula_core.scheduler.world import Observed, Replica
from nebula_core.types import (
    READY,
    STARTING,
    Assignment,
    EndpointInfo,
    EndpointStats,
    GatewayStatus,
    ModelRequest,
    ModelStatus,
    NodeStatus,
    PlacementPlan,
    ReplicaSpec,
    Scaling,
    Traffic,
)

UID, NODE = "m", "a"
LOOK_S = 10.0
SPEC = ReplicaSpec(model_uid=UID, engine="fake")
TRAFFIC_S = 30.0
"""Time that gateways measure traffic over."""


@dataclass(frozen=True)
class Served:
    """One request's times."""

    came: float
    began: float
    ended: float

    @property
    def waited_s(self) -> float:
        """How long it waited for its turn."""
        return self.began - self.came


class _Server:
    """One replica: first come, first served, at `places` places."""

    def __init__(self, ready_at: float, places: int) -> None:
        self.ready_at = ready_at
        self._free = [ready_at] * places
        self.requests: list[Served] = []

    def take(self, now: float, service_s: float) -> Served:
        began = max(now, self._free[0])
        heapreplace(self._free, began + service_s)
        self.requests.append(Served(now, began, began + service_s))
        return self.requests[-1]

    def forget_ended(self, now: float) -> None:
        self.requests = [each for each in self.requests if each.ended > now]

    def running(self, now: float) -> int:
        return sum(each.began <= now for each in self.requests)

    def pending(self, now: float) -> int:
        return len(self.requests) - self.running(now)


@dataclass(kw_only=True)
class ClosedLoop:
    """`rate` gives the requests per second at a time. What happened is in `wanted`, `ready` and `served` afterwards."""

    policy: ScalingPolicy
    request: ModelRequest
    rate: Callable[[float], float]
    service_s: float = 8.0
    """Mean of an exponential distribution."""
    places: int = 16
    boot_s: float = 60.0
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    kv_full_at: float = 1.2
    """Places that would fill the KV cache, in multiples of `places`: above 1, the cache is not what fills up first."""
    tells_traffic: bool = True
    term_s: float = float("inf")
    """After so many seconds another scheduler leads, each time, with what lies in the store."""
    spoil: Callable[[float, dict[Replica, EndpointStats]], Mapping[Replica, EndpointStats]] = lambda _, stats: stats
    """What is made of the stats before anybody reads them."""

    def __post_init__(self) -> None:
        self.now = 0.0
        self.wanted: list[tuple[float, int]] = []
        self.ready: list[tuple[float, int]] = []
        self.served: list[Served] = []
        self._random, self._random_clock = Random(self.seed), Random(self.seed)
        self._servers: dict[str, _Server] = {}
        self._leaving: list[_Server] = []
        self._waiting: list[tuple[float, float]] = []
        self._status: bytes | None = None
        self._elect()

    def start(self, count: int) -> None:
        """So many replicas are ready, and no leader remembers anything."""
        for _ in range(count):
            self._add(ready_at=self.now)

    def run(self, seconds: float) -> ClosedLoop:
        """Let the time go on, second by second."""
        for _ in range(int(seconds)):
            if self.now % LOOK_S == 0:
                self._look()
            self._second()
        return self

    @property
    def account(self) -> Scaling:
        """What the leader keeps."""
        assert self._status is not None
        scaling = msgspec.json.decode(self._status, type=ModelStatus).scaling
        assert scaling is not None
        return scaling

    @property
    def numbers(self) -> list[int]:
        """The replicas that were wanted, look by look."""
        return [number for _, number in self.wanted]

    def changes(self, since: float = 0.0) -> int:
        """How often the number changed."""
        late = [number for at, number in self.wanted if at >= since]
        return sum(one != other for one, other in pairwise(late))

    def kept(self, wait_s: float, since: float = 0.0, until: float = float("inf")) -> float:
        """Share of the requests in that time that waited no longer."""
        waits = [each.waited_s for each in self.served if since <= each.came < until]
        return sum(wait <= wait_s for wait in waits) / len(waits) if waits else 1.0

    def _elect(self) -> None:
        """A leader whose clock has nothing to do with that of the one before."""
        self._autoscaler = Autoscaler({"it": self.policy}, "it", self.limits, LOOK_S, logging.getLogger("nebula.testing"))
        self._elected_at, self._ahead = self.now, self._random_clock.uniform(-1e6, 1e6)

    def _second(self) -> None:
        arrivals, due = self.rate(self.now), self._random.expovariate(1.0)
        while arrivals > 0 and due <= arrivals:
            self._waiting.append((self.now + due / arrivals, self._random.expovariate(1.0 / self.service_s)))
            due += self._random.expovariate(1.0)
        self.now += 1.0
        serving = [server for server in self._servers.values() if server.ready_at <= self.now]
        for came, service_s in self._waiting if serving else ():
            server = min(serving, key=lambda each: len(each.requests))
            begun = server.take(max(came, server.ready_at), service_s)
            self.served.append(Served(came, begun.began, begun.ended))
        self._waiting = [] if serving else self._waiting
        for server in (*self._servers.values(), *self._leaving):
            server.forget_ended(self.now)

    def _look(self) -> None:
        self._ask()
        if self.now - self._elected_at >= self.term_s:
            self._elect()
            self._ask()
        scaling = self.account
        while len(self._servers) < scaling.replicas:
            self._add(ready_at=self.now + self.boot_s)
        while len(self._servers) > scaling.replicas:
            last = max(self._servers, key=lambda name: (self._servers[name].ready_at, int(name)))
            self._leaving.append(self._servers.pop(last))
        self.wanted.append((self.now, scaling.replicas))
        self.ready.append((self.now, sum(server.ready_at <= self.now for server in self._servers.values())))

    def _ask(self) -> None:
        clock = self.now + self._ahead
        scaling = self._autoscaler.look({UID: self.request}, self._observed(), self._load(), clock)[UID]
        self._status = msgspec.json.encode(ModelStatus(model_uid=UID, wanted=scaling.replicas, placed=scaling.replicas, scaling=scaling))

    def _add(self, ready_at: float) -> None:
        free = next(str(number) for number in range(len(self._servers) + 1) if str(number) not in self._servers)
        self._servers[free] = _Server(ready_at, self.places)

    def _observed(self) -> Observed:
        assignments = tuple(
            Assignment(replica_id=name, node_id=NODE, spec=SPEC, assignment_version=f"{server.ready_at}")
            for name, server in self._servers.items()
        )
        status = {} if self._status is None else {UID: msgspec.json.decode(self._status, type=ModelStatus)}
        return Observed(
            plans={UID: PlacementPlan(model_uid=UID, plan_version=1, assignments=assignments)} if assignments else {},
            statuses=status,
            nodes={NODE: NodeStatus(node_id=NODE, address="127.0.0.1")},
            endpoints={(UID, name): self._endpoint(name, server) for name, server in self._servers.items()},
        )

    def _endpoint(self, name: str, server: _Server) -> EndpointInfo:
        return EndpointInfo(
            model_uid=UID, replica_id=name, node_id=NODE, assignment_version=f"{server.ready_at}", incarnation=1, engine="fake",
            state=READY if server.ready_at <= self.now else STARTING,
        )  # fmt: skip

    def _load(self) -> Load:
        serving = {name: server for name, server in self._servers.items() if server.ready_at <= self.now}
        stats = {(UID, name): self._stats(server) for name, server in serving.items()}
        held = sum(len(server.requests) for server in (*self._servers.values(), *self._leaving)) + len(self._waiting)
        recent = list(takewhile(lambda each: each.came >= self.now - TRAFFIC_S, reversed(self.served)))
        late = sorted(each.waited_s for each in recent)
        traffic = Traffic(
            arrivals_per_s=(len(recent) + len(self._waiting)) / min(TRAFFIC_S, max(1.0, self.now)),
            waiting=len(self._waiting),
            first_token_s=late[int(0.99 * len(late))] if late else None,
        )
        gateway = GatewayStatus(
            gateway_id="g", address="", demand={UID: held} if held else {}, traffic={UID: traffic} if self.tells_traffic else None
        )  # fmt: skip
        return Load(stats=self.spoil(self.now, stats), gateways=(gateway,))

    def _stats(self, server: _Server) -> EndpointStats:
        running = server.running(self.now)
        usage = min(1.0, running / (self.places * self.kv_full_at))
        return EndpointStats(pending=server.pending(self.now), running=running, kv_cache_usage=usage, incarnation=1)
