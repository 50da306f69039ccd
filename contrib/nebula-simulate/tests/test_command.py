"""`nebula simulate` as its user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from nebula_simulate import nebula_add_cli
from typer.testing import CliRunner

from nebula_core import NebulaError

NEBULA = Path(sys.executable).parent / "nebula"


@pytest.fixture
def trace(tmp_path):
    rows = [{"timestamp": 500 * n, "input_length": 1024 + n, "output_length": 5, "hash_ids": [n % 3, 10 + n % 7, n]} for n in range(60)]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def simulate(*arguments):
    return subprocess.run([NEBULA, "simulate", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_a_table_a_document_and_a_page_come_of_one_run(trace, tmp_path):
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    done = simulate(
        *("--trace", trace, "--replicas", 2, "--load", "0.5,2", "--strategy", "prefix", "--strategy", "oracle", "--seeds", 2),
        *("--json", out, "--plot", page),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("prefix") == 2
    rows = json.loads(out.read_text())
    assert [(row["strategy"], row["load"]) for row in rows] == [("prefix", 0.5), ("oracle", 0.5), ("prefix", 2.0), ("oracle", 2.0)]
    for row in rows:
        assert row["requests"] == 60
        assert row["ttft_p50_s"] <= row["ttft_p90_s"] <= row["ttft_p99_s"]
        assert len(row["seeds"]["token_hit_rate"]) == 2
        assert row["parameters"]["replicas"] == 2
    assert page.read_text().count("<svg") == 6
    assert "http" not in page.read_text()


def test_the_document_can_go_to_standard_output(trace):
    done = simulate("--trace", trace, "--model", "fcfs", "--set", "tokens_per_s=500", "--seeds", 1, "--jobs", 1, "--json", "-")
    assert {row["strategy"] for row in json.loads(done.stdout)} == {"prefix", "least_pending", "round_robin"}


def test_a_fleet_that_is_scaled_comes_as_a_table_a_document_and_a_page(tmp_path):
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    done = simulate(
        *("--autoscale", "slo,load,clairvoyant", "--steps", "2,9", "--step-s", 90, "--boot-s", 20, "--max", 3, "--gpus", 2),
        *("--json", out, "--plot", page),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 to 3 replicas" in " ".join(done.stdout.split())
    rows = json.loads(out.read_text())
    assert [row["autoscale"] for row in rows] == ["slo", "load", "clairvoyant"]
    for row in rows:
        assert row["failed"] == 0
        assert max(row["course"]["wanted"]) <= 3
        assert row["parameters"]["gpus_per_replica"] == 2
        assert row["parameters"]["engine"]["max_sequences"] == 256
    assert page.read_text().count("<svg") == 2
    assert "http" not in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--autoscale needs a load: name a trace with --trace, or rates with --steps"),
        (["--steps", "1,x"], "--steps: could not convert string to float: 'x'"),
        (["--steps", "0"], "--steps: a rate is above 0"),
        (["--steps", "1", "--tokens", "5"], "--tokens 5: give two means"),
        (["--steps", "1", "--step-s", "30", "--min", "3", "--max", "2"], "--min 3: more than the most, 2"),
        (["--steps", "1", "--strategy", "prefix"], "--strategy: does not count with --autoscale"),
        (["--steps", "1", "--replicas", "8"], "--replicas: does not count with --autoscale"),
        (["--steps", "1", "--trace", "a.jsonl"], "--trace: does not count with --steps"),
        (["--trace", "a.jsonl", "--step-s", "5"], "--step-s: counts with --steps alone"),
        (["--steps", "1", "--load", "1,2"], "--load: with --autoscale there is one at a time"),
        (["--steps", ","], "--steps: names nothing"),
        (["--steps", "1,2", "--boot-s", "0"], "--boot-s 0: each step would last 3 times that; say with --step-s how long"),
        (["--steps", "1", "--set", "max_sequences=0"], "max_sequences is a whole number, 1 to"),
        (["--steps", "1", "--set", "max_batched_tokens=0"], "max_batched_tokens is a whole number, 1 to"),
        (["--steps", "1", "--set", "max_batched_tokens=8"], "the steps engine cannot be made"),
        (["--steps", "1", "--set", "step_s=-1"], "step_s is a number of seconds"),
        (["--trace", "/nowhere.csv", "--format", "servegen"], "/nowhere.csv: no folder of ServeGen's"),
        (["--steps", "1", "--step-s", "30", "--tokens", "60000,60000", "--kv-tokens", "512"], "there is no request in it that a replica"),
    ],
)
def test_what_cannot_be_scaled_is_told(arguments, said):
    cli = typer.Typer()
    nebula_add_cli(cli)
    told = CliRunner().invoke(cli, ["--autoscale", "slo", *arguments]).exception
    assert isinstance(told, NebulaError)
    assert said in str(told)


def test_a_name_that_is_no_policy_is_told_with_those_that_are():
    cli = typer.Typer()
    nebula_add_cli(cli)
    told = CliRunner().invoke(cli, ["--autoscale", "best", "--steps", "1"]).exception
    assert "--autoscale best: there is none of that name. Installed: load, slo; to compare with: fixed, clairvoyant, hpa, apa" in str(told)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--strategy", "best"], "--strategy best: there is none of that name. Installed: hit_rate, least_kv, least_pending, prefix"),
        (["--load", "1,x"], "--load x: not a number"),
        (["--load", "0"], "--load 0: a load is 0.001 to 1000"),
        (["--set", "speed=3"], "--set speed=3: the model steps has no speed (it has: max_batched_tokens"),
        (["--set", "step_s=fast"], "'fast' is not a number"),
        (["--set", "step_s=nan"], "--set step_s=nan: step_s is a number of seconds, 0 to 1000"),
        (["--set", "step_s=inf"], "step_s is a number of seconds"),
        (["--set", "step_s=0"], "step_s has to be above 0"),
        (["--set", "max_sequences=inf"], "--set max_sequences=inf: max_sequences is a whole number, 1 to 1000000000"),
        (["--set", "max_sequences=1.9"], "max_sequences is a whole number"),
        (["--set", "max_sequences=9000"], "the steps engine cannot be made"),
        (["--model", "fcfs", "--set", "tokens_per_s=nan"], "tokens_per_s is a number, 1 to"),
        (["--plot", "/nowhere/page.html"], "/nowhere/page.html: there is no such folder"),
        (["--plot", "-"], "--plot -: a page does not go to standard output"),
        (["--plot", "out", "--json", "./out"], "--json and --plot: both name out"),
        (["--load", ","], "--load: names nothing"),
        (["--strategy", ""], "--strategy: names nothing"),
        (["--boot-s", "120"], "--boot-s: counts with --autoscale alone"),
        (["--steps", "1,2"], "--steps: counts with --autoscale alone"),
        (["--kv-tokens", "512"], "no request was replayed: none of them fits a replica with 512 tokens of KV cache"),
        (["--settings", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_simulated(trace, arguments, said):
    cli = typer.Typer()
    nebula_add_cli(cli)
    told = CliRunner().invoke(cli, ["--trace", str(trace), *arguments]).exception
    assert isinstance(told, NebulaError)
    assert said in str(told)


def test_a_broken_line_is_named(trace):
    trace.write_text(trace.read_text() + "{}\n")
    done = simulate("--trace", trace)
    assert done.returncode == 1
    assert f"{trace}, line 61: " in done.stderr
