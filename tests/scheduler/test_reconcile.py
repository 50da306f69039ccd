"""Placement plans as a pure decision: first by example, then by property, with nodes that are played by the test."""

from __future__ import annotations

import itertools
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula_core.scheduler.reconcile import SILENCE_S, reconcile
from nebula_core.scheduler.world import Goal, Observed, Refusal
from nebula_core.testing.fleet import Fleet, as_goals
from nebula_core.types import DRAIN, READY, STARTING, UNHEALTHY, GpuStatus, NodeStatus, ReplicaSpec


def spec(model: str = "m", gpus: int = 0, **engine_args) -> ReplicaSpec:
    return ReplicaSpec(model_uid=model, engine="llamacpp", gpus=gpus, engine_args=engine_args)


def node(name: str, gpus: int = 0, engines: tuple[str, ...] = ("llamacpp",)) -> NodeStatus:
    return NodeStatus(node_id=name, address="127.0.0.1", engines=engines, gpus=tuple(GpuStatus(index=i) for i in range(gpus)))


def test_replicas_without_gpus_go_to_the_node_with_the_fewest():
    fleet = Fleet(node("a"), node("b"))
    fleet.decide({"m": (spec(),) * 3})
    assert fleet.on() == {"0": "a", "1": "b", "2": "a"}
    assert (fleet.statuses["m"].wanted, fleet.statuses["m"].placed, fleet.statuses["m"].reasons) == (3, 3, ())


def test_replicas_with_gpus_go_to_the_first_node_with_enough_free():
    fleet = Fleet(node("a", gpus=1), node("b", gpus=4))
    fleet.decide({"m": (spec(gpus=2),) * 2})
    assert {(a.node_id, a.gpu_indexes) for a in fleet.plans["m"].assignments} == {("b", (0, 1)), ("b", (2, 3))}


def test_what_does_not_fit_is_explained():
    fleet = Fleet(node("gpu-06", gpus=2), node("gpu-07", gpus=1))
    fleet.decide({"m": (spec(gpus=2),) * 3})
    assert fleet.statuses["m"].reasons == ("2 of 3 replicas cannot be placed: needs 2 GPUs; the best node, gpu-07, has 1 free",)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ((), "no node is up"),
        ((node("a", engines=("external", "sim")),), 'no node offers the engine "llamacpp"; nodes offer: external, sim'),
        ((node("a"),), "needs 1 GPU; no node reports a GPU"),
    ],
)
def test_a_replica_that_fits_nowhere_says_why(nodes, reason):
    fleet = Fleet(*nodes)
    fleet.decide({"m": (spec(gpus=1),)})
    assert fleet.statuses["m"].reasons == (f"1 of 1 replicas cannot be placed: {reason}",)
    assert "m" not in fleet.plans


def test_scaling_down_drains_replicas_that_are_not_ready_and_then_the_highest_ids():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(),) * 4})
    fleet.endpoints["m", "1"] = msgspec.structs.replace(fleet.endpoints["m", "1"], state=UNHEALTHY)
    fleet.decide({"m": (spec(),) * 2})
    assert set(fleet.on()) == {"0", "2"}
    assert set(fleet.on(wanted=DRAIN)) == {"1", "3"}


def test_a_draining_replica_keeps_its_gpus_and_its_id_until_its_endpoint_is_gone():
    fleet = Fleet(node("a", gpus=1))
    fleet.run({"m": (spec(gpus=1),)})
    fleet.decide({"n": (spec("n", gpus=1),)})
    assert "n" not in fleet.plans
    fleet.obey()
    fleet.decide({"n": (spec("n", gpus=1),)})
    assert fleet.on("n") == {"0": "a"}
    assert "m" not in fleet.plans
    assert "m" not in fleet.statuses


def test_a_draining_replica_without_an_endpoint_stays_while_its_node_may_be_starting_it():
    fleet = Fleet(node("a"))
    fleet.decide({"m": (spec(),)})
    fleet.decide({})
    fleet.decide({})
    assert fleet.on(wanted=DRAIN) == {"0": "a"}
    fleet.now = fleet.memory.next_after(fleet.now)
    fleet.decide({})
    assert fleet.plans == {}


def test_a_draining_replica_of_a_node_that_is_gone_waits_for_it():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(),)})
    gone = fleet.nodes.pop("a")
    fleet.run({})
    assert fleet.on(wanted=DRAIN) == {"0": "a"}
    fleet.nodes["a"] = gone
    fleet.run({})
    assert fleet.plans == {}


def test_assignments_of_a_node_that_is_gone_are_kept():
    fleet = Fleet(node("a"), node("b"))
    fleet.run({"m": (spec(),) * 2})
    del fleet.nodes["a"]
    assert not fleet.decide({"m": (spec(),) * 2}).plans


