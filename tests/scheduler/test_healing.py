"""What becomes of replicas whose node is gone, is to be emptied, or has a broken GPU: by example."""

from __future__ import annotations

import msgspec
import pytest

from nebula_core.scheduler.reconcile import Rules
from nebula_core.scheduler.world import Memory, Refusal
from nebula_core.testing.fleet import Fleet
from nebula_core.types import DRAIN, READY, STARTING, UNHEALTHY, GpuStatus, NodeStatus, ReplicaSpec

RULES = Rules(lost_after_s=12.0)


def spec(gpus: int = 0, **engine_args) -> ReplicaSpec:
    return ReplicaSpec(model_uid="m", engine="llamacpp", gpus=gpus, engine_args=engine_args)


def node(name: str, gpus: int = 0, **fields) -> NodeStatus:
    return NodeStatus(
        node_id=name, address="127.0.0.1", engines=("llamacpp",), gpus=tuple(GpuStatus(index=i) for i in range(gpus)), **fields
    )


def running(desired, *nodes) -> Fleet:
    fleet = Fleet(*nodes, rules=RULES)
    fleet.run(desired, steps=3)
    return fleet


def lose(fleet: Fleet, *names: str) -> list[NodeStatus]:
    return [fleet.nodes.pop(name) for name in names]


def pass_time(fleet: Fleet, desired, seconds: float) -> None:
    """A pass now and one after so many seconds, nothing being obeyed."""
    fleet.decide(desired)
    fleet.now += seconds
    fleet.decide(desired)


def reasons(fleet: Fleet) -> tuple[str, ...]:
    return fleet.statuses["m"].reasons


# --- a lost node ----------------------------------------------------------------------------------------------------------------


def test_a_replica_of_a_lost_node_is_replaced_and_runs_on_until_the_new_one_is_ready():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    lose(fleet, "a")
    pass_time(fleet, desired, 12)
    fleet.obey(STARTING)
    fleet.decide(desired)
    assert fleet.on() == {"0": "a", "1": "b"}
    fleet.obey(READY)
    fleet.decide(desired)
    assert (fleet.on(), fleet.on(wanted=DRAIN)) == ({"1": "b"}, {"0": "a"})


def test_a_lost_node_that_returns_cleans_up():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    [gone] = lose(fleet, "a")
    fleet.run(desired, steps=10)
    fleet.nodes["a"] = gone
    fleet.run(desired, steps=2)
    assert [(a.replica_id, a.node_id, a.replaces) for a in fleet.assignments()] == [("1", "b", "")]
    assert set(fleet.endpoints) == {("m", "1")}


def test_nothing_moves_before_a_node_has_been_missing_for_a_while_and_the_next_pass_is_due_then():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    lose(fleet, "a")
    pass_time(fleet, desired, 11.9)
    assert fleet.on() == {"0": "a"}
    assert fleet.memory.next_after(fleet.now) == pytest.approx(fleet.now + 0.1)


def test_a_node_that_flaps_is_waited_for_anew():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    for _ in range(5):
        [gone] = lose(fleet, "a")
        pass_time(fleet, desired, 10)
        fleet.nodes["a"] = gone
        pass_time(fleet, desired, 1)
    assert fleet.on() == {"0": "a"}


def test_a_new_leader_waits_before_it_declares_a_node_lost():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    lose(fleet, "a")
    fleet.memory = Memory(lose_from=fleet.now + 30)
    pass_time(fleet, desired, 29)
    assert fleet.on() == {"0": "a"}
    pass_time(fleet, desired, 1)
    assert fleet.on() == {"0": "a", "1": "b"}


def test_a_node_that_is_back_in_time_keeps_its_engines_and_the_replacement_is_dropped():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    [gone] = lose(fleet, "a")
    pass_time(fleet, desired, 12)
    fleet.obey(STARTING)
    fleet.nodes["a"] = gone
    fleet.decide(desired)
    assert (fleet.on(), fleet.on(wanted=DRAIN)) == ({"0": "a"}, {"1": "b"})


def test_a_node_that_is_back_with_its_engines_starting_competes_with_the_replacement():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    [gone] = lose(fleet, "a")
    pass_time(fleet, desired, 12)
    fleet.obey(STARTING)
    fleet.nodes["a"] = gone
    fleet.endpoints["m", "0"] = msgspec.structs.replace(fleet.endpoints["m", "0"], state=STARTING, incarnation=2)
    fleet.decide(desired)
    assert fleet.on() == {"0": "a", "1": "b"}
    fleet.endpoints["m", "1"] = msgspec.structs.replace(fleet.endpoints["m", "1"], state=READY)
    fleet.decide(desired)
    assert fleet.on() == {"1": "b"}


