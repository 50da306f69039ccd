import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_least_kv import LeastKv, nebula_register_strategies

from nebula_core import Candidate, Context, EndpointStats, PluginSettings, RouteRequest
from nebula_core.testing.strategy import StrategyContract, make_candidates, picked_by_models_in_turn

REQUEST = RouteRequest("r", "m", "/v1/chat/completions", b"{}")


def context() -> Context:
    return Context(logger=logging.getLogger("test"))


def fleet(*samples: EndpointStats) -> list[Candidate]:
    replicas = make_candidates(len(samples))
    for candidate, stats in zip(replicas, samples, strict=True):
        candidate.set_stats(stats)
    return replicas


def missing(context: Context) -> float:
    [family] = [family for family in context.metrics.snapshot() if family.name == "nebula_strategy_least_kv_missing_total"]
    return sum(sample.value for sample in family.samples)


class TestContract(StrategyContract):
    def make_strategy(self):
        [provider] = nebula_register_strategies()
        return provider.build(context(), PluginSettings())


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=40))
def test_the_fewest_bytes_win(used):
    replicas = fleet(*(EndpointStats(kv_cache_used_bytes=value) for value in used))
    pick = LeastKv(context()).select(REQUEST, replicas)
    assert pick.candidate.stats.kv_cache_used_bytes == min(used)


def test_shares_are_compared_where_one_engine_knows_no_bytes():
    replicas = fleet(EndpointStats(kv_cache_usage=0.5, kv_cache_used_bytes=1.0), EndpointStats(kv_cache_usage=0.2))
    assert LeastKv(context()).select(REQUEST, replicas).candidate is replicas[1]


def test_equally_used_caches_go_by_load():
    replicas = fleet(EndpointStats(kv_cache_usage=0.0), EndpointStats(kv_cache_usage=0.0))
    replicas[0].charge()
    assert LeastKv(context()).select(REQUEST, replicas).candidate is replicas[1]


@pytest.mark.parametrize("sizes", [(2, 2), (2, 1), (4, 2)])
def test_the_equals_of_each_model_take_turns_by_themselves(sizes):
    picked = picked_by_models_in_turn(LeastKv(context()), sizes, EndpointStats(kv_cache_usage=0.5))
    assert picked == {(number, str(replica)): 12 // size for number, size in enumerate(sizes) for replica in range(size)}


def test_the_cache_counts_also_where_engines_do_not_say_what_runs():
    replicas = fleet(EndpointStats(kv_cache_usage=0.9), EndpointStats(kv_cache_usage=0.1))
    for candidate in (replicas[0], replicas[1], replicas[1]):
        candidate.charge()
    assert LeastKv(context()).select(REQUEST, replicas).candidate is replicas[1]


def test_a_burst_between_two_samples_does_not_pile_up():
    replicas = fleet(*(EndpointStats(kv_cache_usage=usage, running=4, pending=0) for usage in (0.30, 0.32, 0.34)))
    strategy, picked = LeastKv(context()), []
    for candidate in replicas:
        candidate.set_charged_elsewhere(4)
    for _ in range(12):
        candidate = strategy.select(REQUEST, replicas).candidate
        candidate.charge()
        picked.append(candidate.route.replica_id)
    assert {picked.count(name) for name in "012"} <= {3, 4, 5}


def test_a_replica_without_the_signal_hands_over_and_says_so_once(caplog):
    replicas, ctx = fleet(EndpointStats(kv_cache_usage=0.5), EndpointStats(pending=1, running=1)), context()
    strategy = LeastKv(ctx)
    assert [strategy.select(REQUEST, replicas) for _ in range(3)] == [None, None, None]
    assert missing(ctx) == 3
    assert [record.getMessage() for record in caplog.records if "replica 1 of m" in record.getMessage()] == [caplog.messages[0]]
