"""How many replicas load asks for: what the core makes of a policy's proposals, first by example, then by property."""

from __future__ import annotations

import logging
from math import nan

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula_core import desired
from nebula_core.interfaces import Proposal, ScalingPolicy, ScalingSignals
from nebula_core.scheduler import boots, demand
from nebula_core.scheduler.autoscale import Limits, begin, bounds, decide, follow
from nebula_core.scheduler.autoscaler import Autoscaler
from nebula_core.scheduler.demand import Load
from nebula_core.scheduler.world import Observed
from nebula_core.testing.scaling_loop import LOOK_S, ClosedLoop
from nebula_core.types import (
    READY,
    STARTING,
    UNHEALTHY,
    Assignment,
    EndpointInfo,
    EndpointStats,
    GatewayStatus,
    ModelRequest,
    ModelStatus,
    NodeStatus,
    PlacementPlan,
    ReplicaSpec,
    Scaling,
    Traffic,
)

logger = logging.getLogger("test")
NOTHING, SILENCE = Observed(), Load()
SPEC = ReplicaSpec(model_uid="m", engine="fake")


def model(**fields) -> ModelRequest:
    return ModelRequest(**{"model_uid": "m", "engine": "fake", "min_replicas": 1, "max_replicas": 8, **fields})


def at(number: int, **fields) -> Scaling:
    return msgspec.structs.replace(begin(model(), None), replicas=number, **fields)


def decided(last: Scaling, proposed: int | None, *, request=None, shortage="", now=1000.0, **fields) -> Scaling:
    signals = ScalingSignals(model_uid="m", wanted=last.replicas, **{"in_flight": 5.0, **fields})
    proposal = Proposal(replicas=proposed, reason="by its figures")
    return decide(last, request or model(), signals, proposal, shortage, Limits(), now)


# --- a proposal and what it comes to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "proposed", "fields", "replicas", "reason"),
    [
        (at(2), 3, {}, 3, "by its figures"),
        (at(2), 2, {}, 2, "by its figures"),
        (at(2), None, {}, 2, "by its figures"),
        (at(7), 12, {}, 8, "by its figures; 12 proposed, and max_replicas is 8"),
        (at(2), 0, {}, 1, "by its figures; 0 proposed, and 1 must stay"),
        (at(2), 8, {}, 6, "by its figures; 8 proposed, and 4 may come at once"),
        (at(8), 1, {}, 6, "by its figures; 1 proposed, and 2 may go at once"),
        (at(3), 1, {}, 2, "by its figures; 1 proposed, and 1 may go at once"),
        (at(2, grown_at=990.0), 3, {}, 2, "by its figures; 3 proposed, and the next gain is allowed in 5 s"),
        (at(2, changed_at=960.0), 1, {}, 2, "by its figures; 1 proposed, and the next loss is allowed in 20 s"),
        (at(2), 3, {"shortage": "needs 1 GPU"}, 2, "by its figures; 3 proposed, and there is no place for more: needs 1 GPU"),
        (at(3), 2, {"shortage": "needs 1 GPU"}, 2, "by its figures"),
    ],
)
def test_a_proposal_is_kept_within_bounds_steps_and_pauses_and_it_is_said_what_by(last, proposed, fields, replicas, reason):
    scaling = decided(last, proposed, **fields)
    assert (scaling.replicas, scaling.reason, scaling.proposed) == (replicas, reason, proposed)


def test_a_large_fleet_may_double_or_lose_a_quarter_at_once():
    request = model(max_replicas=100)
    assert decided(at(20), 100, request=request).replicas == 40
    assert decided(at(40), 1, request=request).replicas == 30


def test_a_gain_need_not_wait_for_a_loss_and_a_loss_waits_for_both():
    """AIBrix has its cooldowns the wrong way round: a long one makes it shrink sooner."""
    lost = at(3, changed_at=995.0, grown_at=500.0)
    assert decided(lost, 4).replicas == 4
    assert decided(lost, 2).replicas == 3
    assert decided(at(3, changed_at=995.0, grown_at=995.0), 2).replicas == 3


@pytest.mark.parametrize(
    ("signals", "replicas"),
    [({"in_flight": 0.0}, 0), ({"in_flight": 1.0}, 1), ({"in_flight": None}, 1)],
)
def test_the_last_one_ends_only_where_no_request_is_known_to_be(signals, replicas):
    assert decided(at(1), 0, request=model(min_replicas=0), **signals).replicas == replicas


