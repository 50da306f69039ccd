"""Each rule on an example that can be checked on paper."""

import random
from collections.abc import Sequence

import pytest
from nebula_engine_sim import FcfsEngine, Job
from nebula_simulate.baselines import BASELINES
from nebula_simulate.scene import Scene

from nebula_core import Candidate, PrefixBlocks, Route, RouteEvent, RouteRequest, Strategy
from nebula_core.testing.strategy import StrategyContract

BLOCK = 2048


class Stage:
    """One strategy, some replicas, and a clock that is set by hand."""

    def __init__(self, name: str, replicas: int = 3) -> None:
        self.now = 0.0
        self.engines = {str(i): FcfsEngine(block_size=512, capacity_blocks=100, tokens_per_s=512) for i in range(replicas)}
        self.jobs: dict[str, Job] = {}
        self.strategy: Strategy = BASELINES[name](Scene(lambda: self.now, random.Random(1), self.engines, self.jobs))
        self.candidates = [
            Candidate(Route(model_uid="m", replica_id=str(i), assignment_version="a", incarnation=1, url="")) for i in range(replicas)
        ]

    def pick(self, blocks: Sequence[int], name: str = "r") -> str:
        self.jobs[name] = Job(name, tuple(blocks), max(1, len(blocks) * 512), 1)
        pick = self.strategy.select(RouteRequest(name, "m", "", b"", prefix(blocks)), self.candidates)
        assert pick is not None
        return pick.candidate.route.replica_id

    def event(self, kind: str, replica: int, blocks: Sequence[int] | None = None, name: str = "r") -> None:
        self.strategy.observe(
            RouteEvent(
                kind=kind,
                model_uid="m",
                replica_id=str(replica),
                incarnation=1,
                request_id=name,
                at=self.now,
                prefix_blocks=None if blocks is None else prefix(blocks),
            )
        )

    def load(self, *charged: int) -> None:
        for candidate, count in zip(self.candidates, charged, strict=True):
            candidate.charged = count


def prefix(blocks: Sequence[int]) -> PrefixBlocks:
    return PrefixBlocks(tuple(blocks), (BLOCK,) * len(blocks), BLOCK * len(blocks))


@pytest.mark.parametrize("name", [name for name in BASELINES if "oracle" not in name])
class TestContract(StrategyContract):
    @pytest.fixture(autouse=True)
    def _named(self, name):
        self.name = name

    def make_strategy(self):
        return Stage(self.name).strategy


def test_round_robin_takes_one_after_the_other():
    stage = Stage("round_robin")
    assert [stage.pick([]) for _ in range(4)] == ["0", "1", "2", "0"]


def test_random_takes_each_as_often():
    stage = Stage("random")
    picks = [stage.pick([]) for _ in range(3000)]
    assert all(900 < picks.count(name) < 1100 for name in "012")


def test_sglang_follows_a_match_of_more_than_three_tenths_to_the_replica_that_had_it_last():
    stage = Stage("sglang")
    stage.event("charged", 0, [1, 2, 3])
    stage.event("charged", 2, [1, 2, 3])
    stage.load(1, 0, 9)
    assert stage.pick([1, 2, 3, 4]) == "2"
    assert stage.pick([1, 2, 3, *range(10, 17)]) == "1"  # three tenths are not more than three tenths


def test_sglang_drops_all_affinity_while_loads_are_uneven():
    stage = Stage("sglang")
    stage.event("charged", 2, [1, 2, 3])
    stage.load(1, 5, 65)
    assert stage.pick([1, 2, 3]) == "2"
    stage.load(1, 5, 66)
    assert stage.pick([1, 2, 3]) == "0"


def test_sglang_gives_equals_to_the_one_that_had_the_fewest():
    stage = Stage("sglang")
    stage.event("charged", 0, [1])
    assert stage.pick([5]) == "1"


