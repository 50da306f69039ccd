"""What a gateway tells of each model's requests: exact in number, steady in words, and nothing where nothing came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core import Retry
from nebula_core.gateway.awaited import REFUSED_S, Awaited
from nebula_core.gateway.data_path.measures import SECONDS
from nebula_core.gateway.traffic import SPAN_S, Counts, Look, TrafficMeter, calm, counts, kept, measure, quantile
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.types import Traffic


def buckets(*seconds: float) -> tuple[int, ...]:
    """First tokens that took so long, as a histogram counts them."""
    return tuple(sum(low < each <= high for each in seconds) for low, high in zip((-1.0, *SECONDS), (*SECONDS, float("inf")), strict=True))


def look(at: float, arrivals: float, *first_tokens: float) -> Look:
    return Look(at, {"m": Counts(arrivals, buckets(*first_tokens))})


# --- the window


def test_arrivals_are_those_between_the_first_look_and_the_last():
    assert measure((look(100, 40), look(115, 55), look(130, 100)), {}) == {"m": Traffic(arrivals_per_s=2.0)}


def test_a_model_of_which_nothing_was_heard_lately_is_left_out():
    assert measure((look(100, 40, 0.2), look(130, 40, 0.2)), {}) == {}


def test_what_waits_is_told_however_long_ago_it_came():
    assert measure((look(100, 40), look(130, 40)), {"m": 3, "n": 1}) == {
        "m": Traffic(arrivals_per_s=0.0, waiting=3),
        "n": Traffic(arrivals_per_s=0.0, waiting=1),
    }


def test_the_first_request_of_a_new_gateway_is_no_flood():
    assert measure((Look(100, {}), look(100.5, 1)), {})["m"].arrivals_per_s == 0.2


def test_a_span_reaches_back_to_the_last_look_before_it():
    looks: tuple[Look, ...] = (look(0, 0),)
    for at in range(1, 100):
        looks = kept((*looks, look(at, at)))
    assert (looks[0].at, looks[-1].at) == (99 - SPAN_S, 99)


@pytest.mark.parametrize(
    ("answers", "seconds"),
    [
        ([0.15] * 19, None),
        ([0.15] * 20, 0.199),  # all in the bucket from 0.1 to 0.2: 99 % of the way
        ([0.15] * 99 + [4.0], 0.2),
        ([0.15] * 98 + [4.0] * 2, 3.5),
        ([1000.0] * 20, 600.0),
    ],
)
def test_the_time_that_99_of_100_stay_below_is_found_within_its_bucket(answers, seconds):
    assert quantile(list(buckets(*answers))) == (None if seconds is None else pytest.approx(seconds))


@given(st.lists(st.floats(0.0, 590.0), min_size=20, max_size=300))
def test_it_lies_in_the_bucket_of_the_answer_that_it_stands_for(answers):
    found = quantile(list(buckets(*answers)))
    standing = sorted(answers)[-(-len(answers) * 99 // 100) - 1]
    at = next(i for i, bound in enumerate(SECONDS) if standing <= bound)
    assert (SECONDS[at - 1] if at else 0.0) <= found <= SECONDS[at] + 1e-9


def test_chance_is_no_news():
    told = {"m": Traffic(arrivals_per_s=10.0, first_token_s=1.0)}
    much_the_same, another = Traffic(arrivals_per_s=10.9, waiting=1, first_token_s=0.93), Traffic(arrivals_per_s=12.0)
    assert calm(told, {"m": much_the_same}) == {"m": Traffic(arrivals_per_s=10.0, waiting=1, first_token_s=1.0)}
    assert calm(told, {"m": another, "n": another}) == {"m": another, "n": another}


def test_a_meter_at_rest_tells_the_same_for_ever():
    now, seen = [0.0], {"m": Counts(5.0)}
    meter = TrafficMeter(lambda: seen, lambda: now[0])
    now[0] = 1.0
    assert meter.now({})["m"].arrivals_per_s == 1.0
    told = []
    for now[0] in range(2, 120):
        told.append(meter.now({}))
    assert told[40:] == [{}] * len(told[40:])


# --- what workers count


class Once(Retry):
    def pause(self, failed, now):
        return 0.0 if not failed.before else None


@pytest.mark.asyncio
async def test_every_request_is_an_arrival_once_however_often_it_was_tried_or_waited(gateway, engine, dead_url, until):
    upstream = await engine()
    running = await gateway(dead_url, dead_url, upstream.url, retry=Once(), wait_requests=1)
    for _ in range(3):
        assert (await running.ask()).status in (200, 503)  # tried two or three times each
    running.table.update([ModelRoute(model_uid="m")])
    waiting = await running.connect()
    waiting.post()
    await until(lambda: running.count("nebula_request_waiting", "m") == 1)
    assert (await running.ask()).status == 503  # refused, for there is room for one
    route = Route(model_uid="m", replica_id="9", assignment_version="1", incarnation=1, url=upstream.url)
    running.table.update([ModelRoute(model_uid="m", routes=(route,))])
    assert (await waiting.answer()).status == 200
    await running.at_rest()
    [found] = counts([running.metrics.snapshot()]).values()
    assert found.arrivals == 5
    assert sum(found.first_tokens) == running.count("nebula_request_total", "200")


# --- what waits


def test_what_workers_hold_is_added_and_goes_with_them():
    awaited = Awaited()
    awaited.report("one", [("m", 2, 0), ("n", 1, 0)], 0.0)
    awaited.report("two", [("m", 3, 0)], 0.0)
    assert awaited.total(0.0) == {"m": 5, "n": 1}
    awaited.report("two", [("m", 0, 0)], 0.0)
    awaited.forget("one")
    assert awaited.total(0.0) == {}


def test_a_refused_request_counts_as_waiting_for_a_moment():
    awaited = Awaited()
    awaited.report("one", [("m", 0, 2)], 10.0)
    assert awaited.total(10.0 + REFUSED_S / 2) == {"m": 2}
    assert awaited.total(10.0 + REFUSED_S) == {}


@pytest.mark.asyncio
async def test_a_room_tells_what_changed_and_all_to_who_is_new(gateway, until):
    running = await gateway(wait_requests=1)
    room = running.server.services.room
    assert room.take_news() == {}
    client = await running.connect()
    client.post()
    await until(lambda: running.count("nebula_request_waiting", "m") == 1)
    assert (await running.ask()).status == 503
    assert room.take_news() == {"m": (1, 1)}
    assert room.take_news() == {}
    room.tell_again()
    assert room.take_news() == {"m": (1, 0)}
    client.writer.close()
    await until(lambda: room.take_news() == {"m": (0, 0)})
