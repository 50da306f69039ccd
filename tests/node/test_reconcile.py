from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nebula_core.interfaces import Health
from nebula_core.node import replica as transitions
from nebula_core.node.reconcile import (
    BeginDrain,
    Forget,
    Limits,
    NodePlan,
    Observed,
    Resume,
    Start,
    Stop,
    next_start_s,
    reconcile,
    unlisted,
)
from nebula_core.node.replica import Drain, Phase, ReplicaState
from nebula_core.types import DRAIN, RUN, Assignment, EndpointInfo, GatewayStatus, ReplicaSpec

LIMITS = Limits(start_timeout_s=600.0, drain_deadline_s=120.0)
ONE = ("m", "0")


def assignment(replica_id="0", version="v1", wanted=RUN, uid="m"):
    spec = ReplicaSpec(model_uid=uid, engine="fake")
    return Assignment(replica_id=replica_id, node_id="n", spec=spec, assignment_version=version, wanted=wanted)


def plan(*assignments, revision=5, elsewhere=()):
    return {"m": NodePlan(revision, {each.replica_id: each for each in assignments}, frozenset(elsewhere))}


def up(**fields):
    return ReplicaState(**{"assignment": assignment(), "incarnation": 1, "phase": Phase.UP, "ready_at": 0.0, **fields})


def endpoint(incarnation=1, node_id="n"):
    return EndpointInfo(
        model_uid="m", replica_id="0", node_id=node_id, assignment_version="v1", incarnation=incarnation, engine="fake", state="ready"
    )


def gateway(revision, **draining):
    return GatewayStatus(gateway_id="g", address="", applied_revision=revision, draining={"m/0": draining.get("running", 0)})


def decide(plans, state=None, now=0.0, **observed):
    return reconcile("n", plans, Observed(replicas={ONE: state} if state else {}, **observed), LIMITS, now)


def test_an_assignment_without_an_engine_is_started():
    assert decide(plan(assignment())) == [Start(ONE, assignment(), 1)]


def test_incarnations_go_on_from_what_the_store_knows():
    assert decide(plan(assignment()), endpoints={ONE: endpoint(incarnation=7)}) == [Start(ONE, assignment(), 8)]


def test_what_runs_as_planned_is_left_alone():
    assert decide(plan(assignment()), up(), endpoints={ONE: endpoint()}) == []


def test_an_adopted_engine_without_any_plan_is_left_alone():
    assert decide({}, up(), endpoints={ONE: endpoint()}) == []


def test_a_crashed_engine_is_started_when_its_wait_is_over_also_without_a_plan():
    waiting = up(phase=Phase.WAITING, due=10.0)
    for plans in ({}, plan(assignment())):
        assert decide(plans, waiting, now=9.0) == []
        assert decide(plans, waiting, now=10.0) == [Start(ONE, assignment(), 2)]
    assert next_start_s([waiting, up()], now=9.0) == 1.0


def test_a_drain_is_announced_first():
    assert decide(plan(assignment(wanted=DRAIN)), up()) == [BeginDrain(ONE, 5)]


def test_a_plan_that_has_the_replica_on_another_node_is_a_drain():
    assert decide(plan(elsewhere=["0"]), up()) == [BeginDrain(ONE, 5)]
    assert unlisted(plan(elsewhere=["0"]), [ONE]) == set()


def test_a_plan_that_does_not_list_the_replica_changes_nothing():
    for plans in (plan(), plan(assignment("1")), plan(elsewhere=["1"])):
        assert [action for action in decide(plans, up(), endpoints={ONE: endpoint()}) if action.replica == ONE] == []
        assert unlisted(plans, [ONE]) == {ONE}
    assert unlisted({}, [ONE]) == set()
    assert unlisted(plan(assignment()), [ONE]) == set()


def test_a_draining_engine_is_stopped_when_every_gateway_has_passed_the_plan_and_nothing_runs():
    draining = up(drain=Drain(0.0, 5))
    plans = plan(assignment(wanted=DRAIN))
    assert decide(plans, draining, gateways=[gateway(6), gateway(4)]) == []
    assert decide(plans, draining, gateways=[gateway(6), gateway(5, running=1)]) == []
    assert decide(plans, draining, gateways=None) == []
    assert decide(plans, draining, gateways=[gateway(6), gateway(5)]) == [Stop(ONE, "", planned=True)]


def test_a_drain_does_not_last_for_ever():
    assert decide(plan(assignment(wanted=DRAIN)), up(drain=Drain(0.0, 5)), now=120.0, gateways=[gateway(0)]) == [
        Stop(ONE, "", planned=True)
    ]


def test_an_engine_that_never_was_ready_has_nothing_to_drain():
    draining = plan(assignment(wanted=DRAIN))
    assert decide(draining, up(phase=Phase.STARTING), gateways=[gateway(0)]) == [Stop(ONE, "", planned=True)]


def test_a_drain_can_be_called_off():
    assert decide(plan(assignment()), up(drain=Drain(0.0, 5))) == [Resume(ONE)]
    assert decide({}, up(drain=Drain(0.0, 5))) == []


def test_a_replica_that_is_wanted_otherwise_is_drained_and_then_started_anew():
    other = assignment(version="v2")
    assert decide(plan(other), up()) == [BeginDrain(ONE, 5)]
    assert decide(plan(other), up(phase=Phase.WAITING, due=99.0)) == [Start(ONE, other, 2)]


