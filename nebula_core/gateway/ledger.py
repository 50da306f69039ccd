"""The gateway's account of requests in flight: each worker's own count, and for each worker the sum of the others'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

Replica = tuple[str, str]
"""`(model_uid, replica_id)`."""
Count = tuple[str, str, int]
"""(model_uid, replica_id, requests in flight)."""


class Ledger:
    """Requests in flight per worker and replica. Workers are named by any hashable key."""

    def __init__(self) -> None:
        self._by_worker: dict[object, dict[Replica, int]] = {}
        self._told: dict[object, dict[Replica, int]] = {}

    def report(self, worker: object, counts: Iterable[Count]) -> None:
        """Take over a worker's counts for some replicas; those it does not name stay as they were."""
        own = self._by_worker.setdefault(worker, {})
        for model_uid, replica_id, count in counts:
            if count:
                own[model_uid, replica_id] = count
            else:
                own.pop((model_uid, replica_id), None)

    def forget(self, worker: object) -> None:
        """The worker is gone, and its requests with it."""
        self._by_worker.pop(worker, None)
        self._told.pop(worker, None)

    def total(self) -> Counter[Replica]:
        """Requests in flight per replica, over all workers."""
        total: Counter[Replica] = Counter()
        for own in self._by_worker.values():
            total.update(own)
        return total

    def elsewhere(self, worker: object) -> tuple[Count, ...]:
        """What the others have in flight, for the replicas whose count this worker was told differently before."""
        own, told = self._by_worker.get(worker, {}), self._told.setdefault(worker, {})
        now = {replica: count - own.get(replica, 0) for replica, count in self.total().items()}
        changed = {replica: count for replica, count in now.items() if count != told.get(replica, 0)}
        changed.update({replica: 0 for replica in told if replica not in now})
        told.update(changed)
        for replica in [replica for replica, count in changed.items() if not count]:
            told.pop(replica, None)
        return tuple((model_uid, replica_id, count) for (model_uid, replica_id), count in changed.items())
