"""What is tried again before an answer begins, when, and on which replica."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from nebula_retry_backoff.policy import Backoff, Settings

from nebula_core import Context, Retry
from nebula_core.gateway.data_path.retries import retry_after_s
from nebula_core.gateway.feed import model_route
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.testing.scripted_engine import EVENT, SSE, chunk
from nebula_core.types import ModelRequest

pytestmark = pytest.mark.asyncio

BUSY = b"HTTP/1.1 503 Busy\r\nx-own: 1\r\ncontent-length: 4\r\n\r\nbusy"


def backoff(**settings) -> Backoff:
    """The policy that ships, with shorter pauses of a fixed length."""
    return Backoff(Settings(**{"pause_s": 0.03, **settings}), Context(logger=logging.getLogger("test")), lambda low, high: 1.0)


class Always(Retry):
    """Tries again for ever, at once."""

    def pause(self, failed, now):
        return 0.0


class Broken(Retry):
    def pause(self, failed, now):
        raise ZeroDivisionError


async def resets(engine, reader, writer, seen):
    writer.transport.abort()
    raise ConnectionResetError


async def silent(engine, reader, writer, seen):
    await engine.until_gone(reader)


def retries(running) -> dict[str, float]:
    return {reason: sample.value for (_, reason), sample in running.series("nebula_retry_total").items()}


def outcomes(running) -> dict[str, float]:
    return {outcome: sample.value for (_, outcome), sample in running.series("nebula_retried_request_total").items()}


# --- no answer


async def test_refused_connections_lead_through_all_replicas_at_once(gateway, engine, dead_url):
    upstream = await engine()
    running = await gateway(*[dead_url] * 6, upstream.url, retry=backoff(pause_s=10))
    assert (await asyncio.wait_for(running.ask(), 5)).status == 200
    assert (retries(running), outcomes(running)) == ({"refused": 6}, {"answered": 1})
    await running.at_rest()


async def test_a_connection_lost_before_the_first_body_byte_leads_to_another_replica_at_once(gateway, engine):
    upstream = await engine()
    running = await gateway((await engine(resets)).url, upstream.url, retry=backoff(pause_s=10))
    assert (await asyncio.wait_for(running.ask(), 5)).status == 200
    assert retries(running) == {"reset": 1}


async def test_an_engine_that_does_not_begin_in_time_is_not_followed_by_another(gateway, engine):
    slow, other = await engine(silent), await engine()
    running = await gateway(slow.url, other.url, retry=backoff(), first_byte_timeout_s=0.1)
    assert (await running.ask()).status == 504
    assert (other.seen, retries(running)) == ([], {})
    await running.at_rest()


@pytest.mark.parametrize("policy", [Always(), backoff(), Broken(), None])
async def test_a_request_that_two_engines_were_lost_with_is_suspect_whatever_the_policy_says(gateway, engine, policy, caplog):
    engines = [await engine(resets) for _ in range(4)]
    running = await gateway(*(upstream.url for upstream in engines), retry=policy)
    answer = await running.ask(b'{"model":"m"}', b"x-request-id: poison")
    assert (answer.status, sum(len(upstream.seen) for upstream in engines)) == (502, 2)
    assert "request poison is suspect: 2 engines were lost with it" in caplog.text
    await running.at_rest()


async def test_the_second_attempt_sends_the_same_bytes(gateway, engine):
    sent = b'{"model":"m","x":"%b"}' % os.urandom(100_000).hex().encode()
    for first in (resets, BUSY):
        upstream = await engine()
        running = await gateway((await engine(first)).url, upstream.url, retry=backoff())
        assert (await running.ask(sent, b"x-request-id: one")).status == 200
        assert (upstream.seen[0].body, upstream.seen[0].field(b"x-request-id")) == (sent, [b"one"])


async def test_the_body_is_kept_until_the_first_body_byte_and_no_longer(gateway, engine):
    step = asyncio.Event()

    async def script(engine, reader, writer, seen):
        writer.write(SSE)
        await step.wait()
        writer.write(chunk(EVENT))
        await engine.until_gone(reader)

    upstream = await engine(script)
    running = await gateway(upstream.url)
    client = await running.connect()
    client.post(b'{"model":"m"}')
    while not upstream.seen:  # noqa: ASYNC110 - the engine has no event for it
        await asyncio.sleep(0.01)
    [connection] = running.server.services.connections
    assert connection._exchange._request.body == b'{"model":"m"}'
    step.set()
    await client.head()
    assert connection._exchange._request.body == connection._exchange._routed.body == b""


# --- answers that say "not now"


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_such_an_answer_is_dropped_for_another_replicas(gateway, engine, status):
    busy, upstream = await engine(b"HTTP/1.1 %d X\r\ncontent-length: 4\r\n\r\nbusy" % status), await engine()
    running = await gateway(busy.url, upstream.url, retry=backoff())
    answer = await running.ask()
    assert (answer.status, answer.body, len(busy.seen)) == (200, b'{"ok":true}', 1)
    assert (retries(running), outcomes(running)) == ({str(status): 1}, {"answered": 1})
    await running.at_rest()


@pytest.mark.parametrize("status", [400, 429, 500, 501])
async def test_other_errors_are_passed_on_as_they_are(gateway, engine, status):
    upstream = await engine()
    running = await gateway((await engine(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\nno" % status)).url, upstream.url, retry=backoff())
    answer = await running.ask()
    assert (answer.status, answer.body, upstream.seen) == (status, b"no", [])


async def test_where_there_is_no_other_replica_the_engines_own_answer_goes_to_the_client(gateway, engine, dead_url):
    busy = await engine(BUSY)
    running = await gateway(busy.url, dead_url, retry=backoff())
    running.suspect(running.table.models["m"].candidates[1])
    answer = await running.ask()
    assert (answer.status, answer.body, answer.field(b"x-own")) == (503, b"busy", [b"1"])
    assert (len(busy.seen), retries(running)) == (1, {})


async def test_when_all_say_so_the_last_ones_answer_goes_to_the_client(gateway, engine):
    engines = [await engine(BUSY.replace(b"busy", b"bus%d" % i)) for i in range(3)]
    running = await gateway(*(upstream.url for upstream in engines), retry=backoff())
    answer = await running.ask()
    assert (answer.status, answer.body, [len(upstream.seen) for upstream in engines]) == (503, b"bus2", [1, 1, 1])
    assert outcomes(running) == {"failed": 1}


async def test_when_the_budget_is_spent_the_engines_own_answer_goes_to_the_client(gateway, engine):
    running = await gateway((await engine(BUSY)).url, (await engine()).url, retry=backoff(budget_share=0, budget_per_s=0.2))
    assert [(await running.ask()).status for _ in range(4)] == [200, 200, 503, 503]


@pytest.mark.parametrize(("line", "status"), [(b"retry-after: 0", 200), (b"Retry-After: 9", 503), (b"retry-after: soon", 200)])
async def test_an_engine_that_asks_for_a_longer_pause_is_passed_on(gateway, engine, line, status):
    busy = BUSY.replace(b"x-own: 1", line)
    running = await gateway((await engine(busy)).url, (await engine()).url, retry=backoff())
    answer = await running.ask()
    assert answer.status == status
    if status == 503:
        assert answer.field(b"retry-after") == [b"9"]


async def test_no_byte_of_a_dropped_answer_passes_and_the_engine_is_let_go(gateway, engine):
    """Its body is still to come when its head is seen."""

    async def script(engine, reader, writer, seen):
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-type: text/event-stream\r\n\r\n")
        await engine.until_gone(reader)

    busy = await engine(script)
    running = await gateway(busy.url, (await engine()).url, retry=backoff())
    assert (await running.ask()).body == b'{"ok":true}'
    await asyncio.wait_for(busy.gone.wait(), 5)
    await running.at_rest()


async def test_a_connection_whose_answer_came_whole_is_used_again(gateway, engine):
    busy = await engine(BUSY)
    running = await gateway(busy.url, (await engine()).url, retry=backoff())
    for _ in range(3):
        assert (await running.ask()).status == 200
    assert (len(busy.seen), busy.connections) == (3, 1)


async def test_without_a_policy_every_answer_is_passed_on(gateway, engine, dead_url):
    upstream = await engine()
    running = await gateway((await engine(BUSY)).url, upstream.url)
    assert ((await running.ask()).status, upstream.seen) == (503, [])
    running = await gateway(dead_url, upstream.url)
    assert (await running.ask()).status == 200


# --- the pause


async def test_a_request_that_waits_is_charged_to_no_replica(gateway, engine, until):
    running = await gateway((await engine(BUSY)).url, (await engine()).url, retry=backoff(pause_s=0.4))
    client = await running.connect()
    client.post()
    await until(lambda: retries(running))
    assert (running.charged, running.count("nebula_request_concurrent")) == (0, 1)
    assert (await client.answer()).status == 200
    await running.at_rest()


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_client_that_leaves_while_its_request_waits_ends_it(gateway, engine, ending, until):
    upstream = await engine()
    running = await gateway((await engine(BUSY)).url, upstream.url, retry=backoff(pause_s=0.2))
    client = await running.connect()
    client.post(b'{"model":"m","by":"one who leaves"}')
    await until(lambda: retries(running))
    {"close": client.writer.close, "reset": client.writer.transport.abort}[ending]()
    await running.at_rest()
    assert (running.count("nebula_request_total", "499"), outcomes(running)) == (1, {"aborted": 1})
    assert (await running.ask()).status == 200  # after a pause that began later
    assert [seen.body for seen in upstream.seen] == [b'{"model":"m"}']


async def test_a_drain_does_not_wait_for_a_pause_longer_than_it_may(gateway, engine, until):
    running = await gateway((await engine(BUSY)).url, (await engine()).url, retry=backoff(pause_s=10))
    client = await running.connect()
    client.post()
    await until(lambda: retries(running))
    await running.server.drain(0)
    await running.at_rest()


# --- no replica, and none is waited for


def route(url: str, incarnation: int = 1) -> ModelRoute:
    only = Route(model_uid="m", replica_id="0", assignment_version="1", incarnation=incarnation, url=url)
    return ModelRoute(model_uid="m", routes=(only,), note="it is loading")


async def test_a_replica_that_comes_during_the_pause_is_asked(gateway, engine, until):
    running = await gateway(retry=backoff(pause_s=0.3), wait_s=0)
    client = await running.connect()
    client.post()
    await until(lambda: retries(running) == {"no_candidate": 1})
    running.table.update([route((await engine()).url)])
    assert (await client.answer()).status == 200


async def test_a_replica_that_refused_is_asked_again_after_the_pause(gateway, engine, dead_url, until):
    running = await gateway(dead_url, retry=backoff(pause_s=0.3))
    client = await running.connect()
    client.post()
    await until(lambda: retries(running) == {"no_candidate": 1})
    await engine(port=int(dead_url.rsplit(":", 1)[1]))
    assert (await client.answer()).status == 200
    assert outcomes(running) == {"answered": 1}


async def test_a_replica_that_was_lost_with_the_request_is_not_asked_again(gateway, engine):
    upstream = await engine(resets)
    running = await gateway(upstream.url, retry=backoff())
    assert ((await running.ask()).status, len(upstream.seen)) == (502, 1)
    assert retries(running) == {"no_candidate": 1}


@pytest.mark.parametrize(("url", "words"), [((), "it is loading"), (("http://127.0.0.1:1",), "accepts connections")])
async def test_there_is_one_pause_and_then_the_client_is_told(gateway, url, words):
    running = await gateway(*url, retry=backoff(), wait_s=0)
    answer = await running.ask()
    assert (answer.status, retries(running)) == (503, {"no_candidate": 1})
    error = json.loads(answer.body)["error"]
    assert error["code"] == "no_ready_replica"
    assert words in error["message"]
    await running.at_rest()


# --- policies that misbehave


async def test_a_policy_that_never_gives_up_does_not_keep_the_worker_from_others(gateway, engine, dead_url, until):
    other = ModelRoute(model_uid="n", routes=(route((await engine()).url).routes[0],))
    running = await gateway(dead_url, models=[other], retry=Always())
    client = await running.connect()
    client.post()
    await until(lambda: retries(running).get("no_candidate", 0) > 3)
    assert (await running.ask(b'{"model":"n"}')).status == 200
    client.writer.transport.abort()
    await running.at_rest()


async def test_a_policy_that_fails_is_logged_and_the_safe_minimum_holds(gateway, engine, dead_url, caplog):
    running = await gateway(dead_url, (await engine(BUSY)).url, retry=Broken())
    assert (await running.ask()).body == b"busy"
    assert caplog.text.count("the retry policy failed") == 1


# --- what it goes by


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ([], None),
        ([b"x: 1\r\n", b"Retry-After: 7 \r\n"], 7.0),
        ([b"retry-after: 0\r\n"], 0.0),
        ([b"retry-after: -1\r\n"], None),
        ([b"retry-after: \xff\xb2\r\n"], None),
        ([b"retry-after: later\r\n"], None),
    ],
)
async def test_a_retry_after_is_read_in_seconds(lines, seconds):
    assert retry_after_s(lines) == seconds


@pytest.mark.parametrize("ahead_s", [-5, 0, 90])
async def test_a_retry_after_may_be_a_date(ahead_s):
    now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=ahead_s), usegmt=True).encode()
    assert retry_after_s([b"retry-after: %b\r\n" % date], now) == max(0, ahead_s)


async def test_a_model_may_have_its_own_timeout_for_the_first_byte(gateway, engine):
    routed = model_route(ModelRequest(model_uid="quick", engine="e", first_byte_timeout_s=0.1), None, ())
    replica = route((await engine(silent)).url).routes
    quick = ModelRoute(model_uid="quick", first_byte_timeout_s=routed.first_byte_timeout_s, routes=replica)
    running = await gateway(models=[quick], first_byte_timeout_s=600)
    answer = await asyncio.wait_for(running.ask(b'{"model":"quick"}'), 5)
    assert (answer.status, b"within 0.1 s" in answer.body) == (504, True)