def test_a_new_leader_lets_the_replacement_of_the_last_one_go_on():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    lose(fleet, "a")
    pass_time(fleet, desired, 12)
    fleet.obey(STARTING)
    fleet.memory = Memory(lose_from=fleet.now + 30)
    assert not fleet.decide(desired).plans
    fleet.obey(READY)
    fleet.decide(desired)
    assert fleet.on() == {"1": "b"}


@pytest.mark.parametrize("state", [None, STARTING, UNHEALTHY])
def test_what_did_not_serve_on_a_lost_node_is_dropped_at_once(state):
    desired = {"m": (spec(),)}
    fleet = Fleet(node("a"), node("b"), rules=RULES)
    fleet.decide(desired)
    if state:
        fleet.obey(state)
    lose(fleet, "a")
    pass_time(fleet, desired, 12)
    assert (fleet.on(), fleet.on(wanted=DRAIN)) == ({"1": "b"}, {"0": "a"})


def test_what_has_no_other_place_serves_on_and_the_reason_names_the_node():
    desired = {"m": (spec(gpus=1),)}
    fleet = running(desired, node("a", gpus=1), node("b"))
    lose(fleet, "a")
    pass_time(fleet, desired, 12)
    assert fleet.on() == {"0": "a"}
    assert reasons(fleet) == ("node a is gone, and 1 replica has no other place: needs 1 GPU; no node reports a GPU",)


def test_no_replica_ends_to_make_room_on_a_node_that_is_lost():
    desired = {"m": (spec(gpus=1),)}
    fleet = running(desired, node("a", gpus=1), node("b"))
    lose(fleet, "a")
    fleet.run({"m": (spec(gpus=1, context=8),)}, steps=10)
    assert fleet.on() == {"0": "a"}


def test_what_waits_for_a_lost_node_to_clean_up_does_not_keep_others_from_making_room():
    fleet = running({"m": (spec(gpus=1),) * 2}, node("a", gpus=1), node("b", gpus=1))
    lose(fleet, "b")
    fleet.run({"m": (spec(gpus=1),)}, steps=5)
    assert fleet.on(wanted=DRAIN) == {"1": "b"}
    fleet.run({"m": (spec(gpus=1, context=8),)}, steps=10)
    assert [a.spec.engine_args for a in fleet.assignments() if a.wanted != DRAIN] == [{"context": 8}]


def test_a_request_that_cannot_be_followed_is_not_healed():
    fleet = running({"m": (spec(),)}, node("a"), node("b"))
    lose(fleet, "a")
    pass_time(fleet, {"m": Refusal(1, "no such engine")}, 60)
    assert fleet.on() == {"0": "a"}


# --- many nodes at once ---------------------------------------------------------------------------------------------------------


def eight() -> tuple[dict, Fleet]:
    desired = {"m": (spec(),) * 8}
    return desired, running(desired, *(node(name) for name in "abcdefgh"))


def test_where_many_nodes_vanish_together_nothing_is_replaced_and_the_reason_says_so():
    desired, fleet = eight()
    lose(fleet, "a", "b", "c")
    pass_time(fleet, desired, 1000)
    assert set(fleet.on().values()) == set("abcdefgh")
    assert reasons(fleet) == (
        "3 of 8 nodes are gone together (a, b, c): nothing on them is replaced until enough are back; "
        "`nebula nodes forget NODE` says of one that it will not come back",
    )


def test_two_nodes_are_no_mass():
    desired, fleet = eight()
    lose(fleet, "a", "b")
    fleet.run(desired, steps=10)
    assert set(fleet.on().values()) == set("cdefgh")


def test_a_new_leader_holds_still_as_well():
    desired, fleet = eight()
    lose(fleet, "a", "b", "c")
    for _ in range(5):
        fleet.memory = Memory()
        pass_time(fleet, desired, 20)
    assert set(fleet.on().values()) == set("abcdefgh")


def test_once_enough_are_back_the_others_are_given_their_time_anew():
    desired, fleet = eight()
    gone = lose(fleet, "a", "b", "c")
    pass_time(fleet, desired, 1000)
    fleet.nodes["a"] = gone[0]
    pass_time(fleet, desired, 11)
    assert set(fleet.on().values()) == set("abcdefgh")
    fleet.run(desired, steps=5)
    assert set(fleet.on().values()) == set("adefgh")
    assert not reasons(fleet)


