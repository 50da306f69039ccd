import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_prefix.curve import MOST, Curve


def learned(seconds, *, rng: random.Random | None = None, lengths=lambda rng: int(rng.lognormvariate(9, 1.5))) -> Curve:
    rng, curve = rng or random.Random(1), Curve()
    for _ in range(500):
        total = lengths(rng)
        work = int(total * rng.random())
        curve.learn(work, total, seconds(work, total))
    return curve


def test_what_length_costs_is_learned_from_prompts_of_many_lengths():
    curve = learned(lambda work, total: 0.02 + 1e-5 * (work + 8e-6 * work * (total - work / 2)))
    assert curve.per_pair == pytest.approx(8e-6, rel=0.02)
    assert curve.effort(100_000, 200_000) == pytest.approx(100_000 * (1 + 8e-6 * 150_000), rel=0.05)


def test_where_length_costs_nothing_effort_is_bytes():
    rng = random.Random(2)
    curve = learned(lambda work, total: (0.02 + 1e-5 * work) * rng.uniform(0.9, 1.1))
    assert curve.effort(100_000, 100_000) == pytest.approx(100_000, rel=0.05)


def test_prompts_of_one_length_tell_nothing_of_others():
    curve = learned(lambda work, total: 1e-5 * total, lengths=lambda rng: 10_000)
    assert 0 <= curve.per_pair <= MOST


def test_a_wait_for_something_else_hardly_matters():
    def seconds(work, total):
        return 0.02 + 1e-5 * (work + 8e-6 * work * (total - work / 2))

    curve = learned(seconds)
    curve.learn(1_000, 1_000, 600.0)
    for total in range(1_000, 8_000, 1_000):
        curve.learn(total, total, seconds(total, total))
    assert curve.per_pair == pytest.approx(8e-6, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 10**8), st.floats(0, 1e5)), max_size=100), st.integers(0, 10**8))
def test_effort_is_never_less_than_the_bytes(samples, work):
    curve = Curve()
    for tail, head, seconds in samples:
        curve.learn(tail, head + tail, seconds)
    assert work <= curve.effort(work, work) <= work * (1 + MOST * work)
