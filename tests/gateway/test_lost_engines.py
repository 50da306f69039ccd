"""Engines that fail before the first body byte of their answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from nebula_core.testing.scripted_engine import OK, SSE, chunk, sends

pytestmark = pytest.mark.asyncio


async def test_a_refused_connection_costs_the_client_nothing(gateway, engine, dead_url):
    upstream = await engine()
    running = await gateway(dead_url, upstream.url)
    assert (await running.ask()).status == 200
    await running.at_rest()


async def test_when_no_replica_accepts_the_client_is_told_when_to_come_again(gateway, dead_url):
    running = await gateway(dead_url, dead_url, "not a url")
    answer = await running.ask()
    assert (answer.status, answer.field(b"retry-after")) == (503, [b"5"])
    await running.at_rest()


@pytest.mark.parametrize(
    ("parts", "then"),
    [
        ((), "close"),
        ((), "reset"),
        ((b"HTTP/1.1 200",), "close"),
        ((OK[:60],), "reset"),
        ((SSE,), "close"),
        ((SSE, chunk(b": ping\n\n")), "close"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",), "close"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n",), "close"),
        ((b"garbage\r\n\r\n",), None),
        ((b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nabc",), None),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",), None),
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",), None),
    ],
)
async def test_an_engine_that_fails_before_its_first_body_byte_is_a_502(gateway, engine, parts, then):
    upstream = await engine(sends(*parts, then=then))
    running = await gateway(upstream.url)
    client = await running.connect()
    answer = await client.ask()
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (502, "engine_failed")
    assert (await client.ask(b"{")).status == 400  # the client's connection lives on
    assert len(upstream.seen) == 1
    await running.at_rest()


@pytest.mark.parametrize("parts", [(), (b"HTTP/1.1 200",), (SSE,), (SSE, chunk(b": ping\n\n"))])
async def test_an_engine_lost_before_its_first_body_byte_costs_the_client_nothing(gateway, engine, parts):
    losing, serving = await engine(sends(*parts, then="reset")), await engine()
    running = await gateway(losing.url, serving.url)
    assert (await running.ask()).status == 200
    assert (len(losing.seen), len(serving.seen)) == (1, 1)
    await running.at_rest()


@pytest.mark.parametrize("warm", [False, True])
async def test_a_request_that_two_engines_were_lost_with_reaches_no_third(gateway, engine, warm):
    async def dies_of_poison(upstream, reader, writer, seen):
        if b"poison" in seen.body:
            upstream.server.close()
            writer.transport.abort()
        else:
            writer.write(OK)

    engines = [await engine(dies_of_poison) for _ in range(4)]
    running = await gateway(*(upstream.url for upstream in engines))
    if warm:
        candidates = running.table.models["m"].candidates
        for alone in candidates:  # each in its turn is the only one that is not under suspicion
            for candidate in candidates:
                candidate.trust() if candidate is alone else running.suspect(candidate)
            assert (await running.ask()).status == 200
        for candidate in candidates:
            candidate.trust()
    answer = await running.ask(b'{"model":"m","prompt":"poison"}')
    assert answer.status == 502
    assert sum(any(b"poison" in seen.body for seen in upstream.seen) for upstream in engines) == 2
    assert (await running.ask()).status == 200
    await running.at_rest()


@pytest.mark.parametrize("parts", [(), (SSE,), (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",)])
async def test_an_engine_that_does_not_begin_in_time_is_a_504_and_its_request_is_cancelled(gateway, engine, parts):
    upstream = await engine(sends(*parts))
    running = await gateway(upstream.url, first_byte_timeout_s=0.1)
    assert (await running.ask()).status == 504
    await asyncio.wait_for(upstream.gone.wait(), 5)
    await running.at_rest()


async def test_connecting_has_a_timeout_of_its_own(gateway, engine, mute_url):
    upstream = await engine()
    running = await gateway(mute_url, upstream.url, connect_timeout_s=0.1)
    assert (await running.ask()).status == 200
    await running.at_rest()
