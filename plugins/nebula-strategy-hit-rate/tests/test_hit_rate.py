import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_hit_rate import HitRate, HitRateSettings, nebula_register_strategies
from pydantic import ValidationError

from nebula_core import Candidate, Context, EndpointStats, RouteRequest
from nebula_core.testing.strategy import StrategyContract, make_candidates, picked_by_models_in_turn

REQUEST = RouteRequest("r", "m", "/v1/chat/completions", b"{}")


def context() -> Context:
    return Context(logger=logging.getLogger("test"))


def fleet(*rates: float | None) -> list[Candidate]:
    replicas = make_candidates(len(rates))
    for candidate, rate in zip(replicas, rates, strict=True):
        candidate.set_stats(EndpointStats(prefix_cache_hit_rate=rate))
    return replicas


class TestContract(StrategyContract):
    def make_strategy(self):
        [provider] = nebula_register_strategies()
        return provider.build(context(), HitRateSettings())


@given(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=30).filter(lambda rates: any(rate is not None for rate in rates)))
def test_the_highest_rate_wins_from_the_threshold_on(rates):
    pick = HitRate(context(), HitRateSettings(threshold=0.5)).select(REQUEST, fleet(*rates))
    best = max(rate for rate in rates if rate is not None)
    assert pick.reason == ("hit_rate" if best >= 0.5 else "least_pending")
    assert best < 0.5 or pick.candidate.stats.prefix_cache_hit_rate == best


def test_below_the_threshold_the_lowest_load_wins():
    replicas = fleet(0.2, 0.1, None)
    replicas[0].charge()
    replicas[1].charge()
    assert HitRate(context(), HitRateSettings()).select(REQUEST, replicas).candidate is replicas[2]


def test_equals_take_turns():
    strategy, replicas = HitRate(context(), HitRateSettings()), fleet(0.1, 0.1, 0.1)
    assert {strategy.select(REQUEST, replicas).candidate.route.replica_id for _ in range(3)} == {"0", "1", "2"}


@pytest.mark.parametrize("sizes", [(2, 2), (2, 1), (4, 2)])
def test_the_equals_of_each_model_take_turns_by_themselves(sizes):
    picked = picked_by_models_in_turn(HitRate(context(), HitRateSettings()), sizes, EndpointStats(prefix_cache_hit_rate=0.5))
    assert picked == {(number, str(replica)): 12 // size for number, size in enumerate(sizes) for replica in range(size)}


def test_a_fleet_without_the_signal_hands_over_and_says_so_once(caplog):
    strategy, replicas = HitRate(ctx := context(), HitRateSettings()), fleet(None, None)
    assert [strategy.select(REQUEST, replicas) for _ in range(3)] == [None, None, None]
    assert caplog.text.count("no replica of m reports") == 1
    [missing] = [family for family in ctx.metrics.snapshot() if family.name == "nebula_strategy_hit_rate_missing_total"]
    assert missing.samples[0].value == 3


def test_a_threshold_is_a_share():
    with pytest.raises(ValidationError):
        HitRateSettings(threshold=30)