def test_a_changed_spec_starts_beside_the_old_one_which_serves_until_the_new_one_is_ready():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(),)})
    changed = {"m": (spec(context=4096),)}
    fleet.decide(changed)
    fleet.obey(STARTING)
    fleet.decide(changed)
    assert fleet.on() == {"0": "a", "1": "a"}
    fleet.obey(READY)
    fleet.decide(changed)
    assert (fleet.on(), fleet.on(wanted=DRAIN)) == ({"1": "a"}, {"0": "a"})
    fleet.run(changed)
    assert [(a.replica_id, a.replaces) for a in fleet.plans["m"].assignments] == [("1", "")]


def test_a_spec_that_is_no_longer_wanted_drains_at_once_even_if_another_is_not_ready():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(url="x"), spec(url="y"))})
    fleet.endpoints["m", "0"] = msgspec.structs.replace(fleet.endpoints["m", "0"], state=UNHEALTHY)
    fleet.decide({"m": (spec(url="x"),)})
    assert set(fleet.on()) == {"0"}


def test_on_full_nodes_a_changed_spec_takes_over_one_replica_at_a_time():
    fleet = Fleet(node("a", gpus=2), node("b", gpus=1))
    fleet.run({"m": (spec(gpus=1),) * 3})
    changed = {"m": (spec(gpus=1, context=4096),) * 3}
    serving = []
    for _ in range(20):
        fleet.decide(changed)
        fleet.obey()
        serving.append(sum(endpoint.state == READY for endpoint in fleet.endpoints.values()))
    assert min(serving) == 2
    assert {a.spec.engine_args.get("context") for a in fleet.plans["m"].assignments} == {4096}


def test_a_change_that_fits_nowhere_leaves_the_old_replica_serving():
    fleet = Fleet(node("a", gpus=1))
    fleet.run({"m": (spec(gpus=1),)})
    fleet.run({"m": (spec(gpus=8),)})
    assert fleet.on() == {"0": "a"}
    assert "needs 8 GPUs" in fleet.statuses["m"].reasons[0]


def test_a_change_before_the_nodes_are_back_does_not_end_what_they_run():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(),)})
    fleet.nodes.clear()
    fleet.run({"m": (spec(context=4096),)})
    assert fleet.on() == {"0": "a"}


def test_a_request_that_cannot_be_followed_changes_nothing_but_the_status():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(),)})
    decisions = fleet.decide({"m": Refusal(2, "no such engine")})
    assert not decisions.plans
    assert (fleet.statuses["m"].wanted, fleet.statuses["m"].placed, fleet.statuses["m"].reasons) == (2, 1, ("no such engine",))


def test_an_endpoint_that_no_plan_knows_is_told_to_drain():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(),)})
    fleet.plans.clear()
    fleet.decide({})
    assert fleet.on(wanted=DRAIN) == {"0": "a"}
    fleet.run({})
    assert (fleet.plans, fleet.endpoints) == ({}, {})


def test_replica_ids_are_the_lowest_that_neither_a_plan_nor_an_endpoint_holds():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(),) * 3})
    fleet.run({"m": (spec(),)})
    fleet.decide({"m": (spec(),) * 2})
    assert set(fleet.on()) == {"0", "1"}


def test_a_plans_version_grows_with_each_change_and_an_assignments_only_with_its_own():
    fleet = Fleet(node("a"))
    fleet.run({"m": (spec(),)})
    before = fleet.plans["m"]
    fleet.decide({"m": (spec(),) * 2})
    assert fleet.plans["m"].plan_version == before.plan_version + 1
    assert fleet.plans["m"].assignments[0] == before.assignments[0]
    assert before.assignments[0].assignment_version == spec().version("a", ())


def edited(fleet: Fleet, *changes: dict) -> None:
    """Somebody writes another assignment into the plan for each of these, as the first one but for the changes."""
    plan = fleet.plans["m"]
    added = [msgspec.structs.replace(plan.assignments[0], **change) for change in changes]
    fleet.plans["m"] = msgspec.structs.replace(plan, assignments=(*plan.assignments, *added))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"node_id": "b"}, "replica 0 on b is left out: the plan lists it twice"),
        ({"replica_id": "9"}, "replica 9 on a is left out: GPU 0 is that of m/0"),
        ({"replica_id": "9", "gpu_indexes": (0, 1)}, "replica 9 on a is left out: it has 2 GPUs and needs 1"),
        ({"replica_id": "9", "spec": spec("n", gpus=1)}, "replica 9 on a is left out: it is one of the model n"),
    ],
)
def test_what_cannot_be_in_a_plan_that_somebody_edited_is_left_out_and_said(change, fault):
    fleet = Fleet(node("a", gpus=2), node("b", gpus=2))
    fleet.run({"m": (spec(gpus=1),)})
    sound = fleet.plans["m"].assignments
    edited(fleet, change)
    assert fleet.decide({"m": (spec(gpus=1),)}).faults == (f"the plan of m: {fault}",)
    assert fleet.plans["m"].assignments == sound


def test_a_replica_that_somebody_moved_to_a_node_that_never_was_is_placed_anew():
    fleet = Fleet(node("a"), node("b"))
    fleet.run({"m": (spec(),)})
    plan = fleet.plans["m"]
    fleet.plans["m"] = msgspec.structs.replace(plan, assignments=(msgspec.structs.replace(plan.assignments[0], node_id="ghost"),))
    fleet.run({"m": (spec(),)}, steps=10)
    assert set(fleet.on().values()) <= {"a", "b"}
    assert len(fleet.on()) == 1