def test_a_node_that_is_given_up_is_replaced_at_once_and_counts_no_more():
    desired, fleet = eight()
    lose(fleet, "a", "b", "c")
    pass_time(fleet, desired, 60)
    fleet.ask("a", given_up=True)
    pass_time(fleet, desired, 1)
    assert [a.replaces for a in fleet.assignments() if a.replaces] == ["0"]
    fleet.run(desired, steps=10)
    assert set(fleet.on().values()) == set("defgh")


def test_a_replacement_under_way_goes_on_while_nothing_new_is_replaced():
    desired, fleet = eight()
    lose(fleet, "a")
    pass_time(fleet, desired, 12)
    lose(fleet, "g", "h")
    pass_time(fleet, desired, 60)
    assert [a.replaces for a in fleet.assignments() if a.replaces] == ["0"]
    fleet.obey()
    fleet.decide(desired)
    assert fleet.on(wanted=DRAIN) == {"0": "a"}


# --- what operators ask of nodes ------------------------------------------------------------------------------------------------


def test_a_cordoned_node_keeps_what_it_has_and_gets_nothing_new():
    fleet = running({"m": (spec(),) * 2}, node("a"), node("b"))
    fleet.ask("a", cordoned=True)
    fleet.run({"m": (spec(),) * 4}, steps=3)
    assert fleet.on() == {"0": "a", "1": "b", "2": "b", "3": "b"}


def test_where_all_nodes_are_closed_the_reason_names_them():
    fleet = Fleet(node("a"), node("b"), rules=RULES)
    fleet.ask("a", cordoned=True)
    fleet.ask("b", drained=True)
    fleet.decide({"m": (spec(),)})
    assert reasons(fleet) == ("1 of 1 replicas cannot be placed: no node takes anything new: a is cordoned, b is drained",)


def test_a_drained_node_is_emptied_new_before_old():
    desired = {"m": (spec(),) * 2}
    fleet = running(desired, node("a"), node("b"))
    fleet.ask("a", drained=True)
    for _ in range(5):
        fleet.run(desired, steps=1)
        assert sum(each.state == READY for each in fleet.endpoints.values()) >= 2
    assert set(fleet.on().values()) == {"b"}
    assert not fleet.on(wanted=DRAIN)


@pytest.mark.parametrize("state", [READY, UNHEALTHY])
def test_a_replica_on_a_drained_node_that_has_no_other_place_stays(state):
    desired = {"m": (spec(gpus=1),)}
    fleet = running(desired, node("a", gpus=1), node("b"))
    fleet.endpoints["m", "0"] = msgspec.structs.replace(fleet.endpoints["m", "0"], state=state)
    fleet.ask("a", drained=True)
    fleet.run(desired, steps=5)
    assert fleet.on() == {"0": "a"}
    assert reasons(fleet) == (
        "node a is drained, and 1 replica has no other place: needs 1 GPU; no node reports a GPU (of 2 nodes, 1 cordoned or drained)",
    )


def test_an_uncordoned_node_drops_the_replacements_that_are_not_ready():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    fleet.ask("a", drained=True)
    fleet.decide(desired)
    fleet.obey(STARTING)
    fleet.node_requests.clear()
    fleet.decide(desired)
    assert (fleet.on(), fleet.on(wanted=DRAIN)) == ({"0": "a"}, {"1": "b"})


def test_a_replacement_whose_old_one_stays_after_all_takes_the_part_of_another_once_it_is_ready():
    fleet = running({"m": (spec(),)}, node("a"), node("b"))
    changed = {"m": (spec(context=8),) * 2}
    fleet.run(changed, steps=1)  # one comes in addition; the old one waits
    assert fleet.on() == {"0": "a", "1": "b"}
    fleet.ask("b", drained=True)
    fleet.decide(changed)
    fleet.obey(STARTING)
    fleet.node_requests.clear()
    fleet.decide(changed)
    assert set(fleet.on()) == {"0", "1", "2"}
    fleet.obey()
    fleet.decide(changed)
    assert set(fleet.on()) == {"1", "2"}


