"""The first body byte that a client is sent: what is held back until then, and how a stream ends that breaks off after it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest

from nebula_core.gateway.data_path.limits import Limits
from nebula_core.testing.scripted_engine import DONE, EVENT, SSE, chunk, sends

pytestmark = pytest.mark.asyncio


async def test_comments_are_held_back_until_the_first_event(gateway, engine):
    step = asyncio.Event()

    async def script(engine, reader, writer, seen):
        writer.write(SSE + chunk(b": ping\n\n"))
        await step.wait()
        writer.write(chunk(b": pong\n\n" + EVENT) + chunk(DONE) + b"0\r\n\r\n")

    running = await gateway((await engine(script)).url)
    client = await running.connect()
    client.post()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.reader.readexactly(1), 0.1)
    step.set()
    assert (await client.answer()).body == b": ping\n\n: pong\n\n" + EVENT + DONE


async def test_comments_are_let_go_after_a_while(gateway, engine):
    upstream = await engine(sends(SSE, chunk(b": ping\n\n")))
    client = await (await gateway(upstream.url, limits=Limits(hold_s=0.1))).connect()
    client.post()
    assert (await client.head())[0] == 200
    assert await client.chunk() == b": ping\n\n"


async def test_comments_are_let_go_when_they_are_many(gateway, engine):
    upstream = await engine(sends(SSE, chunk(b": ping\n\n" * 100)))
    running = await gateway(upstream.url, limits=Limits(hold_bytes=500))
    client = await running.connect()
    client.post()
    await client.head()
    assert len(await client.chunk()) == 800
    assert running.count("nebula_time_to_first_token_seconds", "m") == 0


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(("cut", "gap"), [(b"", b""), (EVENT[:20], b"\n\n")])
async def test_a_stream_that_breaks_off_ends_with_an_error_event(gateway, engine, then, cut, gap):
    upstream = await engine(sends(SSE, chunk(EVENT + cut), then=then))
    running = await gateway(upstream.url)
    client = await running.connect()
    answer = await client.ask()
    sent, _, error = answer.body.rpartition(b"data: ")
    assert sent == EVENT + cut + gap
    assert json.loads(error)["error"]["code"] == "engine_failed"
    assert (await client.ask()).status == 200  # the connection lives on, for nothing told the client that it would not
    await running.at_rest()


@pytest.mark.parametrize("cut", [b"", EVENT[:20]])
async def test_a_stream_of_no_stated_end_that_is_reset_ends_with_an_error_event(gateway, engine, cut):
    """An engine that has finished closes its connection; one whose process was killed in the middle resets it."""
    seen_by_client = asyncio.Event()

    async def killed(upstream, reader, writer, seen):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENT + cut)
        await seen_by_client.wait()  # a reset overtakes what has not been read
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise ConnectionResetError

    running = await gateway((await engine(killed)).url)
    client = await running.connect()
    client.post()
    await client.head()
    assert await client.chunk() == EVENT + cut
    seen_by_client.set()
    assert b"engine_failed" in await client.chunk()
    await running.at_rest()


@pytest.mark.parametrize("asks", [{"version": b"1.0"}, {"connection": b"connection: close"}])
async def test_a_stream_that_breaks_off_ends_the_connection_where_the_client_expects_it(gateway, engine, asks):
    running = await gateway((await engine(sends(SSE, chunk(EVENT), then="close"))).url)
    client = await running.connect()
    client.post(b'{"model":"m"}', *filter(None, [asks.get("connection")]), version=asks.get("version", b"1.1"))
    assert b"engine_failed" in (await client.answer()).body
    assert await client.closed()


async def test_an_answer_without_a_length_that_ends_before_it_begins_leads_to_another_replica(gateway, engine):
    """Nothing but the end of the connection ends it, so that its engine has most likely died."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    running = await gateway((await engine(sends(head, then="close"))).url, (await engine()).url)
    assert (await running.ask()).body == b'{"ok":true}'
    await running.at_rest()


async def test_a_stream_that_falls_silent_ends_with_an_error_event(gateway, engine):
    upstream = await engine(sends(SSE, chunk(EVENT)))
    running = await gateway(upstream.url, idle_timeout_s=0.1)
    assert b"engine_timeout" in (await running.ask()).body
    await asyncio.wait_for(upstream.gone.wait(), 5)
    await running.at_rest()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    "framing", [b"content-length: 100", b"transfer-encoding: chunked", b"content-type: text/event-stream\r\ncontent-length: 100"]
)
async def test_another_body_that_breaks_off_does_not_look_whole(gateway, engine, framing, version):
    upstream = await engine(sends(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n5\r\nabcde\r\n" % framing, then="close"))
    running = await gateway(upstream.url)
    client = await running.connect()
    client.post(version=version)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.answer()
    await running.at_rest()


@pytest.mark.parametrize("framing", [b"content-length: 100", b"transfer-encoding: chunked"])
async def test_an_answer_that_breaks_off_destroys_nothing_of_the_one_before_it(gateway, engine, until, framing):
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"a" * 100_000

    async def script(upstream, reader, writer, seen):
        writer.write(whole if len(upstream.seen) == 1 else b"HTTP/1.1 200 OK\r\n%b\r\n\r\n5\r\nabcde\r\n" % framing)
        await writer.drain()
        if len(upstream.seen) == 2:
            raise ConnectionResetError

    upstream = await engine(script)
    running = await gateway(upstream.url)
    client = await running.connect()
    client.writer.transport.pause_reading()
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.post()
    client.post()
    await until(lambda: len(upstream.seen) == 2)
    await running.at_rest()
    client.writer.transport.resume_reading()
    assert len((await client.answer()).body) == 100_000
    with pytest.raises(asyncio.IncompleteReadError):
        await client.answer()
