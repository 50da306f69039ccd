import logging

import msgspec
import pytest
from nebula_scaler_load import nebula_register_scalers
from nebula_scaler_load.policy import LoadPolicy, Settings
from pydantic import ValidationError

from nebula_core import Context, ReplicaSignals, ScalingSignals
from nebula_core.testing.scaling import LOOK_S, ScalingContract, ask_often, ready


class TestContract(ScalingContract):
    def make_policy(self):
        [provider] = nebula_register_scalers()
        return provider.build(Context(logger=logging.getLogger("test")), Settings())


def serving(*usages, pending=0.0, running=10.0, starting=0, in_flight=20.0):
    """A model whose replicas have so much of their KV caches in use, and others that start."""
    replicas = [ready(str(number), kv=kv, running=running, pending=pending) for number, kv in enumerate(usages)]
    replicas += [ReplicaSignals(replica_id=f"s{number}", starting_s=5.0) for number in range(starting)]
    return ScalingSignals(model_uid="m", wanted=len(replicas), replicas=tuple(replicas), in_flight=in_flight)


def after(seconds, signals, **settings):
    """What it proposes when it has been told the same for so long."""
    return ask_often(LoadPolicy(Settings(**settings)), [(LOOK_S, signals)] * (int(seconds / LOOK_S) + 1))[0][-1]


@pytest.mark.parametrize(
    ("usages", "proposed"),
    [((0.81, 0.81), 3), ((0.8, 0.8), 2), ((0.7, 0.89), 2), ((0.7, 0.95), 3), ((1.0,) * 8, 10), ((0.1,), 1)],
)
def test_caches_that_are_too_full_for_a_minute_ask_for_as_many_as_they_need(usages, proposed):
    assert after(60, serving(*usages, pending=1.0)).replicas == proposed


def test_a_moment_is_not_enough():
    assert after(20, serving(1.0, 1.0)).replicas == 2


def test_overload_never_takes_replicas_away():
    """AIBrix's KPA answers a mean of 1.5 times the target on four replicas with two."""
    assert after(60, serving(*(0.99,) * 4, pending=10.0)).replicas > 4


def test_a_long_queue_is_load_however_empty_the_caches_are():
    proposal = after(60, serving(0.2, 0.2, pending=9.0))
    assert proposal.replicas == 5
    assert proposal.reason == "9.0 requests waiting per replica over 60 s (2 ready), above 4"


def test_replicas_that_start_count_as_if_they_served():
    assert after(60, serving(0.95, 0.95, pending=1.0, starting=1)).replicas == 3
    assert after(60, serving(0.95, 0.95, 0.95, 0.95, pending=1.0, starting=0)).replicas == 5


def test_after_five_minutes_without_a_queue_one_goes_if_the_others_have_room():
    assert after(290, serving(0.3, 0.3, 0.3)).replicas == 3
    proposal = after(310, serving(0.3, 0.3, 0.3))
    assert proposal.replicas == 2
    assert proposal.reason == "nothing has waited for 300 s, and the others will have no more than 60% of their KV caches in use"
    assert after(600, serving(0.5, 0.5, 0.5)).replicas == 3


def test_the_fullest_moment_of_the_five_minutes_counts_and_not_their_mean():
    quiet, full = serving(0.1, 0.1), serving(0.7, 0.7)
    history = [(LOOK_S, quiet)] * 40 + [(LOOK_S, full)] + [(LOOK_S, quiet)] * 20
    assert ask_often(LoadPolicy(Settings()), history)[0][-1].replicas == 2


def test_the_time_begins_anew_with_each_change_and_each_silence():
    quiet, fewer = serving(0.1, 0.1, 0.1), serving(0.1, 0.1)
    silent = msgspec.structs.replace(fewer, replicas=(fewer.replicas[0], ReplicaSignals(replica_id="1", ready=True)))
    history = [(LOOK_S, quiet)] * 40 + [(LOOK_S, fewer)] * 29 + [(LOOK_S, silent)] + [(LOOK_S, fewer)] * 29
    proposals, _ = ask_often(LoadPolicy(Settings()), history)
    assert proposals[39].replicas == 2
    assert {proposal.replicas for proposal in proposals[40:]} == {2}


def test_a_queue_keeps_all_that_are_there():
    assert after(1000, serving(0.1, 0.1, pending=1.0)).replicas == 2


def test_those_that_tell_nothing_are_no_empty_ones():
    """AIBrix reads a failed scrape as 0, which drags the mean down."""
    full = serving(0.9, 0.9, 0.9, pending=1.0)
    one_silent = msgspec.structs.replace(full, replicas=(*full.replicas[:2], ReplicaSignals(replica_id="2", ready=True)))
    two_silent = msgspec.structs.replace(full, replicas=(full.replicas[0], *one_silent.replicas[2:] * 2))
    assert after(60, one_silent).replicas == 4
    assert after(60, two_silent).replicas is None
    assert after(600, two_silent).reason == "too few replicas tell their load"


def test_the_last_one_goes_only_where_there_is_no_request_at_all():
    idle = serving(0.0, running=0.0, in_flight=0.0)
    assert after(310, idle).replicas == 0
    assert after(310, msgspec.structs.replace(idle, in_flight=1.0)).replicas == 1
    assert after(310, msgspec.structs.replace(idle, in_flight=None)).replicas == 1
    assert after(310, serving(0.0, running=1.0, in_flight=0.0)).replicas == 1


def test_zero_traffic_is_no_panic():
    """AIBrix's KPA takes no traffic for a panic, and keeps what there is."""
    assert after(310, serving(0.0, 0.0, running=0.0, in_flight=0.0)).replicas == 1


def test_marks_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match=r"low \(0.9\) must be below high \(0.8\)"):
        Settings(low=0.9)