def test_what_drains_on_a_node_that_is_gone_and_given_up_leaves_the_plan():
    fleet = running({"m": (spec(),)}, node("a"))
    lose(fleet, "a")
    fleet.run({})
    assert fleet.on(wanted=DRAIN) == {"0": "a"}
    fleet.ask("a", given_up=True)
    fleet.run({}, steps=3)
    assert (fleet.plans, fleet.statuses) == ({}, {})


def test_a_node_that_was_given_up_and_returns_cleans_up_and_gets_nothing_until_it_is_uncordoned():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    [gone] = lose(fleet, "a")
    fleet.ask("a", given_up=True)
    fleet.run(desired, steps=5)
    fleet.nodes["a"] = gone
    fleet.run({"m": (spec(),) * 3}, steps=5)
    assert set(fleet.on().values()) == {"b"}
    assert {endpoint.node_id for endpoint in fleet.endpoints.values()} == {"b"}
    fleet.node_requests.clear()
    fleet.run({"m": (spec(),) * 4}, steps=5)
    assert set(fleet.on().values()) == {"a", "b"}


def test_a_node_that_was_given_up_and_uncordoned_while_gone_leaves_nothing_behind():
    desired = {"m": (spec(),)}
    fleet = running(desired, node("a"), node("b"))
    [gone] = lose(fleet, "a")
    fleet.ask("a", given_up=True)
    fleet.run(desired, steps=5)
    fleet.node_requests.clear()
    fleet.run(desired, steps=5)
    assert [(a.replica_id, a.node_id) for a in fleet.assignments()] == [("1", "b")]
    fleet.nodes["a"] = gone
    fleet.run(desired, steps=2)
    assert [(a.replica_id, a.node_id) for a in fleet.assignments()] == [("1", "b")]
    assert set(fleet.endpoints) == {("m", "1")}


# --- GPUs -----------------------------------------------------------------------------------------------------------------------


def with_gpus(fleet: Fleet, name: str, *gpus: GpuStatus) -> None:
    fleet.nodes[name] = msgspec.structs.replace(fleet.nodes[name], gpus=gpus)


FAULTY = GpuStatus(index=0, ecc_errors=2)


@pytest.mark.parametrize("gpus", [(FAULTY, GpuStatus(index=1)), (GpuStatus(index=1),)])
def test_a_broken_gpu_takes_its_replica_with_it_new_before_old(gpus):
    desired = {"m": (spec(gpus=1),)}
    fleet = running(desired, node("a", gpus=2))
    with_gpus(fleet, "a", *gpus)
    fleet.decide(desired)
    assert {a.replica_id: a.gpu_indexes for a in fleet.assignments()} == {"0": (0,), "1": (1,)}
    fleet.run(desired, steps=3)
    assert {a.replica_id: a.gpu_indexes for a in fleet.assignments()} == {"1": (1,)}


@pytest.mark.parametrize(
    ("gpus", "what"),
    [((FAULTY, GpuStatus(index=1)), "has memory errors that cannot be corrected"), ((GpuStatus(index=1),), "is gone")],
)
def test_where_there_is_no_other_gpu_the_replica_serves_on_and_the_reason_names_the_broken_one(gpus, what):
    desired = {"m": (spec(gpus=1),) * 2}
    fleet = running(desired, node("a", gpus=2))
    with_gpus(fleet, "a", *gpus)
    fleet.run(desired, steps=5)
    assert set(fleet.on()) == {"0", "1"}
    assert reasons(fleet)[0].startswith(f"GPU 0 of node a {what}, and 1 replica has no other place: needs 1 GPU; ")


def test_a_driver_that_cannot_be_read_moves_nothing_that_is_well():
    desired = {"m": (spec(gpus=1),) * 2}
    fleet = running(desired, node("a", gpus=2), node("b", gpus=2))
    with_gpus(fleet, "a")
    assert not fleet.decide(desired).plans
    fleet.endpoints["m", "1"] = msgspec.structs.replace(fleet.endpoints["m", "1"], state=UNHEALTHY)
    fleet.run(desired, steps=3)
    assert fleet.on() == {"0": "a", "2": "b"}


def test_only_what_gives_room_ends_for_a_change_on_a_node_with_a_broken_gpu():
    fleet = running({"m": (spec(gpus=1),) * 2}, node("a", gpus=2))
    with_gpus(fleet, "a", GpuStatus(index=0), GpuStatus(index=1, ecc_errors=1))
    fleet.decide({"m": (spec(gpus=1, context=8),) * 2})
    assert fleet.on(wanted=DRAIN) == {"0": "a"}
