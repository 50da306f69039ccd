"""`nebula nodes` against a real HTTP server that plays the admin API."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Admin = Any
"""The fixture `admin`: it plays the admin API."""
GIB = 2**30
STUCK = {"model_uid": "org/m", "replica_id": "0", "state": "ready", "reason": "it cannot move: no other node is up"}


def node(name: str = "a", up: bool = True, **more: Any) -> dict[str, Any]:
    base = {"node_id": name, "up": up, "address": "10.0.0.1" if up else "", "engines": ["vllm"] if up else [], "labels": {}, "gpus": []}
    return base | {"cordoned": False, "drained": False, "given_up": False, "replicas": [], "assigned": []} | more


def gpu(index: int, **more: Any) -> dict[str, Any]:
    return {"index": index, "name": "H200", "memory_total_bytes": 140 * GIB, "memory_used_bytes": 20 * GIB, "ecc_errors": None} | more


def play(admin: Admin, *nodes: dict[str, Any]) -> None:
    """These nodes are there, and whatever is asked of them is granted."""
    admin.on("GET", "nodes", {"nodes": list(nodes)})
    for each in nodes:
        admin.on("PATCH", f"nodes/{each['node_id']}", each)


def test_nodes_are_listed_with_their_gpus_and_what_is_on_them(nebula: Run, admin: Admin) -> None:
    gpus = [gpu(0), gpu(1, ecc_errors=2), gpu(2, memory_used_bytes=None), gpu(3, memory_total_bytes=None)]
    play(
        admin,
        node(gpus=gpus, labels={"zone": "x", "rack": "7"}, assigned=[STUCK, STUCK | {"replica_id": "1"}]),
        node("b", up=False, cordoned=True, given_up=True),
    )
    title, first, *rest, second = nebula("nodes").stdout.splitlines()
    assert title.split() == ["NODE", "STATE", "ADDRESS", "REPLICAS", "GPUS", "ENGINES", "LABELS"]
    assert first.split() == ["a", "up", "10.0.0.1", "2", "4", "vllm", "rack=7,", "zone=x"]
    assert [line.split() for line in rest[:4]] == [
        ["GPU", "0", "H200", "120.0", "of", "140.0", "GiB", "free"],
        ["GPU", "1", "H200", "120.0", "of", "140.0", "GiB", "free", "2", "memory", "errors:", "gets", "no", "replicas"],
        ["GPU", "2", "H200", "140.0", "GiB"],
        ["GPU", "3", "H200", "memory", "not", "known"],
    ]
    assert rest[4] == "  org/m/0, org/m/1 ready: it cannot move: no other node is up"
    assert second.split() == ["b", "missing,", "given", "up", "0"]


def test_a_node_is_called_drained_only_once_it_is_empty(nebula: Run, admin: Admin) -> None:
    play(admin, node(drained=True, assigned=[STUCK]), node("b", drained=True))
    lines = nebula("nodes").stdout.splitlines()
    assert [line.split()[:3] for line in (lines[1], lines[3])] == [["a", "up,", "draining"], ["b", "up,", "drained"]]


@pytest.mark.parametrize("words", [["nodes", "--json"], ["nodes", "list", "--json"]])
def test_nodes_as_json_are_the_documents_themselves(nebula: Run, admin: Admin, words: list[str]) -> None:
    play(admin, node())
    assert json.loads(nebula(*words).stdout) == [node()]


def test_no_nodes_say_how_to_begin(nebula: Run, admin: Admin) -> None:
    play(admin)
    assert "`nebula node`" in nebula("nodes").stdout


@pytest.mark.parametrize(
    ("command", "body", "told"),
    [
        ("cordon", {"cordoned": True}, "a gets nothing new until `nebula nodes uncordon`"),
        ("uncordon", {"cordoned": False}, "a gets replicas again"),
        ("forget", {"given_up": True}, "a is given up, and gets nothing new until `nebula nodes uncordon`"),
        ("drain", {"drained": True}, "empty: a"),
    ],
)
def test_a_node_is_asked_for_what_the_command_says(nebula: Run, admin: Admin, command: str, body: dict[str, bool], told: str) -> None:
    play(admin, node())
    result = nebula("nodes", command, "a")
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, told)
    assert admin.body("PATCH") == body


def test_of_nodes_one_of_which_is_not_known_nothing_is_asked(nebula: Run, admin: Admin) -> None:
    play(admin, node("a"), node("b"))
    result = nebula("nodes", "drain", "a", "c")
    assert (result.returncode, result.stderr) == (1, 'error: there is no node "c" (nodes: a, b)\n')
    assert not [seen for seen in admin.server.seen if seen[0] == "PATCH"]


def test_a_drain_is_waited_for_and_says_what_still_runs_and_why(nebula: Run, admin: Admin) -> None:
    play(admin, node(drained=True))
    leaving = STUCK | {"state": "draining", "reason": "it finishes its running requests (2 left), then it stops"}
    busy = [{"nodes": [node(drained=True, assigned=[replica])]} for replica in (STUCK, leaving)]
    admin.on("GET", "nodes", {"nodes": [node()]}, *busy, {"nodes": [node(drained=True)]})
    result = nebula("nodes", "drain", "a")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "a: draining (org/m/0 ready: it cannot move: no other node is up)",
        "a: draining (org/m/0 draining: it finishes its running requests (2 left), then it stops)",
        "a: empty",
        "empty: a",
    ]


def test_a_drain_that_takes_too_long_says_what_is_left_and_stays_asked_for(nebula: Run, admin: Admin) -> None:
    play(admin, node(drained=True, assigned=[STUCK]))
    result = nebula("nodes", "drain", "a", "--timeout", "0", "--json")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[1:] == [
        "error: not empty after 0 s",
        "a: org/m/0 ready: it cannot move: no other node is up",
        "They stay drained; `nebula nodes uncordon` takes that back.",
    ]


def test_a_drain_that_somebody_calls_off_is_waited_for_no_longer(nebula: Run, admin: Admin) -> None:
    play(admin, node(assigned=[STUCK]))
    result = nebula("nodes", "drain", "a")
    assert result.returncode == 1
    assert 'the node "a" is to be emptied no more: somebody has uncordoned it' in result.stderr


def test_what_is_left_on_a_missing_node_is_not_waited_for_once_its_replicas_have_moved(nebula: Run, admin: Admin) -> None:
    gone = node(up=False, drained=True, assigned=[STUCK | {"state": "draining", "reason": "it ends when the node is back"}])
    play(admin, gone)
    assert nebula("nodes", "drain", "a").stdout.splitlines() == [
        "a: missing (org/m/0 draining: it ends when the node is back)",
        "missing, and what is left there ends when it is back: a",
    ]


def test_a_drain_may_be_left_to_itself(nebula: Run, admin: Admin) -> None:
    play(admin, node(assigned=[STUCK]), node("b"))
    assert nebula("nodes", "drain", "a", "b", "--no-wait").stdout == "a, b are being emptied: `nebula nodes` shows how far that is\n"


def test_what_the_admin_api_refuses_is_one_message(nebula: Run, admin: Admin) -> None:
    play(admin, node())
    admin.on("PATCH", "nodes/a", {"error": {"message": 'the node "a" is up', "type": "x", "code": "y"}}, status=400)
    result = nebula("nodes", "forget", "a")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", 'error: the node "a" is up\n')


@pytest.mark.parametrize("words", [["cordon"], ["--json", "cordon", "a"]])
def test_wrong_usage_is_told(nebula: Run, words: list[str]) -> None:
    assert nebula("nodes", *words).returncode == 2