def test_sglang_trims_its_tree_every_minute_from_the_ends_of_what_was_sent_first():
    stage = Stage("sglang")
    blocks = list(range(2**26 // BLOCK + 1))
    stage.event("charged", 2, blocks)
    stage.now = 61.0
    stage.load(0, 0, 5)
    assert stage.pick(blocks[-1:]) == "0"
    assert stage.pick(blocks[:3]) == "2"


def test_aibrix_takes_the_longest_match_that_is_not_too_busy():
    stage = Stage("aibrix", replicas=8)
    stage.event("charged", 0, [1, 2, 3, 4])
    stage.event("charged", 1, [1, 2])
    assert stage.pick([1, 2, 3, 4]) == "0"
    stage.load(9, 1, 0, 1, 1, 1, 1, 1)  # mean 1.875, deviation 2.9: at most 7.7
    assert stage.pick([1, 2, 3, 4]) == "1"


def test_aibrix_looks_at_the_least_loaded_alone_while_loads_are_uneven():
    stage = Stage("aibrix")
    stage.event("charged", 1, [1, 2])
    stage.load(17, 1, 0)
    assert stage.pick([1, 2]) == "2"
    stage.load(16, 1, 0)
    assert stage.pick([1, 2]) == "1"


def test_aibrix_forgets_after_twenty_minutes_and_beyond_its_table():
    stage = Stage("aibrix")
    stage.event("charged", 1, [1, 2])
    stage.load(0, 3, 4)
    stage.now = 1199.0
    assert stage.pick([1, 2]) == "1"
    stage.now = 1200.0
    assert stage.pick([1, 2]) == "0"
    stage.event("charged", 1, [1, 2])
    stage.event("charged", 2, range(100, 100 + 12_500))  # the table holds 200,000 × 128 bytes
    assert stage.pick([1, 2]) == "0"


def test_dynamo_adds_up_the_prefill_and_the_decode_blocks():
    stage = Stage("dynamo", replicas=2)
    stage.event("charged", 0, [1, 2, 3, 4], "a")
    # Replica 0: prefill 4 + 5 - 4, decode 4 + 5, 14 in all. Replica 1: 5 and 5.
    assert stage.pick([1, 2, 3, 4, 5]) == "1"
    stage.event("first_token", 0, name="a")  # 1 and 9: equal
    assert {stage.pick([1, 2, 3, 4, 5]) for _ in range(30)} == {"0", "1"}
    stage.event("finished", 0, name="a")
    assert stage.pick([1, 2, 3, 4, 5]) == "0"


def test_dynamo_believes_in_a_cache_for_two_minutes():
    stage = Stage("dynamo", replicas=2)
    stage.event("charged", 1, [1, 2], "a")
    stage.event("finished", 1, name="a")
    stage.now = 119.0
    assert {stage.pick([1, 2]) for _ in range(30)} == {"1"}
    stage.now = 120.0
    assert {stage.pick([1, 2]) for _ in range(30)} == {"0", "1"}


def test_the_oracle_weighs_the_true_queue_against_the_true_cache():
    one, three = Stage("oracle", replicas=2), Stage("oracle3", replicas=2)
    for stage in (one, three):
        stage.engines["0"].submit(Job("a", (1, 2, 3, 4), 4 * 512, 1), 0.0)  # busy for 4 s
    assert {one.pick([1, 2, 3, 4, 5, 6]) for _ in range(30)} == {"0", "1"}  # 4 + 2 s against 6
    assert three.pick([1, 2, 3, 4, 5, 6]) == "0"  # 4 + 6 against 18
    for stage in (one, three):
        stage.now = 1.0
        stage.engines["1"].submit(Job("b", (7,), 512, 1), 1.0)
    assert one.pick([1, 2, 3]) == "0"
    for stage in (one, three):
        stage.engines["0"].submit(Job("c", tuple(range(20, 26)), 6 * 512, 1), 1.0)  # 9 s in all
    assert one.pick([1, 2, 3]) == "1"  # 1 + 3 against 9
    assert three.pick([1, 2, 3]) == "0"  # 1 + 9 against 9


def test_no_baseline_can_serve():
    from nebula_core.plugins import load

    assert not set(BASELINES) & set(load().names("strategy"))
