import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_prefix.demand import Demand
from nebula_strategy_prefix.speed import MOST_PER_PAIR, Speed


def any_size(rng: random.Random) -> int:
    return int(rng.lognormvariate(9, 1.5))


def learned(seconds, *, count: int = 500, lengths=any_size, decoding=lambda rng: 0, speed: Speed | None = None) -> Speed:
    """Prompts of which a part is cached, each told alone."""
    rng, speed = random.Random(1), speed or Speed(32_000, 4_000)
    for _ in range(count):
        total, beside = lengths(rng), decoding(rng)
        work = int(total * rng.random())
        speed.learn(1, work, work * (total - 0.5 * work), seconds(work, total, beside), beside)
    return speed


@pytest.mark.parametrize("bytes_per_s", [800, 32_000, 1_000_000])
def test_a_speed_is_learned_whatever_was_believed_before(bytes_per_s):
    speed = learned(lambda work, total, beside: work / bytes_per_s, count=30)
    assert 1 / speed.per_byte_s == pytest.approx(bytes_per_s, rel=0.1)


def test_what_every_prompt_costs_is_told_from_the_work():
    speed = learned(lambda work, total, beside: 0.05 + work / 32_000)
    assert speed.base_s == pytest.approx(0.05, rel=0.1)
    assert 1 / speed.per_byte_s == pytest.approx(32_000, rel=0.05)


def test_what_length_costs_is_learned_from_prompts_of_many_lengths():
    speed = learned(lambda work, total, beside: 0.02 + 1e-5 * (work + 8e-6 * work * (total - work / 2)))
    assert speed.per_pair == pytest.approx(8e-6, rel=0.02)
    assert speed.takes_s(100_000, 200_000) == pytest.approx(0.02 + 1e-5 * 100_000 * (1 + 8e-6 * 150_000), rel=0.05)


def test_where_length_costs_nothing_only_bytes_count():
    rng = random.Random(2)
    speed = learned(lambda work, total, beside: (0.02 + 1e-5 * work) * rng.uniform(0.9, 1.1))
    assert speed.takes_s(100_000, 100_000) == pytest.approx(1.02, rel=0.05)


def test_prompts_of_one_length_tell_nothing_of_others():
    speed = learned(lambda work, total, beside: 1e-5 * total, lengths=lambda rng: 10_000)
    assert 0 <= speed.per_pair <= MOST_PER_PAIR


def test_one_absurd_answer_hardly_matters():
    speed = learned(lambda work, total, beside: work / 32_000)
    speed.learn(1, 50_000, 50_000**2 / 2, 10_000.0, 0)
    assert learned(lambda work, total, beside: work / 32_000, count=8, speed=speed).per_byte_s < 1.1 / 32_000


def test_requests_being_decoded_slow_prompts_down():
    speed = learned(lambda work, total, beside: work / 32_000 * (1 + beside / 20), decoding=lambda rng: rng.randrange(20))
    assert speed.beside(19) > 1.3 * speed.beside(0)


def test_decoding_that_costs_nothing_adds_nothing():
    speed = learned(lambda work, total, beside: work / 32_000, decoding=lambda rng: rng.randrange(20))
    assert speed.beside(19) == pytest.approx(1, abs=0.02)


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.integers(0, 10**8), st.integers(0, 10**8), st.floats(0, 1e5), st.integers(0, 500)), max_size=80
    ),
    st.integers(0, 10**8),
    st.integers(0, 500),
)
def test_a_time_is_never_negative_and_more_work_takes_longer(samples, work, decoding):
    speed = Speed(32_000, 4_000)
    for count, tail, head, seconds, beside in samples:
        speed.learn(count, tail, tail * (head + 0.5 * tail), seconds, beside)
    assert speed.base_s >= 0
    assert speed.mean_s >= 0
    assert speed.per_byte_s > 0
    assert speed.beside(decoding) > 0
    assert speed.takes_s(work + 1, work + 1) >= speed.takes_s(work, work + 1) >= 0


def test_work_delays_more_requests_the_busier_the_fleet_is():
    quiet, busy = Demand(), Demand()
    for second in range(300):
        quiet.arrived(0.1, 8, second)
        for _ in range(10):
            busy.arrived(0.7, 8, second)
    assert quiet.delayed_per_s < 0.01
    assert busy.delayed_per_s > 1
