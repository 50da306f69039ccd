"""What the engines of a model say together."""

from __future__ import annotations

from dataclasses import dataclass

from nebula_core import ScalingSignals


@dataclass(frozen=True)
class Reading:
    """A model's load at one moment; `None`: not known."""

    ready: int
    coming: int
    """Replicas that are starting: they count as what they will be."""
    caches: float | None
    """KV caches in use, in whole ones: 1.7 is as much as one replica full and another at 70 %. Known if half of the ready ones tell."""
    pending: float | None
    """Requests waiting in engines' queues, and at gateways; known if every ready replica tells."""
    is_whole: bool
    """Whether every ready replica has told all of it."""
    is_idle: bool
    """Whether it is certain that there is no request anywhere."""

    def per_replica(self, total: float | None) -> float | None:
        """Shared among the replicas that serve or will."""
        capacity = self.ready + self.coming
        return None if total is None or not capacity else total / capacity


def read(signals: ScalingSignals) -> Reading:
    """Those that do not tell are taken to be as full as the mean of the others, and never to be idle."""
    ready = [replica for replica in signals.replicas if replica.ready]
    told = [replica.stats for replica in ready if replica.stats is not None]
    usages = [stats.kv_cache_usage for stats in told if stats.kv_cache_usage is not None]
    pendings = [stats.pending for stats in told if stats.pending is not None]
    runnings = [stats.running for stats in told if stats.running is not None]
    all_pending = sum(pendings) + (signals.waiting or 0) if len(pendings) == len(ready) > 0 else None
    return Reading(
        ready=len(ready),
        coming=sum(replica.starting_s is not None for replica in signals.replicas),
        caches=sum(usages) / len(usages) * len(ready) if ready and 2 * len(usages) >= len(ready) else None,
        pending=all_pending,
        is_whole=len(usages) == len(pendings) == len(ready) > 0,
        is_idle=signals.in_flight == 0 and len(runnings) == len(ready) and all_pending == sum(runnings) == 0,
    )