@pytest.mark.parametrize("signals", [{"in_flight": 3.0}, {"in_flight": None, "waiting": 2.0}])
def test_a_request_wakes_a_model_at_once(signals):
    asleep = at(0, changed_at=999.0, grown_at=999.0)
    scaling = decided(asleep, None, request=model(min_replicas=0), **signals)
    assert (scaling.replicas, scaling.reason) == (1, "a request for it wakes it")


def test_a_request_on_a_replica_that_drains_wakes_no_other():
    assert decided(at(0), None, request=model(min_replicas=0), in_flight=1.0, waiting=0.0).replicas == 0


def test_no_replicas_is_no_state_that_a_model_with_a_least_number_can_stay_in():
    """AIBrix scales no model that is at 0, whatever its minimum."""
    assert follow(at(0, asked=(0, 0, 8, 0)), model(min_replicas=2), now=0.0).replicas == 2


# --- what an operator says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "replicas"),
    [
        ({"replicas": 1}, {"replicas": 4}, 4),
        ({"replicas": 1, "replicas_set": 1}, {"replicas": 1, "replicas_set": 2}, 1),
        ({"replicas": 1}, {"replicas": 1, "max_replicas": 5}, 5),
        ({"replicas": 1}, {"replicas": 7, "min_replicas": 7}, 7),
        ({"replicas": 1}, {"replicas": 2, "min_replicas": 2}, 6),
        ({"replicas": 1}, {"replicas": 1, "engine_args": {"a": 1}}, 6),
    ],
)
def test_a_number_that_an_operator_sets_goes_at_once_and_bounds_move_what_they_must(before, after, replicas):
    """It is at 6, by load. A number that only moved with the bounds is not one that was set."""
    last = msgspec.structs.replace(begin(model(**before), None), replicas=6)
    assert follow(last, model(**after), now=50.0).replicas == replicas


def test_the_number_that_a_request_has_already_counts_when_an_operator_sets_it_once_more():
    """Load has changed it since, and nobody can see that in the request."""
    request = model(replicas=2)
    last = msgspec.structs.replace(begin(request, None), replicas=6)
    assert follow(last, desired.scaled(request, {"replicas": 2}), now=50.0).replicas == 2
    assert follow(last, desired.scaled(request, {"min_replicas": 3}), now=50.0).replicas == 6


def test_what_an_operator_set_is_left_alone_for_a_while():
    scaling = follow(at(6), model(replicas=2), now=990.0)
    assert scaling.changed_why == "2 replicas were asked for"
    assert decided(scaling, 1).replicas == 2


@pytest.mark.parametrize(
    ("request_", "least", "most"),
    [(model(min_replicas=None), 1, 8), (model(min_replicas=0), 0, 8), (model(min_replicas=None, max_replicas=0, replicas=0), 0, 0)],
)
def test_without_a_least_number_one_stays(request_, least, most):
    assert bounds(request_) == (least, most)


# --- signals ------------------------------------------------------------------------------------------------------------------


def world(**states) -> Observed:
    """A plan with a replica for each of these states, by replica_id."""
    assignments = tuple(Assignment(replica_id=name, node_id="a", spec=SPEC, assignment_version="v") for name in states)
    endpoints = {
        ("m", name): EndpointInfo(
            model_uid="m", replica_id=name, node_id="a", assignment_version="v", incarnation=2, engine="fake", state=state
        )
        for name, state in states.items()
        if state
    }
    plan = PlacementPlan(model_uid="m", plan_version=1, assignments=assignments)
    return Observed(plans={"m": plan}, nodes={"a": NodeStatus(node_id="a", address="127.0.0.1")}, endpoints=endpoints)


def heard(observed: Observed, stats=None, gateways=(), account=None, now=0.0) -> ScalingSignals:
    load = Load(stats={("m", name): each for name, each in (stats or {}).items()}, gateways=gateways)
    return demand.signals(model(), observed, load, account or at(2), now)


@pytest.mark.parametrize(
    "stats",
    [
        None,
        EndpointStats(pending=nan, running=-1.0, kv_cache_usage=85.0, incarnation=2),
        EndpointStats(pending=float("inf"), kv_cache_usage=-0.1, incarnation=2),
    ],
)
def test_what_is_missing_or_cannot_be_is_not_known_and_never_0(stats):
    """AIBrix reads a scrape that failed as 0."""
    [replica] = heard(world(r=READY), {"r": stats} if stats else {}).replicas
    assert replica.ready
    told = replica.stats or EndpointStats()
    assert (told.pending, told.running, told.kv_cache_usage) == (None, None, None)


