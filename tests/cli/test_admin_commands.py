"""`status`, `models` and `apply` against a real HTTP server that plays the admin API."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nebula_core.cli.status_view import view
from nebula_core.cli.waiting import GIVE_UP_S, Verdict, judge, starts

Run = Callable[..., subprocess.CompletedProcess[str]]
Admin = Any
"""The fixture `admin`: it plays the admin API."""
LAST_LINES = "the engine ended with code 1; its last lines:\nerror loading model\nexiting"


def replica(state: str = "ready", reason: str = "", incarnation: int = 1, version: str = "v1", **more: Any) -> dict[str, Any]:
    base = {
        "replica_id": "0",
        "node_id": "lab",
        "state": state,
        "reason": reason,
        "incarnation": incarnation,
        "assignment_version": version,
    }
    return base | {"url": "http://127.0.0.1:18000", "stats": None} | more


def model(*replicas: dict[str, Any], state: str = "ready", uid: str = "smollm2", wanted: int = 1, **more: Any) -> dict[str, Any]:
    ready = sum(one["state"] == "ready" for one in replicas)
    base = {"model_uid": uid, "engine": "llamacpp", "aliases": [], "state": state, "wanted": wanted, "ready": ready, "reasons": []}
    return base | {"strategy": "prefix", "routing": "", "replicas": list(replicas)} | more


def request(**changes: Any) -> dict[str, Any]:
    return {"model_uid": "m", "replicas": 1, "min_replicas": None, "max_replicas": None, "engine_args": {}} | changes


def status(*models: dict[str, Any], connected: bool = True) -> dict[str, Any]:
    node = {"node_id": "lab", "up": True, "address": "127.0.0.1", "engines": ["llamacpp"], "gpus": []}
    gateway = {"gateway_id": "lab:8080", "address": "127.0.0.1", "applied_revision": 7, "demand": {"smollm2": 2}}
    return {
        "models": list(models),
        "nodes": [node],
        "gateways": [gateway],
        "scheduler": "lab",
        "store": {"kind": "embedded", "connected": connected},
    }


def test_the_token_is_found_and_sent(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "status", status())
    nebula("status")
    assert admin.server.seen[0][2]["authorization"] == "Bearer sesame"


def test_status_shows_what_runs_and_how_busy_it_is(nebula: Run, admin: Admin) -> None:
    stats = {"running": 1.0, "pending": 0.0, "kv_cache_usage": 0.25}
    admin.on("GET", "status", status(model(replica(stats=stats), aliases=["tiny"])))
    lines = [line.split() for line in nebula("status").stdout.splitlines()]
    assert ["smollm2", "ready", "1/1", "llamacpp", "prefix", "tiny"] in lines
    assert ["0", "ready", "lab", "http://127.0.0.1:18000", "1", "running,", "0", "pending,", "KV", "cache", "25%"] in lines
    assert ["lab", "up", "127.0.0.1", "llamacpp", "none"] in lines
    assert ["lab:8080", "127.0.0.1", "2"] in lines


def test_status_says_under_the_row_why_something_is_not_ready(nebula: Run, admin: Admin) -> None:
    unplaced = model(uid="a/big", state="unplaced", reasons=["1 of 1 replicas cannot be placed: no node has a free GPU"])
    admin.on("GET", "status", status(unplaced, model(replica("unhealthy", LAST_LINES), state="failed")))
    lines = nebula("status").stdout.splitlines()
    assert lines[1].split() == ["a/big", "unplaced", "0/1", "llamacpp", "prefix"]
    assert lines[2] == "  1 of 1 replicas cannot be placed: no node has a free GPU"
    assert lines[3].split() == ["smollm2", "failed", "0/1", "llamacpp", "prefix"]
    assert lines[5:8] == [f"    {line}" for line in LAST_LINES.splitlines()]


def test_status_says_under_the_row_what_keeps_its_strategy_from_deciding(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "status", status(model(replica(), strategy="hit_rate", routing="hit_rate lacks a signal; least_pending decides")))
    assert nebula("status").stdout.splitlines()[2] == "  routing: hit_rate lacks a signal; least_pending decides"


def test_status_of_nothing_says_how_to_begin(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "status", status())
    assert "No models. `nebula models load MODEL --engine ENGINE` loads one." in nebula("status").stdout


def test_status_as_json_is_the_document_itself(nebula: Run, admin: Admin) -> None:
    document = status(model(replica()))
    admin.on("GET", "status", document)
    assert json.loads(nebula("status", "--json").stdout) == document


def test_a_store_that_does_not_answer_is_said_before_all_else() -> None:
    silent = status(connected=False)
    silent["store"] |= {"silent_since": 1_700_000_000.0, "read_at": 1_699_999_000.0, "never_read": ["/stats/"]}
    first, second, third, *_ = lines_of(silent)
    assert re.fullmatch(r"The embedded store does not answer since 2023-11-1\d .*: what follows is the last that was known\.", first)
    assert second.startswith("What this process does not follow itself was last read at 2023-11-1")
    assert third == "This process never read /stats/: what lies there is not shown."


def test_who_leads_is_shown_and_why_nobody_does() -> None:
    assert lines_of(status())[-2:] == ["SCHEDULER", "lab"]
    assert lines_of(status() | {"scheduler": None, "scheduler_problem": "somebody's note"})[-1] == "somebody's note"
    assert "`nebula scheduler` starts one" in lines_of(status() | {"scheduler": None})[-1]


def lines_of(document: dict[str, Any]) -> list[str]:
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(view(document))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_names_are_never_taken_for_markup() -> None:
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(view(status(model(replica("unhealthy", "[bold]x[/]"), uid="[red]m"))))
    assert "[red]m" in captured.get()
    assert "[bold]x[/]" in captured.get()


def test_without_a_nebula_the_message_says_how_to_start_one(nebula: Run) -> None:
    result = nebula("status")
    assert result.returncode == 1
    assert "`nebula up`" in result.stderr


def test_models_are_listed(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "models", {"models": [model(replica(), aliases=["tiny"]), model(uid="a/b", state="stopped", wanted=0)]})
    lines = [line.split() for line in nebula("models", "list").stdout.splitlines()]
    assert lines[1:] == [["smollm2", "ready", "1/1", "llamacpp", "prefix", "tiny"], ["a/b", "stopped", "0/0", "llamacpp", "prefix"]]


def test_a_model_is_loaded_with_its_engines_keys_and_waited_for(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "models", {"models": []})
    admin.on("PUT", "models/a%2Fb", {"model_uid": "a/b", "change": "created"}, status=201)
    admin.on("GET", "models/a%2Fb", model(replica("starting"), state="starting"), model(replica()))
    args = [
        "--engine",
        "e",
        "--source",
        "x.gguf",
        "--replicas",
        "2",
        "--alias",
        "c",
        "--alias",
        "d",
        "--set",
        "threads=2",
        "--set",
        "mode=fast",
    ]
    result = nebula("models", "load", "a/b", *args)
    assert admin.body("PUT") == {"engine": "e", "source": "x.gguf", "replicas": 2, "aliases": ["c", "d"], "threads": 2, "mode": "fast"}
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["a/b: starting", "a/b: ready", "Try: nebula chat a/b"]


def test_a_model_that_does_not_start_is_told_with_its_engines_last_lines(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "models", {"models": []})
    admin.on("PUT", "models/m", {"model_uid": "m", "change": "created"})
    admin.on("GET", "models/m", model(replica("starting"), state="starting"), model(replica("unhealthy", LAST_LINES), state="failed"))
    result = nebula("models", "load", "m", "--engine", "e", "--json")
    assert (result.returncode, result.stdout) == (1, "")
    assert f'error: the model "m" does not start: {LAST_LINES}' in result.stderr
    assert "`nebula models unload m`" in result.stderr


def test_a_change_that_does_not_start_names_the_way_back(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "models", {"models": [model(replica(), uid="m")]})
    admin.on("PUT", "models/m", {"model_uid": "m", "change": "updated"})
    admin.on("GET", "models/m", model(replica(), replica("unhealthy", LAST_LINES, replica_id="1", version="v2"), uid="m"))
    result = nebula("models", "load", "m", "--engine", "e")
    assert "`nebula models rollback m` takes back the last change of its arguments, `nebula models unload m` ends that." in result.stderr


def test_loading_without_waiting_says_what_became_of_the_request(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "models", {"models": []})
    admin.on("PUT", "models/m", {"model_uid": "m", "change": "updated"})
    assert nebula("models", "load", "m", "--engine", "e", "--no-wait").stdout == "updated: `nebula status` shows how it gets on\n"


def test_what_the_admin_api_refuses_is_one_message(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "models", {"models": []})
    admin.on(
        "PUT", "models/m", {"error": {"message": 'the model "m": the engine "e" is not installed', "type": "x", "code": "y"}}, status=400
    )
    result = nebula("models", "load", "m", "--engine", "e")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", 'error: the model "m": the engine "e" is not installed\n')


@pytest.mark.parametrize("assignment", ["threads", "=2"])
def test_a_key_without_a_value_is_wrong_usage(nebula: Run, assignment: str) -> None:
    result = nebula("models", "load", "m", "--engine", "e", "--set", assignment)
    assert result.returncode == 2
    assert "is not KEY=VALUE" in result.stderr


def test_a_model_is_unloaded_and_waited_for(nebula: Run, admin: Admin) -> None:
    admin.on("DELETE", "models/m", {"model_uid": "m", "change": "deleted"})
    admin.on("GET", "models", {"models": [model(replica("draining"), uid="m", state="unloading")]}, {"models": []})
    result = nebula("models", "unload", "m")
    assert result.returncode == 0
    assert result.stdout.splitlines() == ["m: unloading", "m is unloaded"]


def test_a_model_is_scaled(nebula: Run, admin: Admin) -> None:
    admin.on("PATCH", "models/m", model(replica(), uid="m", wanted=3, request=request(replicas=3)))
    document = json.loads(nebula("models", "scale", "m", "3", "--json").stdout)
    assert admin.body("PATCH") == {"replicas": 3}
    assert document["wanted"] == 3


@pytest.mark.parametrize(
    ("options", "body", "numbers", "told"),
    [
        (["1", "--max", "0"], {"replicas": 1, "max_replicas": 0}, {}, "1 replica"),
        (["3", "--no-max"], {"replicas": 3, "max_replicas": None}, {"replicas": 3, "min_replicas": 2}, "3 replicas, at least 2"),
        (
            ["--no-min", "--max", "4"],
            {"min_replicas": None, "max_replicas": 4},
            {"replicas": 2, "max_replicas": 4},
            "1 to 4 replicas as load asks for, beginning with 2",
        ),
    ],
)
def test_numbers_and_bounds_are_set_and_lifted_at_run_time(
    nebula: Run, admin: Admin, options: list[str], body: dict[str, Any], numbers: dict[str, Any], told: str
) -> None:
    admin.on("PATCH", "models/m", model(uid="m", request=request(**numbers)))
    assert nebula("models", "scale", "m", *options).stdout == f"m shall have {told}: `nebula status` shows how it gets on\n"
    assert admin.body("PATCH") == body


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give a number of replicas, or --min, --max, --no-min or --no-max"),
        (["--max", "2", "--no-max"], "--max and --no-max contradict each other"),
        (["--min=-1"], "greater than or equal to 0"),
    ],
)
def test_scaling_to_nothing_that_makes_sense_is_wrong_usage(nebula: Run, options: list[str], message: str) -> None:
    result = nebula("models", "scale", "m", *options)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.replace("│", "").split())


def test_a_model_is_loaded_with_bounds(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "models", {"models": []})
    admin.on("PUT", "models/m", {"model_uid": "m", "change": "created"})
    nebula("models", "load", "m", "--engine", "e", "--min", "0", "--max", "3", "--no-wait")
    assert admin.body("PUT") == {"engine": "e", "min_replicas": 0, "max_replicas": 3}


def test_a_model_is_rolled_back_and_waited_for(nebula: Run, admin: Admin) -> None:
    now, earlier = request(engine_args={"threads": 2, "mode": "fast"}), request(engine_args={"threads": 1}, rolled_back_from="9f86")
    back = model(replica(version="v2"), uid="m", request=earlier)
    admin.on("GET", "models/m", model(replica("unhealthy", LAST_LINES), uid="m", request=now), back)
    admin.on("POST", "models/m/rollback", back)
    result = nebula("models", "rollback", "m")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["m goes back: threads 2 → 1, mode fast → not set", "m: ready", "m is back"]


def test_a_rollback_of_a_masked_secret_says_so(nebula: Run, admin: Admin) -> None:
    masked = request(engine_args={"api_key": "********"})
    admin.on("GET", "models/m", model(uid="m", request=masked))
    admin.on("POST", "models/m/rollback", model(uid="m", request=masked | {"rolled_back_from": "9f86"}))
    result = nebula("models", "rollback", "m", "--no-wait")
    assert result.stdout == "m goes back: a secret, which is not shown; `nebula status` shows how it gets on\n"


def test_a_rollback_that_does_not_start_says_why(nebula: Run, admin: Admin) -> None:
    admin.on("GET", "models/m", model(uid="m", request=request()), model(replica("unhealthy", LAST_LINES), uid="m", state="failed"))
    admin.on("POST", "models/m/rollback", model(uid="m", request=request()))
    result = nebula("models", "rollback", "m", "--json")
    assert (result.returncode, result.stdout) == (1, "")
    assert f'the model "m" does not start: {LAST_LINES}' in result.stderr


def test_why_there_are_so_many_replicas_is_said_under_the_model(nebula: Run, admin: Admin) -> None:
    scaling = "3 of 1 to 4 replicas; load: full; 2 → 3 30 s ago: fuller"
    scaled = model(replica(), scaling=scaling, scaling_inputs={"kv_cache_usage": 0.91234, "waiting": None})
    admin.on("GET", "models", {"models": [scaled]})
    admin.on("GET", "status", status(scaled))
    expected = [f"  scaling: {scaling}", "    kv_cache_usage 0.9123, waiting not known"]
    assert nebula("models", "list").stdout.splitlines()[2:] == expected
    assert nebula("status").stdout.splitlines()[2:4] == expected


def test_status_tells_replicas_that_are_replaced_from_those_that_replace_them() -> None:
    old, new = replica(replaced_by="1"), replica("starting", "the engine is starting", replica_id="1", replaces="0")
    lines = lines_of(status(model(old, new)))
    assert lines[3] == "    replica 1 replaces it once that is ready"
    assert lines[5:7] == ["    the engine is starting", "    it replaces replica 0, which serves until it is ready"]


def test_apply_sends_the_files_models_as_they_are_written(nebula: Run, admin: Admin, tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text(
        '[[models]]\nmodel_uid = "m"\nengine = "e"\nthreads = 2\n[[models]]\nmodel_uid = "n"\nengine = "e"\n'
    )
    admin.on("POST", "apply", {"models": [{"model_uid": "m", "change": "created"}, {"model_uid": "n", "change": "unchanged"}]})
    result = nebula("apply", "more.toml", "--settings", "settings.toml")
    assert admin.body("POST") == {"models": [{"model_uid": "m", "engine": "e", "threads": 2}, {"model_uid": "n", "engine": "e"}]}
    assert [line.split() for line in result.stdout.splitlines()] == [["m", "created"], ["n", "unchanged"]]


def test_apply_without_a_file_sends_the_settings_own_models(nebula: Run, admin: Admin, tmp_path: Path) -> None:
    with (tmp_path / "settings.toml").open("a") as settings:
        settings.write('[[models]]\nmodel_uid = "m"\nengine = "e"\n')
    admin.on("POST", "apply", {"models": [{"model_uid": "m", "change": "created"}]})
    assert json.loads(nebula("apply", "--json").stdout) == {"models": [{"model_uid": "m", "change": "created"}]}


def test_applying_no_models_is_an_error(nebula: Run, admin: Admin) -> None:
    result = nebula("apply")
    assert result.returncode == 1
    assert "there are no [[models]] to apply" in result.stderr


NOTHING = starts(None)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (model(replica()), Verdict(done=True)),
        (model(wanted=0, state="stopped"), Verdict(done=True)),
        (model(replica("starting"), state="starting"), Verdict()),
        (model(state="unplaced"), Verdict()),
        (model(replica("unhealthy", "code 1"), state="failed"), Verdict(failure="code 1")),
    ],
)
def test_a_model_is_judged_by_its_replicas(seen: dict[str, Any], expected: Verdict) -> None:
    assert judge(seen, NOTHING, unplaced_s=0) == expected


def test_an_old_replica_that_still_serves_is_not_the_end_of_an_update() -> None:
    seen = model(replica(), replica("starting", replica_id="1", version="v2"))
    assert judge(seen, NOTHING, unplaced_s=0) == Verdict()


def test_a_draining_replica_does_not_count() -> None:
    assert judge(model(replica("draining"), replica(replica_id="1")), NOTHING, unplaced_s=0).done


def test_a_failure_from_before_is_old_news_and_its_next_one_is_not() -> None:
    before = model(replica("unhealthy", "code 1", incarnation=3), state="failed")
    assert judge(before, starts(before), unplaced_s=0) == Verdict()
    assert judge(model(replica("unhealthy", "code 1", incarnation=4)), starts(before), unplaced_s=0).failure


def test_a_model_without_a_place_is_given_up_after_a_while() -> None:
    seen = model(state="unplaced", reasons=["no node is up"])
    assert judge(seen, NOTHING, GIVE_UP_S).failure == "no node is up"
