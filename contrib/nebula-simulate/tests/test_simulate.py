"""Whole simulations on a small made-up trace: their ranking and their laws, not their figures."""

import json
import random

import pytest
from nebula_simulate.errors import SimulationError
from nebula_simulate.fleet import Fleet
from nebula_simulate.runs import Run, Setup, runs, simulate, simulate_all

QUANTILES = ("ttft_mean_s", "ttft_p50_s", "ttft_p90_s", "ttft_p99_s")


def conversations(path, count=150):
    """They share a system prompt of one block, and each has a turn of some blocks every 20 seconds or so."""
    rng, fresh, rows = random.Random(4), iter(range(1, 10**9)), []
    for _ in range(count):
        at, prompt = rng.uniform(0, 500), [0]
        for _ in range(rng.randrange(1, 9)):
            prompt = [*prompt, *(next(fresh) for _ in range(rng.randrange(1, 12)))]
            rows.append({"timestamp": int(at * 1000), "input_length": len(prompt) * 512, "output_length": 20, "hash_ids": prompt})
            at += rng.uniform(5, 40)
    path.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: row["timestamp"])))
    return path


def agents(path):
    """Each turn repeats what was said and adds a block of 512 tokens."""
    rows = []
    for _ in range(10):
        turns = [{"t": 8.0 * n, "type": "n", "in": 512 * n, "out": 30, "hash_ids": list(range(1, 8 * n + 1))} for n in range(1, 21)]
        rows.append({"block_size": 64, "requests": [{**turn, "api_time": 2.0, "think_time": 6.0} for turn in turns]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    path = conversations(tmp_path_factory.mktemp("trace") / "trace.jsonl")
    return Setup(path, "mooncake", Fleet(4, "fcfs", kv_tokens=1500 * 512))


def with_(setup, **changes):
    return Setup(**{**vars(setup), **changes})


@pytest.mark.parametrize("model", ["fcfs", "steps"])
def test_who_knows_more_answers_sooner(setup, model):
    setup = with_(setup, fleet=Fleet(4 if model == "fcfs" else 2, model, kv_tokens=1500 * 512))
    random_, pending, prefix, oracle = (simulate(setup, Run(1.0, name, 0)) for name in ("random", "least_pending", "prefix", "oracle3"))
    for quantile in ("ttft_mean_s", "ttft_p90_s"):
        assert prefix[quantile] < pending[quantile] < random_[quantile]
    assert prefix["token_hit_rate"] > 1.2 * pending["token_hit_rate"]
    assert prefix["ttft_mean_s"] < 1.1 * oracle["ttft_mean_s"]


def test_gateways_that_exchange_events_route_nearly_as_well_as_one(setup):
    one, four = (simulate(with_(setup, gateways=count), Run(1.0, "prefix", 0)) for count in (1, 4))
    deaf = simulate(with_(setup, gateways=4, event_delay_s=3600.0), Run(1.0, "prefix", 0))
    assert four["token_hit_rate"] > 0.9 * one["token_hit_rate"]
    assert four["ttft_mean_s"] < 1.15 * one["ttft_mean_s"]
    assert deaf["token_hit_rate"] < 0.9 * four["token_hit_rate"]


def test_without_shared_prefixes_nothing_is_lost_against_load_alone(setup):
    pending, prefix = (simulate(with_(setup, distinct=True), Run(0.3, name, 0)) for name in ("least_pending", "prefix"))
    assert pending["token_hit_rate"] == prefix["token_hit_rate"] == 0
    assert prefix["ttft_mean_s"] < 1.02 * pending["ttft_mean_s"]


@pytest.mark.parametrize("name", ["prefix", "aibrix"])
def test_a_seed_decides_everything(setup, name):
    first, again, other = (simulate(with_(setup, gateways=2), Run(1.0, name, seed)) for seed in (3, 3, 4))
    for figures in (first, again, other):
        del figures["took_s"]
    assert first == again
    assert first != other


def test_processes_find_what_one_finds(setup):
    todo = runs(["least_pending", "round_robin"], [1.0], 2)
    alone, together = (dict(simulate_all(setup, todo, jobs)) for jobs in (1, 2))
    assert {run: figures["ttft_mean_s"] for run, figures in alone.items()} == {run: one["ttft_mean_s"] for run, one in together.items()}


def test_a_higher_load_is_the_same_work_in_less_time(setup):
    light, heavy = (simulate(setup, Run(load, "round_robin", 0)) for load in (0.5, 1.5))
    assert light["requests"] == heavy["requests"]
    assert heavy["ttft_mean_s"] > light["ttft_mean_s"]


def test_agents_wait_for_an_answer_before_they_ask_on(tmp_path):
    setup = Setup(agents(tmp_path / "agents.jsonl"), "weka", Fleet(2, "fcfs", parameters={"tokens_per_s": 1.0}), clients=4, duration_s=1200)
    figures = simulate(setup, Run(1.0, "least_pending", 0))
    assert figures["requests"] < 4 * 20  # an engine that slow answers few, and an agent has one question at a time
    assert figures["ttft_p99_s"] < 4 * 20 * 512 / 1.0


def test_sessions_share_nothing_with_each_other_and_load_is_how_many_there_are(tmp_path):
    setup = Setup(agents(tmp_path / "agents.jsonl"), "weka", Fleet(2, "fcfs"), clients=4, duration_s=700)
    one, two = (simulate(setup, Run(load, "prefix", 0)) for load in (1.0, 2.0))
    assert one["token_hit_rate"] == pytest.approx(0.9, abs=0.05)  # all but the last block of each prompt: 19 of 20 · 21 / 2 are new
    assert two["requests"] == pytest.approx(2 * one["requests"], rel=0.2)


def test_a_request_that_no_replica_can_hold_is_left_out_and_counted(setup):
    figures = simulate(with_(setup, fleet=Fleet(4, "steps", kv_tokens=30 * 512)), Run(0.5, "least_pending", 0))
    assert figures["refused"] > 0


def test_decisions_left_to_the_fallback_are_counted(setup):
    figures = simulate(setup, Run(1.0, "hit_rate", 0))
    assert 0 < figures["fallbacks"] < 50  # until the first samples hold a prompt


def test_an_engine_that_cannot_be_is_told(setup):
    with pytest.raises(SimulationError, match="the fcfs engine cannot be made"):
        simulate(with_(setup, fleet=Fleet(4, "fcfs", parameters={"tokens_per_s": 0.0})), Run(1.0, "random", 0))
