"""What a node counts: the state of its replicas, their engines' load, and its GPUs. Set at each heartbeat; what is gone has no series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from nebula_core.metrics import Instrument, Metrics, Value
from nebula_core.node.fetch import Failure
from nebula_core.node.replica import Phase, Replica, ReplicaState
from nebula_core.types import EndpointStats, GpuStatus

_REPLICA = ("model_uid", "replica_id")
_GPU = ("gpu_index",)
Labels = TypeVar("Labels", bound=tuple[str, ...])


class NodeMeasures:
    """The node's instruments. Labels are what plans say, and indexes of GPUs."""

    def __init__(self, metrics: Metrics) -> None:
        self._status = _Gauge(
            metrics,
            "nebula_container_status",
            "1 while the replica's engine runs and is well, else 0; image is the engine's name.",
            (*_REPLICA, "image"),
        )
        self._restarts = metrics.counter(
            "nebula_container_restart_total", "Engines started again after an end that no plan asked for.", ("model_uid",)
        )
        self._scrapes_failed = metrics.counter(
            "nebula_scrape_failed_total", "Readings of an engine's stats that failed, by why.", ("model_uid", "reason")
        )
        self._models: set[str] = set()
        self._load = {
            "kv_cache_usage": _Gauge(metrics, "nebula_engine_kv_cache_usage", "Share of the KV cache in use, 0-1.", _REPLICA),
            "pending": _Gauge(metrics, "nebula_engine_pending_requests", "Requests waiting in the engine's queue.", _REPLICA),
            "running": _Gauge(metrics, "nebula_engine_running_requests", "Requests that the engine computes.", _REPLICA),
            "prefix_cache_hit_rate": _Gauge(
                metrics, "nebula_engine_prefix_cache_hit_rate", "Share of prompt tokens found in the prefix cache, 0-1.", _REPLICA
            ),
        }
        self._gpus = {
            "temperature_celsius": _Gauge(metrics, "nebula_gpu_temperature", "Temperature of the GPU in degrees Celsius.", _GPU),
            "utilization": _Gauge(metrics, "nebula_gpu_utilization", "Share of time in which the GPU computed, 0-1.", _GPU),
            "memory_used_bytes": _Gauge(metrics, "nebula_gpu_memory_used_bytes", "Memory of the GPU in use.", _GPU),
            "memory_total_bytes": _Gauge(metrics, "nebula_gpu_memory_total_bytes", "Memory of the GPU.", _GPU),
            "power_watts": _Gauge(metrics, "nebula_gpu_power_watts", "Power that the GPU draws.", _GPU),
            "ecc_errors": _Gauge(metrics, "nebula_gpu_ecc_errors", "Uncorrected memory errors since the driver was loaded.", _GPU),
        }

    def restarted(self, model_uid: str) -> None:
        """An engine of this model is started again, and no plan had asked for its end."""
        self._restarts.labels(model_uid).inc()

    def scrape_failed(self, model_uid: str, failure: Failure) -> None:
        """The stats of a replica of this model could not be read."""
        self._scrapes_failed.labels(model_uid, failure).inc()

    def show_replicas(self, states: Mapping[Replica, ReplicaState], stats: Mapping[Replica, EndpointStats]) -> None:
        """The replicas as they stand, and what is known of their engines' load; what is unknown has no series."""
        self._status.show({(*replica, state.assignment.spec.engine): _status(state) for replica, state in states.items()})
        for field, gauge in self._load.items():
            gauge.show(_known(stats, field))
        models = {model_uid for model_uid, _ in states}
        for model_uid in models:
            self._restarts.labels(model_uid)  # from 0, so that the first one is a growth; below too
            for failure in Failure:
                self._scrapes_failed.labels(model_uid, failure)
        for model_uid in self._models - models:
            self._restarts.remove(model_uid)
            for failure in Failure:
                self._scrapes_failed.remove(model_uid, failure)
        self._models = models

    def show_gpus(self, gpus: Iterable[GpuStatus]) -> None:
        """The GPUs as last read; what they do not tell has no series."""
        by_index = {(str(gpu.index),): gpu for gpu in gpus}
        for field, gauge in self._gpus.items():
            gauge.show(_known(by_index, field))


class _Gauge:
    """A gauge whose series are exactly those last shown."""

    def __init__(self, metrics: Metrics, name: str, help_: str, labels: Sequence[str]) -> None:
        self._instrument: Instrument[Value] = metrics.gauge(name, help_, labels)
        self._shown: set[tuple[str, ...]] = set()

    def show(self, series: Mapping[Labels, float]) -> None:
        for gone in self._shown - series.keys():
            self._instrument.remove(*gone)
        for labels, value in series.items():
            self._instrument.labels(*labels).set(value)
        self._shown = set(series)


def _status(state: ReplicaState) -> float:
    return float(state.phase is Phase.UP and not state.is_unhealthy)


def _known(subjects: Mapping[Labels, EndpointStats] | Mapping[Labels, GpuStatus], field: str) -> dict[Labels, float]:
    found = {labels: getattr(subject, field) for labels, subject in subjects.items()}
    return {labels: value for labels, value in found.items() if value is not None}
