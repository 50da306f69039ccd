from hypothesis import given
from hypothesis import strategies as st

from nebula_core import Candidate, EndpointStats, Route


def candidate() -> Candidate:
    return Candidate(Route(model_uid="m", replica_id="0", assignment_version="a", incarnation=1, url="http://127.0.0.1:1"))


def test_a_charge_counts_at_once():
    replica = candidate()
    replica.charge()
    replica.set_charged_elsewhere(2)
    assert replica.load == 3


def test_requests_that_the_gateways_sent_are_not_counted_twice_when_the_engine_reports_them():
    replica = candidate()
    for _ in range(4):
        replica.charge()
    replica.set_stats(EndpointStats(pending=1, running=3))
    assert replica.load == 4


def test_requests_that_came_another_way_are_counted():
    replica = candidate()
    replica.charge()
    replica.set_stats(EndpointStats(pending=2, running=3))
    assert (replica.foreign, replica.load) == (4, 5)


def test_a_burst_that_has_passed_does_not_look_like_foreign_load():
    replica = candidate()
    for _ in range(10):
        replica.charge()
    for _ in range(10):
        replica.discharge()
    replica.set_stats(EndpointStats(pending=0, running=10))  # sampled while the burst was on
    assert replica.load == 0


def test_unknown_signals_leave_the_last_known_foreign_load():
    replica = candidate()
    replica.set_stats(EndpointStats(pending=0, running=3))
    replica.set_stats(EndpointStats())
    assert replica.foreign == 3


def test_suspicion_grows_with_repeated_failure_and_ends_with_an_answer():
    replica = candidate()
    replica.suspect(now=0.0)
    first = replica.down_until
    replica.suspect(now=0.0)
    assert replica.down_until > first > 0
    replica.trust()
    assert replica.down_until == 0


@given(st.lists(st.sampled_from(["charge", "discharge", "sample"])))
def test_load_is_never_below_what_is_charged(steps: list[str]):
    replica = candidate()
    for step in steps:
        if step == "charge":
            replica.charge()
        elif step == "discharge" and replica.charged:
            replica.discharge()
        elif step == "sample":
            replica.set_stats(EndpointStats(pending=0, running=replica.charged))
        assert replica.load >= replica.charged >= 0
        assert replica.foreign == 0  # the engine only ever reported what this gateway had sent
