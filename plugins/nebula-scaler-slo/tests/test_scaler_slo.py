import logging
from math import factorial

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from nebula_scaler_slo import nebula_register_scalers
from nebula_scaler_slo.policy import Settings, SloPolicy
from nebula_scaler_slo.queueing import enough, replicas, waits_longer
from nebula_scaler_slo.work import Seen, Work

from nebula_core import Context, ModelRequest, ReplicaSignals, ScalingSignals
from nebula_core.testing.scaling import LOOK_S, ScalingContract, ask_often, ready
from nebula_core.testing.scaling_loop import ClosedLoop

MANY = 1e6
"""Requests per second, so that chance has no part in what is seen."""


class TestContract(ScalingContract):
    def make_policy(self):
        [provider] = nebula_register_scalers()
        return provider.build(Context(logger=logging.getLogger("test")), Settings())


def erlang_c(servers, load):
    """The formula itself, for whole numbers of servers."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**n / factorial(n) for n in range(servers)) + last)


@pytest.mark.parametrize(("servers", "load"), [(16, 8.0), (32, 24.0), (64, 48.0), (64, 60.0), (100, 90.0)])
def test_the_probability_of_waiting_is_nearly_erlangs(servers, load):
    assert waits_longer(servers, load, 0.0, 8.0, 1.0) == pytest.approx(erlang_c(servers, load), abs=0.03)


@given(load=st.floats(0.01, 500), places=st.floats(1, 300), wait=st.floats(0, 10), service=st.none() | st.floats(0.1, 60))
@hypothesis(max_examples=100, deadline=None)
def test_the_fewest_replicas_are_enough_and_one_fewer_is_not(load, places, wait, service):
    number = replicas(load, places, wait, service, 2.0, 0.01)
    assert waits_longer(number * places, load, wait, service, 2.0) <= 0.01
    assert number == 1 or waits_longer((number - 1) * places, load, wait, service, 2.0) > 0.01


@given(per_s=st.floats(0.01, 200), alone=st.floats(0.0, 30), each=st.floats(0.001, 2), places=st.floats(1, 300))
@hypothesis(max_examples=100, deadline=None)
def test_enough_replicas_pass_what_comes_and_have_places_for_it(per_s, alone, each, places):
    work = Work(alone, each)
    number = enough(per_s, work, places, 1.0, 2.0, 0.01)
    assert number * work.most_per_s(places) > per_s
    assert number >= enough(per_s / 2, work, places, 1.0, 2.0, 0.01)


@given(history=st.lists(st.tuples(st.floats(0.1, 500), st.floats(0.1, 300), st.floats(0.01, 100)), min_size=1, max_size=50))
@hypothesis(max_examples=100, deadline=None)
def test_what_was_learned_gives_back_the_mean_whatever_was_seen(history):
    seen = Seen()
    for long, many, took_s in history:
        seen = seen.learn(long, many, took_s, 10.0, MANY)
    work = seen.work()
    assert work.takes_s(seen.many) == pytest.approx(seen.took_s)
    assert work.alone_s >= -1e-9
    assert 0 <= work.each_s <= seen.took_s / seen.many + 1e-9


def test_answers_that_become_shorter_are_not_taken_for_a_steeper_line():
    """Short answers bring fewer requests at a time and less time of each: without their length that is a line through nothing."""
    seen, step = Seen(), 0.024
    for long in (250.0, 240.0, 200.0, 150.0) * 40:
        work = Work(step * long, 0.35)
        many = work.at_a_time(1.5)
        seen = seen.learn(long, many, work.takes_s(many), 10.0, MANY)
    assert seen.work().each_s == pytest.approx(0.35, rel=0.2)


def test_a_line_is_learned_from_a_load_that_rises_and_falls():
    seen = Seen()
    for look in range(360):
        many = 20.0 + 15.0 * (look % 60) / 60
        seen = seen.learn(200.0, many, 5.0 + 0.3 * many, 10.0, MANY)
    work = seen.work()
    assert (work.alone_s, work.each_s) == pytest.approx((5.0, 0.3), rel=0.25)


def test_a_load_that_never_changed_leaves_half_of_the_time_to_the_others():
    work = Seen().learn(1.0, 16.0, 8.0, 10.0, MANY).work()
    assert (work.alone_s, work.each_s) == pytest.approx((4.0, 0.25))


def test_a_few_requests_tell_nothing_of_how_they_slow_each_other_down():
    """At so low a rate, that two run at once is chance, and each of them seems to take twice as long."""
    seen = Seen()
    for look in range(30):
        many = 1.0 + look % 2
        seen = seen.learn(1.0, many, 6.0 * many, 10.0, 0.1)
    assert seen.work().each_s < 1.5


def test_what_was_remembered_without_a_number_of_requests_tells_nothing():
    assert Seen(weight_s=100.0, long=1.0, many=2.0, took_s=3.0).work() is None


def test_a_replica_that_is_away_for_a_moment_is_not_taken_for_one_that_generated_all_its_tokens_meanwhile():
    def told(tokens, *, away=False):
        whole = signals(wanted=2, arrivals=4.0, running=16.0)
        stats = [msgspec.structs.replace(each.stats, generated_tokens_total=tokens) for each in whole.replicas]
        replicas = tuple(msgspec.structs.replace(each, stats=said) for each, said in zip(whole.replicas, stats, strict=True))
        return msgspec.structs.replace(whole, replicas=replicas[: 1 if away else 2])

    steady = [(LOOK_S, told(1e6 + 400.0 * look)) for look in range(60)]
    flap = [*steady[:40], *((LOOK_S, told(1e6 + 400.0 * look, away=True)) for look in (40, 41)), *steady[42:]]
    undisturbed, disturbed = (ask_often(SloPolicy(Settings()), each)[0][-1] for each in (steady, flap))
    assert disturbed.inputs["each_s"] == pytest.approx(undisturbed.inputs["each_s"], rel=0.05)


def test_bursts_are_told_from_chance():
    even, bursts = signals(wanted=8, arrivals=10.0, running=8.0), signals(wanted=8, arrivals=20.0, running=8.0)
    history = [(LOOK_S, even)] * 120
    uneven = [(LOOK_S, bursts if look % 12 < 3 else signals(wanted=8, arrivals=20 / 3, running=8.0)) for look in range(120)]
    calm, wild = (ask_often(SloPolicy(Settings()), each)[0][-1] for each in (history, uneven))
    assert calm.inputs["unevenness"] == 1.0
    assert wild.inputs["unevenness"] > 3.0


def signals(*, wanted, arrivals, running, pending=0.0, starting=0, **fields):
    """Replicas that are all alike."""
    serving = tuple(ready(str(each), kv=running / 40, running=running, pending=pending) for each in range(wanted - starting))
    coming = tuple(ReplicaSignals(replica_id=f"s{each}", starting_s=5.0) for each in range(starting))
    in_flight = (running + pending) * (wanted - starting)
    fields = {"in_flight": in_flight, "waiting": 0.0, **fields}
    return ScalingSignals(model_uid="m", wanted=wanted, replicas=serving + coming, arrivals_per_s=arrivals, **fields)


def after(seconds, told, **settings):
    """What it proposes when it has been told the same for so long."""
    return ask_often(SloPolicy(Settings(**settings)), [(LOOK_S, told)] * (int(seconds / LOOK_S) + 1))[0][-1]


def test_the_figures_of_the_reckoning_are_in_the_reason():
    proposal = after(120, signals(wanted=2, arrivals=4.0, running=16.0))
    assert proposal.replicas == 3
    assert proposal.reason == "3 needed: 4 per second; each takes 4 s and 0.25 s more for each beside it, for first tokens within 2 s"
    assert (proposal.inputs["alone_s"], proposal.inputs["each_s"], proposal.inputs["places"]) == pytest.approx((4.0, 0.25, 36.0))


def test_a_shorter_time_to_the_first_token_needs_more_replicas():
    told = signals(wanted=2, arrivals=7.0, running=28.0)
    assert after(120, told).replicas < after(120, msgspec.structs.replace(told, first_token_target_s=0.05)).replicas


def test_a_step_is_answered_at_once_with_all_that_it_needs():
    """With the fourth look after it, while no request waits yet."""
    calm, surge = signals(wanted=3, arrivals=6.0, running=4.0), signals(wanted=3, arrivals=16.0, running=5.0)
    proposals, _ = ask_often(SloPolicy(Settings()), [(LOOK_S, calm)] * 40 + [(LOOK_S, surge)] * 4)
    assert [proposal.replicas for proposal in proposals[39:]] == [3, 4, 4, 5, 5]


def test_a_rise_is_answered_before_it_is_there_by_the_time_that_replicas_take():
    def rising(boot_s):
        history = [
            (LOOK_S, signals(wanted=3, arrivals=4.0 + look / 10, running=8 * (4.0 + look / 10) / 3, boot_s=boot_s)) for look in range(90)
        ]
        return [proposal.replicas for proposal in ask_often(SloPolicy(Settings()), history)[0]]

    assert max(rising(300.0)) > max(rising(10.0))


def test_a_queue_shows_what_a_replica_takes_and_asks_for_more_to_be_rid_of_it():
    proposal = after(120, signals(wanted=2, arrivals=4.0, running=16.0, pending=240.0))
    assert proposal.inputs["places"] == pytest.approx(16.0)
    assert proposal.inputs["backlog_per_s"] == pytest.approx(4.0)
    assert proposal.replicas > after(120, signals(wanted=2, arrivals=4.0, running=16.0)).replicas


@pytest.mark.parametrize("boot_s", [30.0, 240.0])
def test_fewer_must_be_enough_for_a_minute_and_the_time_of_a_start(boot_s):
    busy = signals(wanted=4, arrivals=14.0, running=28.0, boot_s=boot_s)
    calm = signals(wanted=4, arrivals=2.0, running=4.0, boot_s=boot_s)
    history = [(LOOK_S, busy)] * 30 + [(LOOK_S, calm)] * 60
    numbers = [proposal.replicas for proposal in ask_often(SloPolicy(Settings()), history)[0]]
    assert set(numbers[30 : 30 + int((60 + boot_s) / LOOK_S)]) == {4}
    assert numbers[-1] == 1


def test_an_idle_model_needs_none_but_only_where_that_is_certain():
    idle = signals(wanted=1, arrivals=0.0, running=0.0)
    assert after(320, idle).replicas == 0
    assert after(320, msgspec.structs.replace(idle, in_flight=None)).replicas == 1
    assert after(320, msgspec.structs.replace(idle, in_flight=1.0)).replicas == 1


def test_replicas_that_neither_serve_nor_start_are_made_up_for():
    told = signals(wanted=2, arrivals=4.0, running=16.0)
    broken = msgspec.structs.replace(told, wanted=3, replicas=(*told.replicas, ReplicaSignals(replica_id="x")))
    assert after(120, broken).replicas == after(120, told).replicas + 1


def test_first_tokens_that_stay_late_ask_for_one_more_than_was_reckoned():
    told = signals(wanted=2, arrivals=8.0, running=8.0, pending=0.3, first_token_s=4.0)
    assert after(120, told).replicas == 3
    assert after(40, told).replicas == 2
    assert after(120, msgspec.structs.replace(told, since_change_s=50.0)).replicas == 2


def test_without_gateways_that_measure_it_goes_by_what_is_in_flight():
    proposal = after(60, signals(wanted=2, arrivals=None, running=60.0, waiting=None))
    assert proposal.replicas > 2
    assert proposal.inputs["arrivals_per_s_ahead"] is None


def loop(rate, **fields):
    request = ModelRequest(model_uid="m", engine="fake", min_replicas=1, max_replicas=10)
    return ClosedLoop(policy=SloPolicy(Settings()), request=request, rate=rate, **fields)


def test_a_steady_load_is_served_by_a_steady_number():
    """Two hours of requests that come by chance; the least that could do are four replicas."""
    model = loop(lambda now: 6.0)
    model.start(5)
    model.run(7200)
    assert set(model.numbers[60:]) <= {4, 5}
    assert model.changes(since=600) <= 2
    assert model.kept(1.0, since=600) >= 0.99


def test_a_day_in_two_hours_is_followed_up_and_down():
    model = loop(lambda now: 4.0 + 3.0 * (now % 7200 > 3600), boot_s=120.0)
    model.start(3)
    model.run(7200)
    assert max(model.numbers[60:350]) <= 5
    assert model.numbers[-1] >= 5
    assert model.kept(1.0, since=600, until=3600) >= 0.99
    assert model.kept(1.0, since=4500) >= 0.99
