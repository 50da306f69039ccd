import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_prefix.demand import Demand
from nebula_strategy_prefix.pace import Pace


def learned(seconds, *, count: int = 200, decoding=lambda rng: 0, rng: random.Random | None = None) -> Pace:
    rng, pace = rng or random.Random(1), Pace(32_000, 4_000)
    for _ in range(count):
        work, beside = rng.uniform(0, 50_000), decoding(rng)
        pace.learn(work, seconds(work, beside), beside)
    return pace


@pytest.mark.parametrize("speed", [800, 32_000, 1_000_000])
def test_a_speed_is_learned_whatever_was_believed_before(speed):
    assert learned(lambda work, beside: work / speed, count=30).bytes_per_s == pytest.approx(speed, rel=0.1)


def test_what_every_request_costs_is_told_from_the_work():
    pace = learned(lambda work, beside: 0.05 + work / 32_000)
    assert pace.base_s == pytest.approx(0.05, rel=0.1)
    assert pace.bytes_per_s == pytest.approx(32_000, rel=0.05)


def test_a_new_speed_replaces_the_old_one():
    pace, rng = learned(lambda work, beside: work / 32_000), random.Random(2)
    for _ in range(200):
        work = rng.uniform(0, 50_000)
        pace.learn(work, work / 8_000, 0)
    assert pace.bytes_per_s == pytest.approx(8_000, rel=0.1)


def test_one_absurd_answer_hardly_matters():
    pace = learned(lambda work, beside: work / 32_000)
    pace.learn(50_000, 10_000.0, 0)
    assert pace.bytes_per_s > 16_000


def test_requests_being_decoded_slow_prompts_down():
    pace = learned(lambda work, beside: work / 32_000 * (1 + beside / 20), decoding=lambda rng: rng.randrange(20))
    pace.decoding(0)
    idle = pace.per_byte_s
    pace.decoding(19)
    assert pace.per_byte_s > 1.3 * idle


def test_decoding_that_costs_nothing_adds_nothing():
    pace = learned(lambda work, beside: work / 32_000, decoding=lambda rng: rng.randrange(20))
    pace.decoding(19)
    assert 1 / pace.per_byte_s == pytest.approx(32_000, rel=0.05)


@given(st.lists(st.tuples(st.floats(0, 1e8), st.floats(0, 1e5), st.integers(0, 500)), max_size=60), st.integers(0, 500))
def test_a_time_is_never_negative(samples, decoding):
    pace = Pace(32_000, 4_000)
    for work, seconds, beside in samples:
        pace.learn(work, seconds, beside)
    pace.decoding(decoding)
    assert pace.base_s >= 0
    assert pace.per_byte_s > 0
    assert pace.mean_s >= 0


def test_work_delays_more_requests_the_busier_the_fleet_is():
    quiet, busy = Demand(), Demand()
    for second in range(300):
        quiet.arrived(0.1, 8, second)
        for _ in range(10):
            busy.arrived(0.7, 8, second)
    assert quiet.delayed_per_s < 0.1
    assert busy.delayed_per_s > 20 * quiet.delayed_per_s
