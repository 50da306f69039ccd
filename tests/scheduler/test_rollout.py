"""A change of a model's arguments, replica by replica: by example."""

from __future__ import annotations

import msgspec

from nebula_core.scheduler.world import Memory
from nebula_core.testing.fleet import STEP_S, Fleet, answer
from nebula_core.types import DRAIN, READY, RUN, STARTING, UNHEALTHY, GpuStatus, NodeStatus, ReplicaSpec

FAULT = "its engine ended with status 1: no such file"


def spec(gpus: int = 0, **engine_args) -> ReplicaSpec:
    return ReplicaSpec(model_uid="m", engine="llamacpp", gpus=gpus, engine_args=engine_args)


def node(name: str, gpus: int = 0) -> NodeStatus:
    return NodeStatus(node_id=name, address="127.0.0.1", engines=("llamacpp",), gpus=tuple(GpuStatus(index=i) for i in range(gpus)))


def running(desired, *nodes) -> Fleet:
    fleet = Fleet(*nodes)
    fleet.run(desired, steps=3)
    return fleet


def new(fleet: Fleet) -> list[str]:
    """The ids of replicas of the changed spec."""
    return [a.replica_id for a in fleet.assignments() if a.wanted == RUN and a.spec.engine_args]


def obey_badly(fleet: Fleet, state: str = UNHEALTHY) -> None:
    """The changed spec does not start."""
    fleet.obey()
    for assignment in fleet.assignments():
        if assignment.wanted == RUN and assignment.spec.engine_args:
            fleet.endpoints["m", assignment.replica_id] = msgspec.structs.replace(answer(assignment, state), reason=FAULT)


def run_badly(fleet: Fleet, desired, steps: int = 8) -> None:
    for _ in range(steps):
        fleet.decide(desired)
        obey_badly(fleet)
        fleet.now += STEP_S


V1, V2 = {"m": (spec(),) * 3}, {"m": (spec(context=8),) * 3}


def test_serving_replicas_are_replaced_one_by_one():
    fleet = running(V1, node("a"))
    unproven = []
    for _ in range(12):
        fleet.decide(V2)
        unproven.append(sum(not fleet.observed().ready(a) for a in fleet.assignments() if a.wanted == RUN))
        fleet.obey()
        assert sum(endpoint.state == READY for endpoint in fleet.endpoints.values()) >= 3
        fleet.now += STEP_S
    assert max(unproven) == 1
    assert (len(new(fleet)), len(fleet.assignments()), fleet.statuses["m"].reasons) == (3, 3, ())


def test_a_change_stops_at_the_first_that_does_not_start_and_says_how_to_go_back():
    fleet = running(V1, node("a"))
    run_badly(fleet, V2)
    assert new(fleet) == ["3"]
    assert set(fleet.on()) == {"0", "1", "2", "3"}
    assert fleet.statuses["m"].reasons == (
        f"the change has stopped: replica 3 does not start: {FAULT}; `nebula models rollback m` goes back",
    )
    assert fleet.statuses["m"].placed < 3


def test_that_it_is_tried_again_does_not_make_the_reason_come_and_go():
    fleet = running(V1, node("a"))
    run_badly(fleet, V2)
    told = fleet.statuses
    obey_badly(fleet, STARTING)
    fleet.decide(V2)
    assert fleet.statuses == told


def test_a_model_of_one_replica_says_so_as_well_and_serves_on():
    fleet = running({"m": (spec(),)}, node("a"))
    run_badly(fleet, {"m": (spec(context=8),)})
    assert set(fleet.on()) == {"0", "1"}
    assert fleet.statuses["m"].reasons[0].startswith("the change has stopped: replica 1 does not start: ")


def test_a_change_goes_on_once_it_starts_after_all():
    fleet = running(V1, node("a"))
    run_badly(fleet, V2)
    fleet.run(V2, steps=15)
    assert (len(new(fleet)), len(fleet.assignments()), fleet.statuses["m"].reasons) == (3, 3, ())


def test_going_back_ends_what_does_not_start():
    fleet = running(V1, node("a"))
    run_badly(fleet, V2)
    fleet.run(V1, steps=3)
    assert set(fleet.on()) == {"0", "1", "2"}
    assert not fleet.on(wanted=DRAIN)
    assert not fleet.statuses["m"].reasons


def test_an_old_replica_that_fails_for_a_moment_while_a_change_is_stopped_is_left_alone():
    fleet = running(V1, node("a"))
    run_badly(fleet, V2)
    for replica_id in "012":
        fleet.endpoints["m", replica_id] = msgspec.structs.replace(fleet.endpoints["m", replica_id], state=UNHEALTHY)
    fleet.decide(V2)
    assert set(fleet.on()) == {"0", "1", "2", "3"}


def test_old_replicas_that_do_not_serve_are_replaced_at_once():
    fleet = Fleet(node("a"))
    fleet.decide(V1)
    fleet.obey(UNHEALTHY)
    fleet.decide(V2)
    assert (set(fleet.on()), set(fleet.on(wanted=DRAIN))) == ({"3", "4", "5"}, {"0", "1", "2"})


def test_replicas_in_addition_come_at_once_and_the_change_waits_for_them():
    fleet = running(V1, node("a"))
    fleet.decide({"m": (spec(context=8),) * 6})
    assert new(fleet) == ["3", "4", "5"]
    assert [a.replaces for a in fleet.assignments() if a.replaces] == []


def test_a_new_leader_begins_no_second_one():
    fleet = running(V1, node("a"))
    fleet.decide(V2)
    fleet.obey(STARTING)
    fleet.memory = Memory()
    fleet.decide(V2)
    assert new(fleet) == ["3"]


def test_on_full_nodes_a_change_that_does_not_start_costs_one_replica():
    full = {"m": (spec(gpus=1),) * 3}, {"m": (spec(gpus=1, context=8),) * 3}
    fleet = running(full[0], node("a", gpus=3))
    run_badly(fleet, full[1], steps=15)
    assert sum(endpoint.state == READY for endpoint in fleet.endpoints.values()) == 2
    assert fleet.statuses["m"].reasons[0].startswith("the change has stopped: replica ")


def test_replicas_of_a_lost_node_are_replaced_at_once_in_the_middle_of_a_change():
    fleet = running({"m": (spec(),) * 4}, node("a"), node("b"))
    v2 = {"m": (spec(context=8),) * 4}
    fleet.decide(v2)
    fleet.obey(STARTING)
    fleet.nodes.pop("b")
    fleet.decide(v2)
    fleet.now += 12
    fleet.decide(v2)
    assert {a.replaces for a in fleet.assignments() if a.wanted == RUN and a.replaces} >= {"1", "3"}


def test_one_address_that_does_not_answer_keeps_no_other_from_being_changed():
    fleet = running({"m": (spec(url="x"), spec(url="y"))}, node("a"))
    fleet.endpoints["m", "1"] = msgspec.structs.replace(fleet.endpoints["m", "1"], state=UNHEALTHY)
    fleet.decide({"m": (spec(url="z"), spec(url="y"))})
    assert {a.spec.engine_args["url"] for a in fleet.assignments()} == {"x", "y", "z"}
