from hypothesis import given
from hypothesis import strategies as st

from nebula_core import HitRate


def test_a_hit_rate_forgets_what_lies_before_its_window():
    rate = HitRate(window_s=60)
    assert [rate.observe(t, computed, cached) for t, computed, cached in [(0, 0, 0), (50, 100, 0), (111, 100, 100)]] == [None, 0.0, 1.0]


def test_without_prompts_a_hit_rate_is_unknown():
    rate = HitRate(window_s=60)
    assert [rate.observe(t, 100, 100) for t in (0, 3, 6)] == [None, None, None]


def test_a_restarted_engine_has_no_hit_rate_for_one_sample():
    rate = HitRate(window_s=60)
    assert [rate.observe(t, computed, cached) for t, computed, cached in [(0, 0, 0), (3, 50, 50), (6, 10, 0), (9, 10, 30)]] == [
        None,
        0.5,
        None,
        1.0,
    ]


def test_an_engine_that_lacks_a_counter_has_no_hit_rate():
    rate = HitRate(window_s=60)
    assert [rate.observe(0, 0, None), rate.observe(3, None, 10)] == [None, None]


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000), st.integers(0, 1000)), max_size=50), st.floats(0.1, 100))
def test_a_hit_rate_is_a_ratio_whatever_the_counters_do(steps, window_s):
    rate, now = HitRate(window_s), 0.0
    for step, computed, cached in steps:
        now += step
        seen = rate.observe(now, computed, cached)
        assert seen is None or 0 <= seen <= 1
