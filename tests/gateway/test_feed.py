import pytest

from nebula_core.gateway.feed import changes, model_route
from nebula_core.types import DRAIN, READY, RUN, STARTING, Assignment, EndpointInfo, ModelRequest, PlacementPlan, ReplicaSpec

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
