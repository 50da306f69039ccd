"""What engines and gateways say of a model together."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from nebula_core import EndpointStats, ReplicaSignals, ScalingSignals


@dataclass(frozen=True)
class Reading:
    """A model's load at one moment; `None`: not known."""

    ready: int
    coming: int
    """Replicas that are starting."""
    lost: int
    """Replicas that neither serve nor start: what is needed has to be there beside them."""
    running: float | None
    """Requests being computed; those that do not tell are taken to be like the mean of the others."""
    queue: float | None
    """Requests waiting in engines and at gateways, likewise."""
    usage: float | None
    """Mean `kv_cache_usage`."""
    generated: float | None
    """Tokens that those which are ready have generated since they started."""
    tellers: int
    """Stands for the engines that `generated` is of: with others the sum is another one."""
    in_flight: float | None
    """Requests anywhere: as gateways count, else as engines do."""
    is_whole: bool
    """Whether every ready replica and every gateway has told its load; a model at zero has no replica to tell any."""

    @property
    def is_idle(self) -> bool:
        """Whether it is certain that there is no request anywhere."""
        return self.is_whole and self.in_flight == self.running == self.queue == 0


def read(signals: ScalingSignals) -> Reading:
    """What the signals come to."""
    ready = [replica for replica in signals.replicas if replica.ready]
    coming = sum(replica.starting_s is not None and not replica.ready for replica in signals.replicas)
    told = [replica.stats for replica in ready if replica.stats is not None]
    is_at_zero = not signals.wanted and not signals.replicas
    running, queued = (0.0, 0.0) if is_at_zero else (_total(told, "running", len(ready)), _total(told, "pending", len(ready)))
    usages = [stats.kv_cache_usage for stats in told if stats.kv_cache_usage is not None]
    computed = None if running is None or queued is None else running + queued
    tells_all = len(told) == len(ready) > 0 and all(stats.running is not None and stats.pending is not None for stats in told)
    return Reading(
        ready=len(ready),
        coming=coming,
        lost=len(signals.replicas) - len(ready) - coming,
        running=running,
        queue=None if queued is None else queued + (signals.waiting or 0.0),
        usage=sum(usages) / len(usages) if usages else None,
        generated=_generated(told, len(ready)),
        tellers=_tellers(ready),
        in_flight=computed if signals.in_flight is None else signals.in_flight,
        is_whole=(tells_all or is_at_zero) and signals.in_flight is not None,
    )


def _total(told: list[EndpointStats], name: str, ready: int) -> float | None:
    known = [value for stats in told if (value := getattr(stats, name)) is not None]
    return sum(known) / len(known) * ready if known else None


def _generated(told: list[EndpointStats], ready: int) -> float | None:
    known = [stats.generated_tokens_total for stats in told if stats.generated_tokens_total is not None]
    return sum(known) if len(known) == ready > 0 else None


def _tellers(ready: list[ReplicaSignals]) -> int:
    starts = sorted(f"{each.replica_id}@{each.stats.incarnation if each.stats else 0}" for each in ready)
    return crc32(" ".join(starts).encode())
