"""The strategy in virtual time, on a made-up trace of conversations: its rank among the baselines, not its figures."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

RANK = Path(__file__).parent.parent / "bench" / "rank.py"
STRATEGIES = "round_robin,least_pending,oracle,prefix"


def write_trace(path: Path) -> None:
    """Conversations that share a system prompt of one block, each with a turn of some blocks every 20 seconds or so."""
    rng, fresh, rows = random.Random(4), iter(range(1, 10**9)), []
    for _ in range(150):
        at, prompt = rng.uniform(0, 500), [0]
        for _ in range(rng.randrange(1, 9)):
            prompt = [*prompt, *(next(fresh) for _ in range(rng.randrange(1, 12)))]
            rows.append({"timestamp": int(at * 1000), "input_length": len(prompt) * 512, "output_length": 1, "hash_ids": prompt})
            at += rng.uniform(5, 40)
    path.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: row["timestamp"])))


def rank(trace: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RANK), str(trace), "--replicas", "4", "--blocks", "1500", "--json", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    write_trace(path)
    return path


@pytest.mark.parametrize("load", [0.5, 1.0, 1.5])
def test_first_tokens_come_sooner_than_by_load_alone_and_nearly_as_soon_as_an_oracle_could(trace, load):
    rows = {row["strategy"]: row for row in map(json.loads, rank(trace, "--loads", str(load)).stdout.splitlines())}
    for quantile in ("ttft_mean_s", "ttft_p50_s", "ttft_p90_s", "ttft_p99_s"):
        assert rows["prefix"][quantile] < rows["least_pending"][quantile]
        assert rows["prefix"][quantile] < rows["round_robin"][quantile]
    assert rows["prefix"]["ttft_mean_s"] < 1.1 * rows["oracle"]["ttft_mean_s"]


def test_gateways_that_exchange_events_route_nearly_as_well_as_one(trace):
    one, four = (
        json.loads(rank(trace, "--loads", "1", "--strategies", "prefix", "--gateways", gateways).stdout) for gateways in ("1", "4")
    )
    assert four["token_hit_rate"] > 0.9 * one["token_hit_rate"]
    assert four["ttft_mean_s"] < 1.15 * one["ttft_mean_s"]


def test_without_shared_prefixes_nothing_is_lost_against_load_alone(trace):
    rows = [
        json.loads(line) for line in rank(trace, "--distinct", "--loads", "0.3", "--strategies", "least_pending,prefix").stdout.splitlines()
    ]
    assert rows[1]["ttft_mean_s"] < 1.02 * rows[0]["ttft_mean_s"]


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 1, "hash_ids": []}\n{"timestamp": 0}\n')
    assert "trace.jsonl, line 2: KeyError('input_length')" in rank(path).stderr
