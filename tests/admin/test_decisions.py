"""Why a request was sent where it was sent, through real HTTP; the gateway's workers are played."""

from __future__ import annotations

import math
import time
from importlib.metadata import EntryPoint
from urllib.parse import quote

from nebula_core.gateway.hub import Explained
from nebula_core.interfaces import Considered, Explanation

INSTALLED = [EntryPoint("strategy_least_pending", "nebula_strategy_least_pending", "nebula")]


def decision(picked: str, ago_s: float, **more) -> Explanation:
    candidates = (Considered("0", {"cost_s": 0.25, "wait_s": math.inf}), Considered("1", {"cost_s": 0.5}))
    base = {"request_id": "r", "model_uid": "m", "at": time.monotonic() - ago_s, "picked": picked, "reason": "prefix_hit"}
    return Explanation(**base, strategy="prefix", figures={"prompt_bytes": 100}, candidates=candidates, **more)


def workers(*decisions: Explanation, silent: int = 0):
    """As a gateway asks its workers: what they say to any id but `unknown`."""

    async def explain(request_id: str) -> Explained:
        workers.asked = request_id
        return Explained(() if request_id == "unknown" else decisions, silent)

    return explain


async def get(nebula, request_id: str):
    answer = await nebula.http.get(f"/admin/v1/decisions/{quote(request_id, safe='')}")
    return answer.status_code, answer.json()


async def test_a_request_that_was_tried_twice_shows_both_decisions(serve_admin):
    async with serve_admin(explain=workers(decision("0", 60, why="it is near"), decision("1", 30), silent=1)) as nebula:
        status, found = await get(nebula, "r")
    assert (status, found["request_id"], found["silent_workers"]) == (200, "r", 1)
    first, second = found["decisions"]
    assert (first["picked"], first["reason"], first["why"], first["strategy"], first["model_uid"]) == (
        "0",
        "prefix_hit",
        "it is near",
        "prefix",
        "m",
    )
    assert 60 <= first["ago_s"] < 90
    assert (second["picked"], second["figures"]) == ("1", {"prompt_bytes": 100})
    assert first["candidates"] == [{"replica_id": "0", "figures": {"cost_s": 0.25}}, {"replica_id": "1", "figures": {"cost_s": 0.5}}]


async def test_an_id_of_any_form_is_asked_for_as_it_is(serve_admin):
    async with serve_admin(explain=workers(decision("0", 1))) as nebula:
        for request_id in ("req-1", "a/b c?d=e%2F#f", "../status"):
            assert (await get(nebula, request_id))[0] == 200
            assert workers.asked == request_id


async def test_an_unknown_request_is_told_what_is_kept_and_whom_to_ask(serve_admin):
    async with serve_admin(INSTALLED, explain=workers()) as nebula:
        status, body = await get(nebula, "unknown")
    assert (status, body["error"]["code"]) == (404, "decision_not_found")
    assert 'no decision on the request "unknown" is known here. What is kept: none of least_pending.' in body["error"]["message"]
    assert "if another gateway served the request, ask that one" in body["error"]["message"]


async def test_workers_that_did_not_answer_may_know_it(serve_admin):
    async with serve_admin(explain=workers(silent=2)) as nebula:
        _, body = await get(nebula, "r")
    assert "2 of this gateway's workers did not answer: try again." in body["error"]["message"]


async def test_a_process_that_is_no_gateway_says_so(nebula):
    status, body = await get(nebula, "r")
    assert status == 404
    assert "this process is no gateway" in body["error"]["message"]