def test_an_unhealthy_engine_is_stopped_to_be_started_anew():
    assert decide(plan(assignment()), up(failed_probes=3, reason="silent")) == [Stop(ONE, "silent", planned=False)]


def test_an_engine_that_does_not_get_ready_in_time_is_stopped():
    state = up(phase=Phase.STARTING, ready_at=None, started_at=100.0)
    assert decide(plan(assignment()), state, now=699.0) == []
    [stop] = decide(plan(assignment()), state, now=700.0)
    assert "600 s" in stop.reason


def test_an_endpoint_that_nothing_stands_for_is_forgotten_if_it_is_ours_and_a_plan_says_so():
    for plans in (plan(elsewhere=["0"]), plan(assignment(wanted=DRAIN))):
        assert decide(plans, endpoints={ONE: endpoint()}) == [Forget(ONE)]
        assert decide(plans, endpoints={ONE: endpoint(node_id="other")}) == []
    for plans in ({}, plan()):
        assert decide(plans, endpoints={ONE: endpoint()}) == []


def test_a_wanted_state_of_a_newer_nebula_neither_starts_nor_stops_anything():
    assert decide(plan(assignment(wanted="sleep"))) == []
    assert decide(plan(assignment(wanted="sleep")), up()) == []


# --- for all worlds -------------------------------------------------------------------------------------------------------------

IDS = ("0", "1", "2")
assignments = st.builds(assignment, st.sampled_from(IDS), st.sampled_from(["v1", "v2"]), st.sampled_from([RUN, RUN, DRAIN]))
plans_of_m = st.lists(assignments, max_size=3, unique_by=lambda each: each.replica_id).map(lambda found: plan(*found))
phases = st.sampled_from(list(Phase))
times = st.floats(0, 1000)
states = st.builds(
    lambda id_, version, phase, **fields: ReplicaState(
        assignment=assignment(id_, version), incarnation=1, phase=phase, ready_at=0.0 if phase is Phase.UP else None, **fields
    ),
    st.sampled_from(IDS),
    st.sampled_from(["v1", "v2"]),
    phases,
    due=times,
    started_at=times,
    failed_probes=st.integers(0, 4),
    drain=st.none() | st.builds(Drain, times, st.integers(0, 9)),
)
worlds = st.lists(states, max_size=3, unique_by=lambda state: state.assignment.replica_id).map(
    lambda found: {("m", state.assignment.replica_id): state for state in found}
)
gateways = st.lists(
    st.builds(lambda revision, running: gateway(revision, running=running), st.integers(0, 9), st.integers(0, 1)), max_size=2
)


@given(worlds, gateways, times, st.sampled_from([{}, plan(), plan(assignment("3"))]))
def test_what_no_plan_speaks_of_is_not_stopped_unless_it_has_failed(world, gateways_, now, plans):
    for action in reconcile("n", plans, Observed(replicas=world, gateways=gateways_), LIMITS, now):
        if isinstance(action, Stop):
            assert not action.planned
            assert world[action.replica].is_unhealthy or world[action.replica].phase is Phase.STARTING
        else:
            assert isinstance(action, Start)
            assert action.replica not in world or world[action.replica].phase is Phase.WAITING


@given(plans_of_m, worlds, gateways, times)
def test_there_are_never_two_engines_of_one_replica(plans, world, gateways_, now):
    actions = reconcile("n", plans, Observed(replicas=world, gateways=gateways_), LIMITS, now)
    assert len({action.replica for action in actions}) == len(actions)
    for action in actions:
        if isinstance(action, Start | Forget) and action.replica in world:
            assert world[action.replica].phase is Phase.WAITING


@given(plans_of_m, worlds)
def test_it_comes_to_rest_with_exactly_what_the_plan_asks_for(plans, world):
    now = 1000.0
    world = {replica: state for replica, state in world.items() if replica not in unlisted(plans, world)}
    for _ in range(12):
        actions = reconcile("n", plans, Observed(replicas=world, gateways=[gateway(9)]), LIMITS, now)
        for action in actions:
            act(world, action, now)
        world = {replica: settle(state, now) for replica, state in world.items()}
        now += 60.0
    assert reconcile("n", plans, Observed(replicas=world, gateways=[gateway(9)]), LIMITS, now) == []
    wanted = {("m", id_): each.assignment_version for id_, each in plans["m"].assignments.items() if each.wanted == RUN}
    assert {replica: state.assignment.assignment_version for replica, state in world.items()} == wanted
    assert all(state.phase is Phase.UP for state in world.values())


def act(world, action, now):
    state = world.get(action.replica)
    match action:
        case Start():
            assert action.incarnation > (state.incarnation if state else 0)
            world[action.replica] = transitions.starting(action.assignment, action.incarnation, state, now)
        case Stop():
            world[action.replica] = transitions.stopping(state, action.reason, planned=action.planned)
        case BeginDrain():
            world[action.replica] = replace(state, drain=Drain(now, action.revision))
        case Resume():
            world[action.replica] = replace(state, drain=None)
        case Forget():
            del world[action.replica]


def settle(state, now):
    """What engines do by themselves: those that are ended end, those that start get well."""
    return transitions.ended(state, "", now) if state.phase is Phase.STOPPING else transitions.probed(state, Health(True), now)
