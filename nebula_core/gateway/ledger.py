"""The gateway's account of requests in flight: what each of its workers and each other gateway has, and what each is to be told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

Replica = tuple[str, str]
"""`(model_uid, replica_id)`."""
Count = tuple[str, str, int]
"""(model_uid, replica_id, requests in flight)."""

_NEVER = -1
"""Stands for what a listener was told before it can have understood it: every count differs from it."""


class Ledger:
    """Requests in flight per source and replica. Sources are named by any hashable key.

    A worker is told the sum of all others, and the other gateways the sum of our workers. Both are kept up to date with every report,
    so that to tell a change costs no more than the change, however many replicas there are.
    """

    def __init__(self) -> None:
        self._workers: dict[object, _Source] = {}
        self._peers: dict[object, _Source] = {}
        self._ours = _Source()
        """The sum of our workers, and what the other gateways were told of it."""
        self._all: Counter[Replica] = Counter()

    def join(self, worker: object) -> None:
        """A worker of ours is to be told what the others have, from now on."""
        if worker not in self._workers:
            self._workers[worker] = _Source(news=set(self._all))

    def report(self, worker: object, counts: Iterable[Count]) -> None:
        """Take over a worker's counts for some replicas; those it does not name stay as they were."""
        self.join(worker)
        for replica, change in self._workers[worker].set(counts):
            self._ours.add(replica, change)
            self._changed(replica, change, by=worker)

    def report_peer(self, peer: object, counts: Iterable[Count]) -> None:
        """The same for another gateway, which is told nothing of it."""
        for replica, change in self._peers.setdefault(peer, _Source()).set(counts):
            self._changed(replica, change, by=peer)

    def forget(self, source: object) -> None:
        """The worker or the other gateway is gone, and its requests with it."""
        if source in self._workers:
            self.report(source, [(*replica, 0) for replica in self._workers[source].has])
        if source in self._peers:
            self.report_peer(source, [(*replica, 0) for replica in self._peers[source].has])
        self._workers.pop(source, None)
        self._peers.pop(source, None)

    def total(self) -> Counter[Replica]:
        """Requests in flight per replica, over all workers of ours."""
        return Counter(self._ours.has)

    def elsewhere(self, worker: object) -> tuple[Count, ...]:
        """What the others have in flight, for the replicas whose count this worker was told differently before."""
        self.join(worker)
        source = self._workers[worker]
        return source.tell({replica: self._all[replica] - source.has.get(replica, 0) for replica in source.news})

    def ours(self) -> tuple[Count, ...]:
        """What our workers have in flight, for the replicas whose count the other gateways were told differently before."""
        return self._ours.tell({replica: self._ours.has.get(replica, 0) for replica in self._ours.news})

    def told_of_ours(self) -> tuple[Count, ...]:
        """All that the other gateways were told so far: what a new one among them must hear first."""
        return tuple((*replica, count) for replica, count in self._ours.told.items())

    def tell_again(self, replicas: Iterable[Replica]) -> None:
        """Workers learned of these replicas only now, and could make nothing of what they were told of them before."""
        for replica in replicas:
            for source in self._workers.values():
                source.told[replica] = _NEVER
                source.news.add(replica)

    def _changed(self, replica: Replica, change: int, *, by: object) -> None:
        self._all[replica] += change
        if not self._all[replica]:
            del self._all[replica]
        for worker, source in self._workers.items():
            if worker is not by:
                source.news.add(replica)


class _Source:
    """What one source has in flight, what it was told of the others, and the replicas for which that may be out of date."""

    def __init__(self, news: set[Replica] | None = None) -> None:
        self.has: dict[Replica, int] = {}
        self.told: dict[Replica, int] = {}
        self.news: set[Replica] = news or set()

    def set(self, counts: Iterable[Count]) -> list[tuple[Replica, int]]:
        """Take over counts; returns by how much each changed."""
        changes = []
        for model_uid, replica_id, count in counts:
            replica = (model_uid, replica_id)
            changes.append((replica, count - self.has.get(replica, 0)))
            self._put(replica, count)
        return [(replica, change) for replica, change in changes if change]

    def add(self, replica: Replica, change: int) -> None:
        """One count has changed."""
        self.news.add(replica)
        self._put(replica, self.has.get(replica, 0) + change)

    def tell(self, now: Mapping[Replica, int]) -> tuple[Count, ...]:
        """Those of the present counts that differ from what was told; they count as told."""
        self.news.clear()
        changed = {replica: count for replica, count in now.items() if count != self.told.get(replica, 0)}
        for replica, count in changed.items():
            if count:
                self.told[replica] = count
            else:
                self.told.pop(replica, None)
        return tuple((*replica, count) for replica, count in changed.items())

    def _put(self, replica: Replica, count: int) -> None:
        if count:
            self.has[replica] = count
        else:
            self.has.pop(replica, None)
