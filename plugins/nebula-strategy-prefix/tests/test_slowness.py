import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_prefix.slowness import Slowness
from nebula_strategy_prefix.speed import Speed
from nebula_strategy_prefix.stretch import Stretch


def after(factor: float, *, noise: float, count: int = 60, seed: int = 1) -> float:
    rng, slowness = random.Random(seed), Slowness()
    for _ in range(count):
        slowness.learn(1.0, factor * rng.lognormvariate(0, noise))
    return slowness.factor


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_a_replica_that_differs_is_found_out(factor):
    assert after(factor, noise=0.2) == pytest.approx(factor, rel=0.2)


def test_noise_makes_no_replica_slow():
    found = [after(1.0, noise=0.3, seed=seed) for seed in range(50)]
    assert sum(factor == 1.0 for factor in found) >= 45
    assert max(found) < 1.2


def test_one_stall_makes_no_replica_slow():
    slowness = Slowness()
    for place in range(20):
        slowness.learn(1.0, 60.0 if place == 15 else 1.0)
    assert slowness.factor == 1.0


def test_a_replica_that_is_no_longer_slow_is_forgiven():
    slowness = Slowness()
    for place in range(120):
        slowness.learn(1.0, 4.0 if place < 40 else 1.0)
    assert slowness.factor == pytest.approx(1.0, abs=0.1)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=60))
def test_it_stays_within_reason(samples):
    slowness = Slowness()
    for expected_s, seconds in samples:
        slowness.learn(expected_s, seconds)
    assert 0.09 < slowness.factor < 11


def test_prompts_that_share_a_step_are_learned_from_together():
    speed = Speed(32_000, 4_000)
    stretch, now = Stretch(speed), 0.0
    for _ in range(60):
        stretch.begin(now)
        now += 4 * 0.5
        for place in range(4):  # all first tokens at once
            stretch.add(50_000, 50_000, last=place == 3, decoding=0, now=now)
        now += 5.0
    assert speed.takes_s(50_000, 50_000) == pytest.approx(0.5, rel=0.05)


def test_time_that_was_waited_for_memory_is_not_learned():
    speed = Speed(32_000, 4_000)
    stretch = Stretch(speed)
    for place in range(60):
        stretch.begin(place * 100.0)
        stretch.spoil()
        stretch.add(50_000, 50_000, last=True, decoding=0, now=place * 100.0 + 60)
    assert speed.takes_s(50_000, 50_000) == Speed(32_000, 4_000).takes_s(50_000, 50_000)
    assert stretch.slowness.factor == 1.0
