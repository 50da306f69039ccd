"""`make bench-routing` on a trace of its size's opposite: what it writes, that it goes on where it was, and what it lacks."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench" / "routing.py"
SCALING = BENCH.with_name("scaling.py")


def bench(*arguments, file=BENCH):
    return subprocess.run([sys.executable, file, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_it_writes_tables_and_targets_and_computes_nothing_twice(tmp_path):
    folder = tmp_path / "mooncake"
    folder.mkdir()
    rows = [
        {"timestamp": 900 * n, "input_length": 4096, "output_length": 5, "hash_ids": [n % 5, *range(10 * n, 10 * n + 7)]} for n in range(40)
    ]
    (folder / "conversation_trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ["--traces", tmp_path, "--out", tmp_path / "out", "--quick", "--only", "mooncake-fcfs-8"]

    first = bench(*run)
    assert first.returncode == 0, first.stderr
    assert "mooncake-fcfs-8: 44 simulations" in first.stderr
    assert (tmp_path / "out" / "routing.md").read_text().strip() == first.stdout.strip()
    for said in ("| **prefix** |", "at most 1.02 × the best rival's", "at most 1.05 × the oracle's", "at most 0.21 × round robin's P99"):
        assert said in first.stdout
    assert "not computed yet" in first.stdout

    again = bench(*run)
    assert again.stdout == first.stdout
    assert "mooncake-fcfs-8: 0 simulations" in again.stderr

    kept = tmp_path / "out" / "mooncake-fcfs-8.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:-3]) + lines[-3][:40])  # killed while it wrote
    changed = bench(*run, "--again", "prefix")
    assert changed.stdout == first.stdout
    assert "mooncake-fcfs-8: 6 simulations" in changed.stderr


def test_it_tells_where_traces_are_to_be_had(tmp_path):
    done = bench("--traces", tmp_path, "--out", tmp_path / "out", "--quick")
    assert done.returncode == 1
    assert "there is no mooncake/conversation_trace.jsonl in" in done.stderr
    assert "https://github.com/kvcache-ai/Mooncake" in done.stderr


def test_a_scaling_scenario_without_its_trace_is_left_out_and_told(tmp_path):
    done = bench("--traces", tmp_path, "--out", tmp_path / "out", "--quick", "--only", "azure-120", file=SCALING)
    assert done.returncode == 0
    assert "azure-120 is left out: there is no azure/AzureLLMInferenceTrace_conv.csv in" in done.stderr
    assert "https://github.com/Azure/AzurePublicDataset" in done.stderr
    assert (tmp_path / "out" / "scaling.md").read_text().count("not computed") == 3


def test_a_scaling_scenario_ends_with_its_targets(tmp_path):
    folder = tmp_path / "azure"
    folder.mkdir()
    lines = [f"2023-11-16 18:{second // 60:02}:{second % 60:02}.0000000,1000,100" for second in range(600)]
    (folder / "AzureLLMInferenceTrace_conv.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    done = bench("--traces", tmp_path, "--out", tmp_path / "out", "--quick", "--only", "azure-120", file=SCALING)
    assert done.returncode == 0, done.stderr
    for said in (
        "600 requests",
        "| **slo** |",
        "| clairvoyant |",
        "no failed request: held",
        "× the clairvoyant's GPU-hours",
        "neither baseline",
    ):
        assert said in done.stdout
