import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_least_pending import LeastPending, nebula_register_strategies

from nebula_core import Candidate, Context, PluginSettings, Route, RouteRequest
from nebula_core.testing.strategy import StrategyContract, picked_by_models_in_turn

REQUEST = RouteRequest("r", "m", "/v1/chat/completions", b"{}")


def fleet(loads: list[int]) -> list[Candidate]:
    replicas = [
        Candidate(Route(model_uid="m", replica_id=str(i), assignment_version="a", incarnation=1, url="")) for i in range(len(loads))
    ]
    for candidate, load in zip(replicas, loads, strict=True):
        candidate.set_charged_elsewhere(load)
    return replicas


class TestContract(StrategyContract):
    def make_strategy(self):
        [provider] = nebula_register_strategies()
        return provider.build(Context(logger=logging.getLogger("test")), PluginSettings())


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(0, 100))
def test_nobody_has_less_to_do_than_the_pick(loads, turns):
    strategy, replicas = LeastPending(), fleet(loads)
    for _ in range(turns + 1):
        pick = strategy.select(REQUEST, replicas)
    assert pick.candidate.load == min(loads)


def test_equals_take_turns():
    strategy, replicas = LeastPending(), fleet([0, 0, 0])
    picked = [strategy.select(REQUEST, replicas).candidate.route.replica_id for _ in range(6)]
    assert sorted(picked) == ["0", "0", "1", "1", "2", "2"]


@pytest.mark.parametrize("sizes", [(2, 2), (2, 1), (4, 2)])
def test_the_equals_of_each_model_take_turns_by_themselves(sizes):
    picked = picked_by_models_in_turn(LeastPending(), sizes)
    assert picked == {(number, str(replica)): 12 // size for number, size in enumerate(sizes) for replica in range(size)}


def test_load_from_elsewhere_and_from_other_clients_counts():
    strategy, replicas = LeastPending(), fleet([1, 0, 1])
    replicas[1].foreign = 5.0
    assert {strategy.select(REQUEST, replicas).candidate.route.replica_id for _ in range(4)} == {"0", "2"}