def test_stats_of_an_earlier_run_or_of_a_node_that_is_gone_are_not_believed():
    old, lost = EndpointStats(pending=0.0, incarnation=1), msgspec.structs.replace(world(r=READY).endpoints["m", "r"])
    assert heard(world(r=READY), {"r": old}).replicas[0].stats is None
    gone = Observed(plans=world(r=READY).plans, endpoints={("m", "r"): lost})
    [replica] = heard(gone, {"r": EndpointStats(pending=0.0, incarnation=2)}).replicas
    assert (replica.ready, replica.starting_s, replica.stats) == (False, None, None)


def gateway(name="g", in_flight=0, traffic=None) -> GatewayStatus:
    return GatewayStatus(gateway_id=name, address="", demand={"m": in_flight} if in_flight else {}, traffic=traffic)


def test_gateways_are_added_up_and_one_that_does_not_measure_leaves_it_unknown():
    one = gateway("one", 2, {"m": Traffic(arrivals_per_s=1.5, waiting=1, first_token_s=0.4)})
    two = gateway("two", 3, {"m": Traffic(arrivals_per_s=2.0, first_token_s=0.9)})
    both = heard(world(r=READY), gateways=(one, two, gateway("idle", traffic={})))
    assert (both.in_flight, both.waiting, both.arrivals_per_s, both.first_token_s) == (5, 1, 3.5, 0.9)
    mute = heard(world(r=READY), gateways=(one, gateway("old", 4)))
    assert (mute.in_flight, mute.waiting, mute.arrivals_per_s) == (6, None, None)
    assert heard(world(r=READY)).in_flight is None


def test_the_time_that_replicas_take_is_learned_and_rises_faster_than_it_falls():
    def boot(account, seconds):
        account = boots.learn(account, demand.running("m", world(r=STARTING)), world(r=STARTING), 0.0)
        return boots.learn(account, demand.running("m", world(r=READY)), world(r=READY), seconds)

    account = boot(at(1), 40.0)
    assert (account.boot_s, account.booting) == (40.0, {})
    assert boot(account, 90.0).boot_s == 90.0
    assert boot(account, 20.0).boot_s == pytest.approx(34.0)


def test_a_replica_in_a_crash_loop_is_not_counted_on_for_ever():
    account, observed = at(1, boot_s=30.0), world(r=STARTING)
    for now in range(0, 400, 10):
        state = world(r=UNHEALTHY) if now % 50 == 40 else observed
        account = boots.learn(account, demand.running("m", state), state, float(now))
    assert heard(observed, account=account, now=400.0).replicas[0].starting_s is None
    assert heard(world(r=UNHEALTHY), account=at(1)).replicas[0].starting_s is None
    assert heard(world(r=""), account=at(1)).replicas[0].starting_s == 0.0


# --- asking policies ----------------------------------------------------------------------------------------------------------


class Says(ScalingPolicy):
    """Proposes what it was made with, number by number, and then the last for ever."""

    def __init__(self, *numbers, **fields) -> None:
        self.numbers, self.fields = list(numbers), fields

    def propose(self, signals, memory, now):
        number = self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]
        if isinstance(number, Exception):
            raise number
        return Proposal(replicas=number, reason="it says so", **self.fields)


def look(autoscaler: Autoscaler, request: ModelRequest, observed=NOTHING, load=SILENCE, now=100.0) -> Scaling:
    return autoscaler.look({"m": request}, observed, load, now)["m"]


def asking(policy: ScalingPolicy | None, **limits) -> Autoscaler:
    policies = {} if policy is None else {"it": policy}
    return Autoscaler(policies, "it" if policies else None, Limits(**{"up_pause_s": 0, "down_pause_s": 0, **limits}), LOOK_S, logger)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (
            model(max_replicas=None),
            "load changes nothing: min_replicas is set and max_replicas is not; set it, too",
        ),
        (model(replicas=0, min_replicas=0, max_replicas=0), "max_replicas is 0, so there are none; set it to 1 or more"),
        (
            model(scaler="other"),
            'load changes nothing: the scaler "other" is not installed (installed: it); `pip install nebula-scaler-load` brings one',
        ),
    ],
)
def test_a_model_that_load_cannot_scale_says_why(request_, reason):
    scaling = look(asking(Says(5)), request_)
    assert (scaling.replicas, scaling.policy, scaling.reason) == (request_.replicas, "", reason)


def test_bounds_without_any_scaler_change_nothing_and_say_so():
    assert look(asking(None), model()).reason.startswith("load changes nothing: no scaler is installed (installed: none)")


