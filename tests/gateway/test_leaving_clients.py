"""Clients that leave, read slowly, or stop reading."""

from __future__ import annotations

import asyncio

import pytest

from nebula_core.testing.scripted_engine import EVENT, OK, SSE, chunk, sends

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("parts", [(), (SSE,), (SSE, chunk(EVENT))])
@pytest.mark.parametrize("ending", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_cancels_its_request_at_the_engine(gateway, engine, parts, ending, until):
    upstream = await engine(sends(*parts))
    running = await gateway(upstream.url)
    client = await running.connect()
    client.post()
    await until(lambda: upstream.seen)
    {"close": client.writer.close, "reset": client.writer.transport.abort, "half-close": client.writer.write_eof}[ending]()
    await asyncio.wait_for(upstream.gone.wait(), 5)
    await running.at_rest()
    assert running.count("nebula_request_total", "499") + running.count("nebula_request_total", "200") == 1


@pytest.mark.parametrize("more", [b"\r\n", b"GET /health HTTP/1.1\r\nhost: g\r\n\r\n", b"POST /v1/chat"])
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_client_that_leaves_after_sending_more_cancels_its_request_all_the_same(gateway, engine, more, ending, until):
    upstream = await engine(sends(SSE))
    client = await (running := await gateway(upstream.url)).connect()
    client.post()
    await until(lambda: upstream.seen)
    client.send(more)
    await asyncio.sleep(0.05)  # so that it comes by itself
    {"close": client.writer.close, "reset": client.writer.transport.abort}[ending]()
    await asyncio.wait_for(upstream.gone.wait(), 5)
    await running.at_rest()


async def test_a_client_that_was_held_back_and_leaves_during_its_last_request_cancels_it(gateway, engine, until):
    go_on = asyncio.Event()

    async def script(engine, reader, writer, seen):
        if len(engine.seen) == 2:
            await engine.until_gone(reader)
        await go_on.wait()
        writer.write(OK)

    upstream = await engine(script)
    client = await (running := await gateway(upstream.url)).connect()
    client.post()
    await until(lambda: upstream.seen)
    client.post(b'{"model":"m","prompt":"%b"}' % (b"a" * 200_000))
    await asyncio.sleep(0.1)  # so that it is read while the first is answered
    go_on.set()
    assert (await client.answer()).status == 200
    await until(lambda: len(upstream.seen) == 2)
    client.writer.close()
    await asyncio.wait_for(upstream.gone.wait(), 5)
    await running.at_rest()


async def test_a_client_that_sends_far_ahead_of_its_answers_is_held_back(gateway, engine, until):
    go_on = asyncio.Event()

    async def script(engine, reader, writer, seen):
        await go_on.wait()
        writer.write(OK)

    upstream = await engine(script)
    client = await (running := await gateway(upstream.url)).connect()
    large = b'{"model":"m","prompt":"%b"}' % (b"a" * 1_000_000)
    for _ in range(60):
        client.post(large)
    unsent = client.writer.transport.get_write_buffer_size
    before = 0
    async with asyncio.timeout(20):
        while unsent() != before:
            before = unsent()
            await asyncio.sleep(0.2)
    assert unsent() > 30_000_000  # the rest is in the kernel's buffers
    go_on.set()
    assert [(await client.answer()).status for _ in range(60)] == [200] * 60
    await running.at_rest()


async def test_a_client_that_leaves_while_the_engine_is_connected_to_leaks_nothing(gateway, mute_url, until):
    running = await gateway(mute_url, connect_timeout_s=30)
    client = await running.connect()
    client.post()
    await until(lambda: running.charged)
    client.writer.transport.abort()
    await running.at_rest()
    assert running.server.services.tasks == set()


async def test_a_client_that_reads_slowly_holds_its_engine_back(gateway, engine):
    sent = 0

    async def script(engine, reader, writer, seen):
        nonlocal sent
        writer.write(SSE)
        for _ in range(2000):
            writer.write(chunk(EVENT * 500))
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")

    running = await gateway((await engine(script)).url)
    client = await running.connect()
    client.writer.transport.pause_reading()
    client.post()
    before = -1
    async with asyncio.timeout(20):
        while sent != before or not sent:
            before = sent
            await asyncio.sleep(0.2)
    connection = next(iter(running.server.services.connections))
    assert sent < 2000
    assert connection.transport.get_write_buffer_size() < 600_000
    client.writer.transport.resume_reading()
    assert len((await client.answer()).body) == 2000 * 500 * len(EVENT)
    await running.at_rest()


async def test_a_client_that_stops_reading_is_given_up(gateway, engine, until):
    async def script(engine, reader, writer, seen):
        writer.write(SSE)
        for _ in range(2000):
            writer.write(chunk(EVENT * 500))
            await writer.drain()

    running = await gateway((await engine(script)).url, idle_timeout_s=0.3)
    client = await running.connect()
    client.writer.transport.pause_reading()
    client.post()
    await until(lambda: running.charged)
    await running.at_rest()