# --- properties ---------------------------------------------------------------------------------------------------------------

MODELS = ("m", "n", "o/p")
goals = st.dictionaries(
    st.sampled_from(MODELS),
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 1)),
).map(lambda chosen: {uid: (spec(uid, gpus, variant=variant),) * number for uid, (number, gpus, variant) in chosen.items()})
fleets = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(lambda gpus: [node(f"n{i}", count) for i, count in enumerate(gpus)])
events = st.lists(st.sampled_from(["decide", "obey", "starting", "wait", "lose", "return", "break"]), max_size=12)


def play(fleet: Fleet, desired: dict[str, Goal], happened: list[str], lost: dict[str, NodeStatus]) -> None:
    for event in happened:
        if event == "decide":
            fleet.decide(desired)
        elif event == "obey":
            fleet.obey()
        elif event == "starting":
            fleet.obey(STARTING)
        elif event == "wait":
            fleet.now += SILENCE_S
        elif event == "lose" and fleet.nodes:
            name = min(fleet.nodes)
            lost[name] = fleet.nodes.pop(name)
        elif event == "return":
            fleet.nodes.update(lost)
        elif event == "break" and fleet.endpoints:
            replica = min(fleet.endpoints)
            fleet.endpoints[replica] = msgspec.structs.replace(fleet.endpoints[replica], state=UNHEALTHY)
        check_invariants(fleet)


def check_invariants(fleet: Fleet) -> None:
    assignments = [a for plan in fleet.plans.values() for a in plan.assignments]
    given_gpus = Counter((a.node_id, index) for a in assignments for index in a.gpu_indexes)
    assert all(times == 1 for times in given_gpus.values())
    assert all(len(a.gpu_indexes) == a.spec.gpus for a in assignments)
    for plan in fleet.plans.values():
        assert len({a.replica_id for a in plan.assignments}) == len(plan.assignments)


histories = st.lists(st.tuples(goals, events), min_size=1, max_size=4)


@given(nodes=fleets, history=histories)
@settings(deadline=None)
def test_no_gpu_is_given_twice_whatever_happens(nodes, history):
    fleet, lost = Fleet(*nodes), {}
    for desired, happened in history:
        fleet.decide(desired)
        play(fleet, desired, happened, lost)


@given(nodes=fleets, history=histories)
@settings(max_examples=60, deadline=None)
def test_once_the_world_stands_still_every_model_has_what_fits_and_says_what_does_not(nodes, history):
    fleet, lost = Fleet(*nodes), {}
    for desired, happened in history:
        play(fleet, desired, happened, lost)
    fleet.nodes.update(lost)
    desired = history[-1][0]
    fleet.run(desired, steps=60)
    assert not fleet.decide(desired).plans
    assert set(fleet.plans) <= set(desired)
    for uid, specs in desired.items():
        status = fleet.statuses[uid]
        running = fleet.on(uid) if uid in fleet.plans else {}
        assert status.wanted == len(specs)
        assert bool(status.reasons) == (status.placed < status.wanted)
        assert len(running) >= status.placed
        if not status.reasons:
            assert [a.spec for a in fleet.plans[uid].assignments] == list(specs) if specs else not running


@given(nodes=fleets, history=histories)
@settings(deadline=None)
def test_a_second_pass_over_the_same_world_decides_nothing(nodes, history):
    fleet, lost = Fleet(*nodes), {}
    for desired, happened in history:
        play(fleet, desired, happened, lost)
        fleet.decide(desired)
        again = fleet.decide(desired)
        assert (again.plans, again.statuses) == ({}, {})


@given(nodes=fleets, history=histories)
@settings(deadline=None)
def test_the_order_in_which_things_are_listed_does_not_matter(nodes, history):
    fleet, lost = Fleet(*nodes), {}
    for desired, happened in history:
        play(fleet, desired, happened, lost)
    desired = as_goals(history[-1][0])
    observed = Observed(plans=fleet.plans, statuses=fleet.statuses, nodes=fleet.nodes, endpoints=fleet.endpoints)
    reverse = Observed(**{name: dict(reversed(getattr(observed, name).items())) for name in ("plans", "statuses", "nodes", "endpoints")})
    turned = reconcile(dict(reversed(desired.items())), reverse, fleet.memory, fleet.now)
    assert turned == reconcile(desired, observed, fleet.memory, fleet.now)


@given(nodes=fleets, goal=goals)
@settings(deadline=None)
def test_scaling_one_model_leaves_the_other_plans_alone(nodes, goal):
    fleet = Fleet(*nodes)
    fleet.run(goal, steps=10)
    for uid, number in itertools.product(goal, (0, 1)):
        decisions = fleet.decide({**goal, uid: goal[uid][:number]})
        freed = any(a.gpu_indexes for a in fleet.plans.get(uid, ()) and fleet.plans[uid].assignments)
        assert freed or set(decisions.plans) <= {uid}
        fleet.run(goal, steps=10)
