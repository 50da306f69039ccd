"""Connections to engines: which are used again, which are replaced, and when they are closed."""

from __future__ import annotations

import asyncio

import pytest

from nebula_core.gateway.data_path.limits import Limits
from nebula_core.testing.scripted_engine import EVENT, OK, sse

pytestmark = pytest.mark.asyncio


async def test_a_warm_connection_is_used_again(gateway, engine):
    upstream = await engine()
    running = await gateway(upstream.url)
    for _ in range(5):
        assert (await running.ask()).status == 200
    assert upstream.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        OK + OK,
        OK + b"garbage",
        sse(EVENT) + OK,
    ],
)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(gateway, engine, answer):
    upstream = await engine(answer)
    running = await gateway(upstream.url)
    bodies = {(await running.ask()).body for _ in range(2)}
    assert (upstream.connections, len(bodies)) == (2, 1)


async def test_an_idle_connection_that_sends_something_is_dropped(gateway, engine, until):
    async def script(engine, reader, writer, seen):
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")

    upstream = await engine(script)
    running = await gateway(upstream.url)
    assert (await running.ask()).status == 200
    await until(lambda: not upstream.open)
    assert (await running.ask()).status == 200


async def test_a_stale_connection_is_replaced_without_the_client_noticing(gateway, engine):
    """The engine closes an idle connection at the moment it is used again."""

    async def script(engine, reader, writer, seen):
        if len(engine.seen) == 2:
            raise ConnectionResetError
        writer.write(OK)

    upstream = await engine(script)
    running = await gateway(upstream.url)
    assert [(await running.ask()).status for _ in range(2)] == [200, 200]
    assert (upstream.connections, len(upstream.seen)) == (2, 3)
    await running.at_rest()


async def test_idle_connections_are_closed_before_an_engine_would(gateway, engine, until):
    upstream = await engine()
    running = await gateway(upstream.url, limits=Limits(idle_engine_s=0.1))
    await running.ask()
    await until(lambda: not upstream.open)


async def test_an_engine_that_answers_before_it_has_read_all_is_heard(gateway, engine):
    async def script(engine, reader, writer, seen):
        writer.write(OK)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        running = await gateway(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        answer = await running.ask(b'{"model":"m","x":"%b"}' % (b"a" * 8_000_000))
        assert (answer.status, answer.body) == (413, b"no")