def test_a_model_without_bounds_has_no_account():
    assert asking(Says(5)).look({"m": model(min_replicas=None, max_replicas=None)}, Observed(), Load(), 0.0) == {}


@pytest.mark.parametrize(
    "policy",
    [
        Says(RuntimeError("a bug")),
        Says(-1),
        Says(2.5),
        Says(3, memory={"all": ["x" * 100] * 1000}),
        Says(3, memory={"what": object()}),
    ],
)
def test_a_policy_at_fault_scales_nothing_and_is_named(policy, caplog):
    autoscaler = asking(policy)
    for now in range(0, 50, 10):
        scaling = look(autoscaler, model(replicas=2), now=float(now))
    assert scaling.replicas == 2
    assert scaling.reason.startswith('the scaler "it" failed: ')
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_it_is_asked_every_few_seconds_and_not_with_every_pass():
    policy = Says(1, 2, 3, 4)
    autoscaler = asking(policy)
    assert [look(autoscaler, model(), now=now).replicas for now in (0.0, 3.0, 9.9, 10.0, 15.0, 20.0)] == [1, 1, 1, 2, 2, 3]
    assert autoscaler.next_due() == 30.0


def test_a_model_at_zero_is_looked_at_as_soon_as_somebody_asks_for_it():
    autoscaler = asking(Says(0))
    asleep = world()
    look(autoscaler, model(replicas=0, min_replicas=0), asleep, Load(gateways=(gateway(),)))
    calling = Load(gateways=(gateway(in_flight=7),))
    assert not autoscaler.is_called(Load(gateways=(gateway(),)))
    assert autoscaler.is_called(calling)
    assert look(autoscaler, model(replicas=0, min_replicas=0), asleep, calling, now=100.1).replicas == 1
    assert not autoscaler.is_called(calling)


def test_a_boot_is_learned_though_it_is_shorter_than_the_time_between_two_looks():
    autoscaler = asking(Says(None))
    for now, observed in ((0.0, world()), (1.0, world(r=STARTING)), (4.5, world(r=READY))):
        account = look(autoscaler, model(), observed, now=now)
    assert (account.boot_s, account.booting) == (3.5, {})


def test_while_the_store_is_gone_nothing_is_asked_and_an_operator_is_followed():
    policy = Says(1, 8)
    autoscaler = asking(policy)
    look(autoscaler, model())
    assert autoscaler.look({"m": model(replicas=3)}, Observed(), None, 500.0)["m"].replicas == 3
    assert policy.numbers == [8]


def test_without_a_note_of_what_load_asked_for_nothing_that_runs_is_ended():
    """The status was deleted by hand, or nobody has ever written one."""
    running = world(a=READY, b=READY, c=READY)
    assert look(asking(Says(None)), model(replicas=1), running).replicas == 3
    known = Observed(plans=running.plans, statuses={"m": ModelStatus(model_uid="m", wanted=3, placed=3)})
    assert look(asking(Says(None)), model(replicas=1), known).replicas == 1


def test_what_has_no_place_is_not_asked_for_once_more():
    """AIBrix's optimizer asks for GPUs that nobody has."""
    status = ModelStatus(model_uid="m", wanted=3, placed=2, reasons=("1 of 3 replicas cannot be placed: needs 1 GPU",), scaling=at(3))
    autoscaler, observed = asking(Says(4)), Observed(statuses={"m": status})
    scaling = [look(autoscaler, model(), observed, now=now) for now in (100.0, 110.0, 120.0)][-1]
    assert (scaling.replicas, scaling.proposed) == (3, 4)
    assert scaling.reason.endswith("there is no place for more: 1 of 3 replicas cannot be placed: needs 1 GPU")


# --- properties ---------------------------------------------------------------------------------------------------------------

BOUNDS = st.tuples(st.integers(0, 6), st.integers(0, 30)).map(lambda pair: {"min_replicas": pair[0], "max_replicas": sum(pair)})
REQUESTS = st.builds(
    lambda within, replicas, count: model(replicas=replicas, replicas_set=count, **within), BOUNDS, st.integers(0, 40), st.integers(0, 2)
)
PROPOSALS = st.none() | st.integers(0, 60)
STATES = st.dictionaries(st.sampled_from("0123456789"), st.sampled_from([READY, STARTING, UNHEALTHY, ""]), max_size=10)
ODD = st.none() | st.sampled_from([0.0, 1.0, -3.0, nan, float("inf"), 1e300])
LIES = st.builds(EndpointStats, pending=ODD, running=ODD, kv_cache_usage=ODD, incarnation=st.integers(1, 2))
GATEWAYS = st.lists(st.integers(-1, 5).map(lambda count: gateway(in_flight=count)), max_size=2).map(tuple)


