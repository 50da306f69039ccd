"""Requests for a model without a ready replica: held in order, within bounds, until one is ready; and what clients are told if none is."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest

from nebula_core.gateway.data_path.relay import Exchange
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.testing.scripted_engine import DONE, EVENT, sse

pytestmark = pytest.mark.asyncio


def model(*urls: str, uid: str = "m", incarnation: int = 1, **fields) -> ModelRoute:
    routes = tuple(
        Route(model_uid=uid, replica_id=str(i), assignment_version="1", incarnation=incarnation, url=url) for i, url in enumerate(urls)
    )
    return ModelRoute(model_uid=uid, routes=routes, **{"note": "it is loading", **fields})


def waiting(running) -> float:
    return running.count("nebula_request_waiting", "m")


def ended(running) -> dict[str, float]:
    return {outcome: sample.value for (_, outcome), sample in running.series("nebula_wait_total").items()}


def error_of(answer) -> dict[str, object]:
    return json.loads(answer.body)["error"]


async def asking(running, *bodies: bytes):
    """A client for each body, each having asked before the next one does."""
    clients = []
    for body in bodies or (b'{"model":"m"}',):
        before = waiting(running)
        clients.append(await running.connect())
        clients[-1].post(body)
        await asyncio.wait_for(more_wait(running, before), 5)
    return clients


async def more_wait(running, before: float) -> None:
    while waiting(running) <= before:  # noqa: ASYNC110 - the room has no event for it
        await asyncio.sleep(0.002)


async def test_who_waits_goes_on_in_order_when_a_replica_is_ready(gateway, engine):
    upstream, running = await engine(), await gateway()
    bodies = [b'{"model":"m","n":%d}' % n for n in range(80)]
    clients = await asking(running, *bodies)
    assert (running.charged, running.count("nebula_request_concurrent")) == (0, 80)
    running.table.update([model(upstream.url)])
    assert {(await client.answer()).status for client in clients} == {200}
    picked = sorted(upstream.seen, key=lambda seen: int(seen.field(b"x-request-id")[0].rsplit(b"-", 1)[1], 16))
    assert [seen.body for seen in picked] == bodies
    assert (waiting(running), ended(running)) == (0, {"admitted": 80})
    assert running.count("nebula_wake_total", "m") == 1
    await running.at_rest()


async def test_they_spread_over_the_replicas_that_are_ready(gateway, engine):
    engines, running = [await engine() for _ in range(2)], await gateway()
    clients = await asking(running, *[b'{"model":"m"}'] * 10)
    running.table.update([model(*(upstream.url for upstream in engines), strategy="least_loaded")])
    for client in clients:
        await client.answer()
    assert [len(upstream.seen) for upstream in engines] == [5, 5]


async def test_a_stream_waits_like_any_other(gateway, engine):
    upstream, running = await engine(sse(EVENT, DONE)), await gateway()
    [client] = await asking(running, b'{"model":"m","stream":true}')
    running.table.update([model(upstream.url)])
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, EVENT + DONE)


async def test_a_change_that_brings_no_replica_lets_nobody_go(gateway, engine):
    upstream, running = await engine(), await gateway()
    [client] = await asking(running)
    running.table.update([model(note="it is nearly there"), model(upstream.url, uid="other")])
    assert (await running.ask(b'{"model":"other"}')).status == 200
    assert waiting(running) == 1
    running.table.update([model(upstream.url)])
    assert (await client.answer()).status == 200


async def test_a_replica_that_goes_again_at_once_leaves_the_rest_waiting_for_the_next(gateway, engine, until):
    upstream, running = await engine(), await gateway()
    clients = await asking(running, *[b'{"model":"m"}'] * 40)
    running.table.update([model(upstream.url)])
    asyncio.get_running_loop().call_soon(running.table.update, [model()])
    await until(lambda: not running.table.models["m"].candidates and len(upstream.seen) == 40 - waiting(running) > 0)
    assert waiting(running)
    running.table.update([model(upstream.url)])
    assert {(await client.answer()).status for client in clients} == {200}
    await running.at_rest()


async def test_who_has_waited_long_enough_is_told_what_for_and_when_to_come_again(gateway):
    running = await gateway(wait_s=0.1)
    answer = await running.ask()
    assert (answer.status, answer.field(b"retry-after"), error_of(answer)["code"]) == (503, [b"5"], "no_ready_replica")
    assert error_of(answer)["message"] == (
        'The model "m" has no replica that can serve it now: it is loading. The request has waited 0.1 s for one. Try again in 5 s.'
    )
    assert (waiting(running), ended(running)) == (0, {"expired": 1})
    await running.at_rest()


async def test_who_waited_in_vain_leaves_nothing_for_the_garbage_collection(gateway):
    running = await gateway(wait_s=0.05)
    gc.collect()
    gc.disable()
    try:
        before = exchanges()
        assert (await running.ask()).status == 503
        assert exchanges() == before
    finally:
        gc.enable()


def exchanges() -> int:
    return sum(type(each) is Exchange for each in gc.get_objects())


@pytest.mark.parametrize(("boot_s", "seconds"), [(None, 5), (0.05, 5), (30.0, 30), (300.0, 60)])
async def test_the_time_to_come_again_is_what_is_left_of_a_boot_and_no_more_than_clients_accept(gateway, boot_s, seconds):
    running = await gateway(wait_s=0.1, models=[model(uid="n", boot_s=boot_s)])
    answer = await running.ask(b'{"model":"n"}')
    assert answer.field(b"retry-after") == [b"%d" % seconds]
    assert error_of(answer)["message"].endswith(f"Try again in {seconds} s.")


@pytest.mark.parametrize("bounds", [{"wait_requests": 2}, {"wait_bytes": 40}])
async def test_beyond_the_bounds_a_request_is_refused_at_once_and_those_before_it_wait_on(gateway, engine, bounds):
    upstream, running = await engine(), await gateway(**bounds)
    clients = await asking(running, *[b'{"model":"m","n":1}'] * 2)
    refused = await running.ask(b'{"model":"m","n":1}')
    assert (refused.status, refused.field(b"retry-after")) == (503, [b"5"])
    assert "[gateway] wait_requests" in error_of(refused)["message"]
    running.table.update([model(upstream.url)])
    assert {(await client.answer()).status for client in clients} == {200}
    assert ended(running) == {"refused": 1, "admitted": 2}


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_client_that_leaves_makes_room_at_once(gateway, engine, ending, until):
    upstream, running = await engine(), await gateway(wait_requests=1)
    [client] = await asking(running, b'{"model":"m","by":"one who leaves"}')
    {"close": client.writer.close, "reset": client.writer.transport.abort}[ending]()
    await until(lambda: not waiting(running))
    assert (ended(running), running.count("nebula_request_total", "499")) == ({"left": 1}, 1)
    [other] = await asking(running)
    running.table.update([model(upstream.url)])
    assert (await other.answer()).status == 200
    assert [seen.body for seen in upstream.seen] == [b'{"model":"m"}']
    await running.at_rest()


async def test_a_model_that_is_unloaded_is_a_404_at_once(gateway):
    running = await gateway()
    [client] = await asking(running)
    running.table.update([], ["m"])
    answer = await client.answer()
    assert (answer.status, error_of(answer)["code"]) == (404, "model_not_found")
    assert ended(running) == {"unloaded": 1}
    await running.at_rest()


async def test_a_model_that_is_loaded_anew_is_not_the_one_that_was_waited_for(gateway, engine):
    running, upstream = await gateway(), await engine()
    [client] = await asking(running)
    running.table.update([], ["m"])
    running.table.update([model(upstream.url)])
    assert (await client.answer()).status == 404
    assert (await running.ask()).status == 200


async def test_at_the_end_of_a_drain_who_waits_is_told_to_come_again(gateway):
    running = await gateway()
    clients = await asking(running, *[b'{"model":"m"}'] * 3)
    await running.server.drain(0.1)
    for client in clients:
        answer = await client.answer()
        assert (answer.status, answer.field(b"retry-after")) == (503, [b"5"])
        assert "This gateway stops." in error_of(answer)["message"]
        assert await client.closed()
    assert ended(running) == {"drained": 3}
    await running.at_rest()


async def test_who_waits_is_served_while_the_gateway_drains(gateway, engine):
    upstream, running = await engine(), await gateway()
    [client] = await asking(running)
    draining = asyncio.create_task(running.server.drain(5))
    running.table.update([model(upstream.url)])
    assert (await client.answer()).status == 200
    await draining


async def test_a_model_that_its_operator_has_stopped_is_not_waited_for(gateway):
    running = await gateway(models=[model(uid="n", note="no replica of it is placed", off=True)])
    answer = await running.ask(b'{"model":"n"}')
    assert answer.status == 503
    assert "set it to 0 replicas" in error_of(answer)["message"]
    assert running.count("nebula_wake_total", "n") == 0


async def test_a_model_that_its_operator_stops_is_not_waited_for_any_longer(gateway):
    running = await gateway()
    [client] = await asking(running)
    running.table.update([model(off=True)])
    answer = await client.answer()
    assert (answer.status, ended(running)) == (503, {"refused": 1})
    assert "set it to 0 replicas" in error_of(answer)["message"]


@pytest.mark.parametrize("request_", [b"GET /v1/models", b"GET /v1/nothing", b"DELETE /v1/chat/completions"])
async def test_what_is_not_for_an_engine_does_not_wait(gateway, request_):
    answer = await (await gateway()).raw(request_ + b" HTTP/1.1\r\nhost: g\r\ncontent-length: 0\r\n\r\n")
    assert answer.status in (200, 404, 405)


async def test_an_unknown_model_is_not_waited_for(gateway):
    assert (await (await gateway()).ask(b'{"model":"unheard of"}')).status == 404


async def test_replicas_that_were_all_tried_in_vain_are_not_waited_for(gateway, dead_url):
    running = await gateway(dead_url)
    answer = await running.ask()
    assert (answer.status, ended(running)) == (503, {})


def dying(table, after_s: float = 0.0):
    """A script of an engine that ends with its first request, and is out of the table at once."""

    async def script(engine, reader, writer, seen):
        await asyncio.sleep(after_s)
        table().update([model()])
        writer.transport.abort()
        raise ConnectionResetError

    return script


async def test_a_request_whose_only_engine_was_lost_with_it_waits_for_the_next(gateway, engine, until):
    running = await gateway((await engine(dying(lambda: running.table))).url)
    client = await running.connect()
    client.post()
    await until(lambda: waiting(running))
    running.table.update([model((await engine()).url, incarnation=2)])
    assert (await client.answer()).status == 200
    await running.at_rest()


async def test_the_time_that_a_request_may_wait_runs_from_its_arrival(gateway, engine):
    running = await gateway((await engine(dying(lambda: running.table, after_s=0.1))).url, wait_s=0.05)
    answer = await running.ask()
    assert (answer.status, ended(running)) == (503, {"refused": 1})
    await running.at_rest()


async def test_the_next_request_of_a_connection_waits_as_well(gateway, engine):
    upstream, running = await engine(), await gateway(wait_s=0.1)
    client = await running.connect()
    client.post()
    client.post()
    assert [(await client.answer()).status for _ in range(2)] == [503, 503]
    running.table.update([model(upstream.url)])
    assert (await client.ask()).status == 200
