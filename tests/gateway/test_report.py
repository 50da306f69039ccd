"""What a worker tells of its requests for the strategies of others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nebula_core.gateway.report import worth_telling
from nebula_core.router.blocks import PrefixBlocks
from nebula_core.router.events import RouteEvent

LONG, SHORT = PrefixBlocks((1, 2), (256, 256), 600), PrefixBlocks((), (), 100)


def life(request_id, blocks, *kinds, replica_id="0"):
    return [
        RouteEvent(
            kind=kind,
            model_uid="m",
            replica_id=replica_id,
            incarnation=1,
            request_id=request_id,
            at=0.0,
            prefix_blocks=blocks if kind == "charged" else None,
        )
        for kind in kinds
    ]


def test_of_a_short_question_that_is_over_already_nothing_is_told():
    assert worth_telling(life("a", SHORT, "charged", "first_token", "finished") + life("b", None, "charged", "failed")) == ()


def test_of_a_prompt_whose_prefix_is_held_now_all_is_told():
    events = life("a", LONG, "charged", "first_token", "finished")
    assert worth_telling(events) == tuple(events)


def test_of_a_request_that_goes_on_all_is_told_also_when_it_was_tried_elsewhere_before():
    running = life("a", SHORT, "charged", "first_token", replica_id="1")
    assert worth_telling(life("a", SHORT, "charged", "failed") + running) == tuple(running)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((LONG, SHORT)), st.integers(1, 3)), max_size=8))
def test_who_hears_of_a_beginning_hears_of_the_end(requests):
    events = [
        event
        for number, (name, blocks, steps) in enumerate(requests)
        for event in life(f"{name}{number}", blocks, *("charged", "first_token", "finished")[:steps])
    ]
    told = worth_telling(events)
    for request_id in {event.request_id for event in told}:
        assert [e for e in told if e.request_id == request_id] == [e for e in events if e.request_id == request_id]
    left_out = {event.request_id for event in events} - {event.request_id for event in told}
    assert all(event.kind != "charged" or not event.prefix_blocks.hashes for event in events if event.request_id in left_out)
