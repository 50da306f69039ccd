import pytest

from nebula_core.gateway.feed import boot_s, changes, model_route
from nebula_core.types import (
    DRAIN,
    READY,
    RUN,
    STARTING,
    Assignment,
    EndpointInfo,
    ModelRequest,
    ModelStatus,
    PlacementPlan,
    ReplicaSpec,
    Scaling,
)

REQUEST = ModelRequest(model_uid="org/m", engine="e", aliases=("m",), created=7)
SPEC = ReplicaSpec(model_uid="org/m", engine="e")


def plan(**wanted: str) -> PlacementPlan:
    assignments = tuple(
        Assignment(replica_id=replica, node_id="n", spec=SPEC, assignment_version="v1", wanted=state) for replica, state in wanted.items()
    )
    return PlacementPlan(model_uid="org/m", plan_version=1, assignments=assignments)


def endpoint(replica_id: str, state: str = READY, version: str = "v1") -> EndpointInfo:
    return EndpointInfo(
        model_uid="org/m",
        replica_id=replica_id,
        node_id="n",
        assignment_version=version,
        incarnation=1,
        engine="e",
        url="http://127.0.0.1:1",
        state=state,
    )


def routed(plan_, *endpoints) -> list[str]:
    return [route.replica_id for route in model_route(REQUEST, plan_, endpoints).routes]


def test_a_ready_replica_of_the_plan_is_routed_to():
    assert routed(plan(a=RUN, b=RUN), endpoint("b"), endpoint("a")) == ["a", "b"]


@pytest.mark.parametrize("state", [STARTING, "unhealthy", "draining", "a state of the future"])
def test_a_replica_that_is_not_ready_is_not(state):
    assert routed(plan(a=RUN), endpoint("a", state)) == []


def test_a_draining_assignment_gets_nothing_new():
    assert routed(plan(a=DRAIN, b=RUN), endpoint("a"), endpoint("b")) == ["b"]


def test_a_replica_of_another_assignment_version_is_not_routed_to():
    assert routed(plan(a=RUN), endpoint("a", version="v0")) == []


def test_without_a_plan_nothing_is_routed_to_but_the_model_is_known():
    route = model_route(REQUEST, None, [endpoint("a")])
    assert route.routes == ()
    assert route.aliases == ("m",)
    assert "no replica of it is placed" in route.note


def test_the_note_counts_what_is_not_ready():
    route = model_route(REQUEST, plan(a=RUN, b=RUN), [endpoint("a", STARTING), endpoint("b", "unhealthy")])
    assert route.note == "of 2 wanted replicas: 1 starting, 1 unhealthy"


def test_only_what_changed_is_sent():
    before = {"a": model_route(REQUEST, None, []), "b": model_route(REQUEST, None, [])}
    after = {"b": before["b"], "c": model_route(REQUEST, plan(a=RUN), [endpoint("a")])}
    table = changes(before, after, revision=9)
    assert (table.revision, table.whole, table.removed) == (9, False, ("a",))
    assert table.models == (after["c"],)


@pytest.mark.parametrize(
    ("numbers", "off"),
    [
        ({"replicas": 0}, True),
        ({"replicas": 1}, False),
        ({"replicas": 0, "min_replicas": 0, "max_replicas": 2}, False),
        ({"replicas": 1, "min_replicas": 0, "max_replicas": 0}, True),
    ],
)
def test_a_model_that_no_request_can_wake_is_off(numbers, off):
    assert model_route(ModelRequest(model_uid="m", engine="e", **numbers), None, []).off is off


@pytest.mark.parametrize(("learned", "told"), [(None, None), (0.834, 0.83), (12.34, 12.0), (12.41, 12.0), (123.4, 120.0)])
def test_a_learned_boot_that_changes_little_changes_no_route(learned, told):
    assert boot_s(ModelStatus(model_uid="m", scaling=Scaling(replicas=0, boot_s=learned))) == told


def test_without_an_account_the_time_of_a_boot_is_not_known():
    assert (boot_s(None), boot_s(ModelStatus(model_uid="m"))) == (None, None)
