"""Whose requests are ended in their place when a worker or another gateway is gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula_core.gateway.unfinished import Unfinished
from nebula_core.router.events import RouteEvent

steps = st.tuples(
    st.sampled_from("xy"),
    st.sampled_from(["charged", "first_token", "finished", "failed"]),
    st.sampled_from("abc"),
    st.sampled_from("01"),
)


def event(kind, request_id, replica_id):
    return RouteEvent(kind=kind, model_uid="m", replica_id=replica_id, incarnation=7, request_id=request_id, at=1.0)


@given(st.lists(steps, max_size=40))
def test_the_requests_of_a_source_that_began_and_did_not_end_are_ended_once(told):
    unfinished, running = Unfinished(), set()
    for source, kind, request_id, replica_id in told:
        unfinished.note(source, [event(kind, request_id, replica_id)])
        if kind == "charged":
            running.add((source, request_id, replica_id))
        elif kind != "first_token":
            running.discard((source, request_id, replica_id))
    for source in "xy":
        ended = unfinished.end(source, 5.0)
        assert {(source, each.request_id, each.replica_id) for each in ended} == {each for each in running if each[0] == source}
        assert all((each.kind, each.model_uid, each.incarnation, each.at) == ("failed", "m", 7, 5.0) for each in ended)
        assert unfinished.end(source, 6.0) == ()
