"""A window of plain data says what was seen lately, within a tenth of its span, and does not grow."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nebula_core import Window
from nebula_core.windows import PARTS

SAMPLES = st.lists(st.tuples(st.floats(0, 30), st.integers(-50, 50)), min_size=1, max_size=80)


def fed(steps, span_s=100.0):
    window, now, seen = Window(span_s), 0.0, []
    for elapsed, value in steps:
        now += elapsed
        seen.append((now, value))
        window = window.add(value, now)
    return window, now, seen


@given(SAMPLES)
def test_it_holds_all_of_the_span_and_no_more_than_a_tenth_beyond(steps):
    window, now, seen = fed(steps)
    within = [value for at, value in seen if at > now - 100.0]
    around = [value for at, value in seen if at > now - 111.0]
    assert min(around) <= window.least(now) <= min(within)
    assert max(within) <= window.most(now) <= max(around)
    assert window.least(now) <= window.mean(now) + 1e-9
    assert window.mean(now) <= window.most(now) + 1e-9


@given(SAMPLES)
def test_it_stays_small_and_comes_back_from_json_as_it_was(steps):
    window, _, _ = fed(steps)
    assert len(window.parts) <= PARTS + 1
    assert msgspec.json.decode(msgspec.json.encode(window), type=Window) == window


def test_it_is_full_when_a_whole_span_has_been_seen_and_empty_when_none():
    window, now, _ = fed([(1, 5)] * 90)
    assert (window.full(now), window.covered_s(now)) == (False, 89.0)
    assert fed([(1, 5)] * 101)[0].full(101.0)
    assert (window.mean(now + 1000), window.covered_s(now + 1000), window.most(now + 1000)) == (None, 0.0, None)


def test_the_last_seconds_can_be_asked_for_alone():
    window, now, _ = fed([(1, 0)] * 50 + [(1, 10)] * 50)
    assert window.mean(now, 20.0) == 10
    assert window.mean(now) == 5
