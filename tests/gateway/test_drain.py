"""Draining the data path: what may finish, and what is cut off."""

from __future__ import annotations

import asyncio

import pytest

from nebula_core.testing.scripted_engine import EVENT, OK, SSE, chunk, sends

pytestmark = pytest.mark.asyncio


async def test_drain_closes_idle_connections_at_once_and_lets_running_requests_finish(gateway, engine, until):
    step = asyncio.Event()

    async def script(engine, reader, writer, seen):
        await step.wait()
        writer.write(OK)

    running = await gateway((await engine(script)).url)
    idle, busy = await running.connect(), await running.connect()
    idle.post(b'{"model":"unknown"}')
    assert (await idle.answer()).status == 404
    busy.post()
    await until(lambda: running.charged)
    draining = asyncio.create_task(running.server.drain(5))
    assert await idle.closed()
    with pytest.raises(ConnectionRefusedError):
        await running.connect()
    step.set()
    answer = await busy.answer()
    assert (answer.status, answer.field(b"connection")) == (200, [b"close"])
    await asyncio.wait_for(draining, 2)


async def test_drain_waits_a_moment_for_the_first_request_of_a_client_that_has_just_connected(gateway, engine):
    running = await gateway((await engine(sends(OK))).url)
    quick, silent = await running.connect(), await running.connect()
    draining = asyncio.create_task(running.server.drain(30))
    await asyncio.sleep(0)
    quick.post()
    answer = await quick.answer()
    assert (answer.status, answer.field(b"connection")) == (200, [b"close"])
    assert await silent.closed()
    await asyncio.wait_for(draining, 10)


async def test_drain_cuts_off_what_does_not_finish_in_time(gateway, engine):
    upstream = await engine(sends(SSE, chunk(EVENT)))
    running = await gateway(upstream.url)
    client = await running.connect()
    client.post()
    await client.head()
    await running.server.drain(0.05)
    await asyncio.wait_for(upstream.gone.wait(), 5)
    await running.at_rest()
