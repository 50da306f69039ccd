from dataclasses import replace

import pytest

from nebula_core.metrics import Metrics
from nebula_core.node import replica as transitions
from nebula_core.node.measures import NodeMeasures
from nebula_core.node.replica import FAILED_PROBES, Phase, ReplicaState
from nebula_core.types import Assignment, EndpointStats, GpuStatus, ReplicaSpec

SPEC = ReplicaSpec(model_uid="m", engine="fake")
WAITING = ReplicaState(assignment=Assignment(replica_id="0", node_id="n", spec=SPEC, assignment_version="v1"), incarnation=1)
UP = replace(WAITING, phase=Phase.UP, ready_at=0.0)


def shown(metrics, name):
    return {sample.labels: sample.value for family in metrics.snapshot() if family.name == name for sample in family.samples}


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (UP, 1),
        (replace(UP, drain=transitions.Drain(0.0, 1)), 1),
        (replace(UP, failed_probes=FAILED_PROBES), 0),
        (replace(UP, phase=Phase.STARTING), 0),
        (replace(UP, phase=Phase.STOPPING), 0),
        (WAITING, 0),
    ],
)
def test_a_container_is_well_or_not(state, value):
    measures = NodeMeasures(metrics := Metrics())
    measures.show_replicas({("m", "0"): state}, {})
    assert shown(metrics, "nebula_container_status") == {("m", "0", "fake"): value}


def test_what_an_engine_does_not_tell_has_no_series():
    measures = NodeMeasures(metrics := Metrics())
    measures.show_replicas({("m", "0"): UP}, {("m", "0"): EndpointStats(pending=3, kv_cache_usage=0.5)})
    assert shown(metrics, "nebula_engine_pending_requests") == {("m", "0"): 3}
    assert shown(metrics, "nebula_engine_kv_cache_usage") == {("m", "0"): 0.5}
    assert shown(metrics, "nebula_engine_running_requests") == {}
    measures.show_replicas({("m", "0"): UP}, {("m", "0"): EndpointStats(pending=4)})
    assert shown(metrics, "nebula_engine_pending_requests") == {("m", "0"): 4}
    assert shown(metrics, "nebula_engine_kv_cache_usage") == {}


def test_restarts_are_counted_from_zero_and_forgotten_with_the_last_replica():
    measures = NodeMeasures(metrics := Metrics())
    measures.show_replicas({("m", "0"): UP, ("m", "1"): UP}, {})
    assert shown(metrics, "nebula_container_restart_total") == {("m",): 0}
    measures.restarted("m")
    measures.show_replicas({("m", "1"): UP}, {})
    assert shown(metrics, "nebula_container_restart_total") == {("m",): 1}
    measures.show_replicas({}, {})
    assert shown(metrics, "nebula_container_restart_total") == {}


def test_gpus_are_shown_by_index_until_they_are_gone():
    measures = NodeMeasures(metrics := Metrics())
    measures.show_gpus([GpuStatus(index=0, temperature_celsius=41.0), GpuStatus(index=1, utilization=0.5)])
    assert shown(metrics, "nebula_gpu_temperature") == {("0",): 41}
    assert shown(metrics, "nebula_gpu_utilization") == {("1",): 0.5}
    measures.show_gpus([])
    assert shown(metrics, "nebula_gpu_utilization") == {}