@given(
    history=st.lists(st.tuples(st.floats(0, 90), PROPOSALS, st.booleans(), STATES, LIES, GATEWAYS, REQUESTS), max_size=30), first=REQUESTS
)
@settings(max_examples=150, deadline=None)
def test_never_outside_the_bounds_never_more_than_a_step_and_never_by_what_is_unknown(history, first):
    """Policies that propose anything, replicas that flap, engines that lie, operators who change their minds, leaders that die."""
    limits = Limits(up_pause_s=15, down_pause_s=60)
    policy = Says(None)
    autoscaler, request, now, statuses = Autoscaler({"it": policy}, "it", limits, LOOK_S, logger), first, 0.0, {}
    for elapsed, proposed, same_request, states, lies, gateways, other in history:
        now, policy.numbers = now + elapsed, [proposed]
        before = statuses["m"].scaling if statuses else None
        if proposed == 13:
            autoscaler, now = Autoscaler({"it": policy}, "it", limits, LOOK_S, logger), now * -7.0
        request = request if same_request else other
        observed = Observed(plans=world(**states).plans, statuses=statuses, nodes=world().nodes, endpoints=world(**states).endpoints)
        scaling = look(autoscaler, request, observed, Load(stats={("m", "0"): lies}, gateways=gateways), now)
        status = ModelStatus(model_uid="m", wanted=scaling.replicas, placed=scaling.replicas, scaling=scaling)
        statuses = {"m": msgspec.json.decode(msgspec.json.encode(status), type=ModelStatus)}
        least, most = bounds(request)
        assert least <= scaling.replicas <= most
        if before is not None and before.asked == scaling.asked:
            gained, wakes = scaling.replicas - before.replicas, before.replicas == 0 and scaling.replicas == 1
            assert gained <= limits.most_up(before.replicas)
            assert -gained <= limits.most_down(before.replicas)
            assert proposed is not None or gained == 0 or wakes


class Fills(ScalingPolicy):
    """As many as bring the mean of the KV caches to a half; what starts counts."""

    def propose(self, signals, memory, now):
        told = [each.stats.kv_cache_usage for each in signals.replicas if each.stats and each.stats.kv_cache_usage is not None]
        serving = [each for each in signals.replicas if each.ready]
        if not serving or len(told) < len(serving):
            return Proposal(replicas=None, reason="not all is known", memory=dict(memory))
        peak = max(sum(told), *memory.get("peaks", [0.0]))
        number = signals.wanted if signals.wanted - 1 <= 2 * peak <= signals.wanted else max(1, round(2 * peak + 0.5))
        return Proposal(replicas=number, reason=f"{peak:.2f} caches full", memory={"peaks": [*memory.get("peaks", []), sum(told)][-30:]})


def loop(**fields) -> ClosedLoop:
    request = model(max_replicas=12)
    return ClosedLoop(policy=Fills(), request=request, **{"rate": lambda now: 5.0, "service_s": 4.0, **fields})


def half_of_five(now, stats):
    return {each: EndpointStats(kv_cache_usage=min(1.0, 2.2 / len(stats)), incarnation=1) for each in stats}


@pytest.mark.parametrize("boot_s", [5.0, 60.0, 200.0])
def test_where_the_world_stands_still_the_number_does_too(boot_s):
    still = loop(rate=lambda now: 0.5, boot_s=boot_s, spoil=half_of_five)
    still.start(1)
    still.run(1800)
    assert set(still.numbers[90:]) == {5}


def test_a_change_of_leader_changes_nothing():
    """Every half minute another scheduler takes over, whose clock has nothing to do with the one before."""
    alone, taking_turns = loop(seed=3), loop(seed=3, term_s=30.0)
    for each in (alone, taking_turns):
        each.start(1)
        each.run(900)
    assert taking_turns.numbers == alone.numbers
    assert taking_turns.account == alone.account


def test_silence_freezes_and_what_comes_back_is_followed():
    """For ten minutes nobody tells anything, while half of the load is gone."""
    silent = loop(rate=lambda now: 8.0 if now < 600 else 1.0, spoil=lambda now, stats: {} if 600 <= now < 1200 else stats)
    silent.start(4)
    silent.run(2400)
    frozen = {number for at, number in silent.wanted if 600 <= at < 1200}
    assert len(frozen) == 1
    assert silent.numbers[-1] < frozen.pop()
