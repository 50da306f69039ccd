"""`Fleet`: replicas that start, serve, drain and end, and the requests that go to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from operator import attrgetter

from nebula_simulate.scaling.engine import BatchEngine, EngineSpec
from nebula_simulate.scaling.requests import Request
from nebula_simulate.scaling.sight import Seen

LOAD = attrgetter("engine.in_flight")
Watch = Callable[["Replica"], None]


class Replica:
    """One replica, from being placed until it has ended."""

    def __init__(self, replica_id: int, version: str, spec: EngineSpec, placed_at: float, ready_at: float) -> None:
        self.replica_id, self.version, self.placed_at, self.ready_at = replica_id, version, placed_at, ready_at
        self.engine = BatchEngine(spec)
        self.is_ready = False

    def seen(self) -> Seen:
        """What its engine and its node tell now."""
        if not self.is_ready:
            return Seen(str(self.replica_id), self.version, ready=False)
        engine = self.engine
        return Seen(str(self.replica_id), self.version, True, engine.pending, engine.running, min(1.0, engine.usage), engine.generated)


@dataclass(frozen=True)
class Room:
    """The waiting room of the gateways."""

    places: int = 1024
    deadline_s: float = 50.0


class Fleet:
    """The replicas of one model, and the waiting room for when none of them is ready. `watch` is told of engines with something to do."""

    def __init__(self, spec: EngineSpec, boot_s: float, room: Room, watch: Watch) -> None:
        self._spec, self._boot_s, self._room, self._watch = spec, boot_s, room, watch
        self._versions = count()
        self.members: dict[int, Replica] = {}
        """Those that are to run."""
        self.draining: set[Replica] = set()
        self._routable: list[Replica] = []
        self._waiting: deque[tuple[int, Request]] = deque()
        self.most_waiting = 0
        self.failed: list[int] = []
        """Requests that were refused or waited longer than they may."""
        self._paid_s = 0.0

    @property
    def waiting(self) -> int:
        """Requests in the waiting room."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Requests anywhere."""
        return len(self._waiting) + sum(each.engine.in_flight for each in (*self.members.values(), *self.draining))

    @property
    def ready(self) -> int:
        """Replicas that are routed to."""
        return len(self._routable)

    @property
    def pending(self) -> int:
        """Requests in the engines' queues."""
        return sum(each.engine.pending for each in (*self._routable, *self.draining))

    def paid_s(self, now: float) -> float:
        """Seconds of replicas so far: those that start and those that drain hold their GPUs, too."""
        return self._paid_s + sum(now - each.placed_at for each in (*self.members.values(), *self.draining))

    def warm(self, number: int) -> None:
        """So many replicas are ready from the beginning."""
        for replica in self._placed(number, 0.0, 0.0):
            self.become_ready(replica, 0.0)

    def scale(self, number: int, now: float) -> list[Replica]:
        """Have so many: returns those that start now. Those that are not ready go first, then those with the highest ids."""
        started = self._placed(number - len(self.members), now, now + self._boot_s)
        leaving = sorted(self.members.values(), key=lambda each: (not each.is_ready, each.replica_id))[number:]
        for replica in leaving:
            del self.members[replica.replica_id]
            if replica in self._routable:
                self._routable.remove(replica)
            self.draining.add(replica)
            self.end_if_idle(replica, now)
        return started

    def become_ready(self, replica: Replica, now: float) -> None:
        """It has started; it may have been told to end since."""
        if self.members.get(replica.replica_id) is not replica:
            return
        replica.is_ready = True
        self._routable.append(replica)
        self.expire(now)
        while self._waiting:
            self._send(*self._waiting.popleft(), now)

    def take(self, request_id: int, request: Request, now: float) -> None:
        """Route a request to the replica with the fewest, or hold it while none is ready."""
        if self._routable:
            self._send(request_id, request, now)
            return
        self.expire(now)
        if len(self._waiting) >= self._room.places:
            self.failed.append(request_id)
            return
        self._waiting.append((request_id, request))
        self.most_waiting = max(self.most_waiting, len(self._waiting))

    def expire(self, now: float) -> None:
        """Refuse those that have waited for as long as they may."""
        while self._waiting and self._waiting[0][1].came + self._room.deadline_s <= now:
            self.failed.append(self._waiting.popleft()[0])

    def end_if_idle(self, replica: Replica, now: float) -> None:
        """A replica that drains ends with its last request."""
        if replica in self.draining and not replica.engine.in_flight:
            self.draining.remove(replica)
            self._paid_s += now - replica.placed_at

    def _send(self, request_id: int, request: Request, now: float) -> None:
        chosen = min(self._routable, key=LOAD)
        chosen.engine.submit(request_id, request, now)
        self._watch(chosen)

    def _placed(self, number: int, now: float, ready_at: float) -> list[Replica]:
        free = islice((each for each in count() if each not in self.members), max(0, number))
        placed = [Replica(replica_id, str(next(self._versions)), self._spec, now, ready_at) for replica_id in free]
        self.members.update({replica.replica_id: replica for replica in placed})
        return placed
