"""What passes through the gateway, and what happens when an engine or a client fails on the way."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct

import pytest

from nebula_core.gateway.data_path.limits import Limits

pytestmark = pytest.mark.asyncio

OK = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"ok":true}'
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse(*events):
    return SSE + b"".join(map(chunk, events)) + b"0\r\n\r\n"


def sends(*parts, then=None):
    """A script that sends parts, each after a signal of the test's, and then waits for the client to go or does as told."""

    async def script(engine, reader, writer, seen):
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then is None:
            await engine.until_gone(reader)
        elif then == "reset":
            writer.transport.abort()
            raise ConnectionResetError
        elif then == "close":
            raise ConnectionResetError

    return script


# --- what passes


async def test_a_body_passes_byte_for_byte_in_both_directions(gateway, engine):
    sent = b'{"model":"m","x":"' + os.urandom(200_000).hex().encode() + b'" ,\n "y" : [1e5,\t"\\u00e9"]}'
    reply = os.urandom(300_000)
    upstream = await engine(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(reply) + reply)
    answer = await (await gateway(upstream.url)).ask(sent, path=b"/v1/audio/speech?x=%20y&z")
    assert (upstream.seen[0].body, answer.body) == (sent, reply)
    assert upstream.seen[0].line == b"POST /v1/audio/speech?x=%20y&z HTTP/1.1"


async def test_a_base_url_with_a_path_goes_in_front(gateway, engine):
    upstream = await engine()
    await (await gateway(upstream.url + "/team/")).ask()
    assert upstream.seen[0].line == b"POST /team/v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize("status", [200, 201, 400, 404, 422, 429, 500, 503, 599])
async def test_an_engines_status_and_fields_pass_repeated_ones_too(gateway, engine, status):
    fields = b"Set-Cookie: a=1\r\nX-Own: One\r\nset-cookie: b=2\r\nRetry-After: 9\r\ncontent-encoding: br\r\n"
    upstream = await engine(b"HTTP/1.1 %d Whatever\r\n%bcontent-length: 2\r\n\r\nno" % (status, fields))
    answer = await (await gateway(upstream.url)).ask()
    assert (answer.status, answer.body) == (status, b"no")
    assert fields in answer.head


async def test_credentials_and_hop_by_hop_fields_stay_here(gateway, engine):
    upstream = await engine(
        b"HTTP/1.1 200 OK\r\nconnection: x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 0\r\n\r\n"
    )
    running = await gateway(upstream.url, api_key="engine-key")
    secrets = (b"authorization: Bearer client-key", b"x-api-key: client-key", b"proxy-authorization: Basic x")
    answer = await running.ask(b'{"model":"m"}', *secrets, b"connection: x-mine", b"x-mine: 1", b"te: trailers", b"accept-encoding: br")
    seen = upstream.seen[0]
    assert seen.field(b"authorization") == [b"Bearer engine-key"]
    assert b"client-key" not in seen.head
    assert [seen.field(name) for name in (b"x-mine", b"te", b"proxy-authorization", b"connection")] == [[], [], [], []]
    assert seen.field(b"accept-encoding") == [b"br"]
    assert seen.field(b"host") == [upstream.url.removeprefix("http://").encode()]
    assert [answer.field(name) for name in (b"x-private", b"keep-alive", b"connection")] == [[], [], []]


async def test_a_client_key_is_dropped_even_if_the_engine_wants_none(gateway, engine):
    upstream = await engine()
    await (await gateway(upstream.url)).ask(b'{"model":"m"}', b"authorization: Bearer client-key")
    assert upstream.seen[0].field(b"authorization") == []


@pytest.mark.parametrize(("name", "expected"), [(b"m", b"real"), (b"alias", b"real"), (b"lora", b"lora"), (b"real-not", None)])
async def test_only_a_name_that_the_engine_does_not_know_is_replaced(gateway, engine, name, expected):
    upstream = await engine()
    running = await gateway(upstream.url, served=("real", "lora"), aliases=("alias", "lora"))
    answer = await running.ask(b'{ "messages":[{"model":"m"}] ,"model" : "%b", "n":1}' % name)
    if expected is None:
        assert answer.status == 404
    else:
        assert upstream.seen[0].body == b'{ "messages":[{"model":"m"}] ,"model" : "%b", "n":1}' % expected


async def test_an_upload_is_routed_by_its_model_field_and_renamed(gateway, engine):
    form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="model"\r\n\r\n\x00\xff--b\r\n--b\r\n'
    form += b'Content-Disposition: form-data; name="model"\r\n\r\n%b\r\n--b--\r\n'
    upstream = await engine()
    running = await gateway(upstream.url, served=("a-longer-name",))
    answer = await running.ask(form % b"m", b"content-type: multipart/form-data; boundary=b", path=b"/v1/audio/transcriptions")
    assert answer.status == 200
    assert upstream.seen[0].body == form % b"a-longer-name"


async def test_a_chunked_request_reaches_the_engine_whole_and_sized(gateway, engine):
    upstream = await engine()
    client = await (await gateway(upstream.url)).connect()
    client.send(b"POST /v1/x HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n")
    for piece in (b'{"mod', b'el":"m"', b"}"):
        client.send(chunk(piece))
    client.send(b"0\r\nx-trailer: 1\r\n\r\n")
    assert (await client.answer()).status == 200
    assert (upstream.seen[0].body, upstream.seen[0].field(b"content-length")) == (b'{"model":"m"}', [b"13"])
    assert (await client.ask()).status == 200
    assert [seen.field(b"x-trailer") for seen in upstream.seen] == [[], []]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("ending", ["chunked", "close"])
async def test_an_answer_without_a_length_is_chunked_or_ends_with_the_connection(gateway, engine, version, ending):
    closing = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENT + DONE
    upstream = await engine(sse(EVENT, DONE) if ending == "chunked" else sends(closing, then="close"))
    answer = await (await gateway(upstream.url)).ask(version=version)
    assert answer.body == EVENT + DONE
    assert answer.field(b"transfer-encoding") == ([b"chunked"] if version == b"1.1" else [])


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_have_no_body_leave_the_connection_in_step(gateway, engine, status):
    client = await (await gateway((await engine(b"HTTP/1.1 %d X\r\netag: x\r\n\r\n" % status)).url)).connect()
    for _ in range(2):
        assert (await client.ask()).status == status


async def test_interim_answers_of_an_engine_are_swallowed(gateway, engine):
    upstream = await engine(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK)
    answer = await (await gateway(upstream.url)).ask()
    assert (answer.status, answer.body, answer.field(b"link")) == (200, b'{"ok":true}', [])


async def test_trailers_and_chunk_extensions_of_an_engine_are_dropped(gateway, engine):
    upstream = await engine(SSE + b"%x;ext=1\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(EVENT), EVENT))
    client = await (await gateway(upstream.url)).connect()
    for _ in range(2):
        answer = await client.ask()
        assert (answer.chunks, answer.field(b"x-trailer")) == ([EVENT], [])


async def test_events_reach_the_client_one_by_one_as_they_come(gateway, engine):
    step = asyncio.Event()

    async def script(engine, reader, writer, seen):
        writer.write(SSE)
        for _ in range(3):
            await step.wait()
            step.clear()
            writer.write(chunk(EVENT))
        writer.write(b"0\r\n\r\n")

    client = await (await gateway((await engine(script)).url)).connect()
    client.post()
    step.set()
    await client.head()
    for _ in range(2):
        assert await client.chunk() == EVENT
        step.set()
    assert [await client.chunk(), await client.chunk()] == [EVENT, b""]


async def test_an_engine_may_have_an_ipv6_address(gateway):
    hosts = []

    async def serve(reader, writer):
        hosts.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    async with await asyncio.start_server(serve, "::1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await (await gateway(f"http://[::1]:{port}")).ask()).status == 200
    assert b"\r\nhost: [::1]:%d\r\n" % port in hosts[0]


async def test_tls_engines_are_checked_against_the_systems_authorities(gateway, engine, tmp_path, monkeypatch):
    (tmp_path / "config").write_text("[req]\ndistinguished_name=n\n[n]\n[v]\nsubjectAltName=IP:127.0.0.1\n")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 1 -subj /CN=127.0.0.1 -config config -extensions v"
    making = await asyncio.create_subprocess_exec(*make.split(), cwd=tmp_path, stderr=asyncio.subprocess.DEVNULL)
    assert await making.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    upstream = await engine(ssl=context)
    assert (await (await gateway(upstream.url)).ask()).status == 503
    assert upstream.seen == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    assert (await (await gateway(upstream.url)).ask()).body == b'{"ok":true}'


# --- connections


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


# --- failing before the commit


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


# --- the commit


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


# --- clients


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


# --- drain


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


# --- facts


async def test_a_sized_answer_is_counted_with_its_usage(gateway, engine):
    body = b'{"choices":[{"text":"\\"usage\\""}],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12},"x":null}'
    running = await gateway((await engine(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)).url)
    await running.ask()
    assert running.count("nebula_prompt_tokens_total", "m") == 7
    assert running.count("nebula_completion_tokens_total", "m", "false") == 5
    assert running.count("nebula_request_total", "200") == 1
    for name in ("nebula_request_duration_seconds", "nebula_time_to_first_token_seconds"):
        assert sum(running.series(name)[("m",)].buckets) == 1


@pytest.mark.parametrize("pieces", [1, 3, 40])
async def test_a_streams_usage_is_found_even_if_torn_apart(gateway, engine, pieces):
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
    size = -(-len(usage) // pieces)
    parts = [usage[i : i + size] for i in range(0, len(usage), size)]
    running = await gateway((await engine(sse(EVENT * 5, *parts, DONE))).url)
    await running.ask()
    assert running.count("nebula_completion_tokens_total", "m", "false") == 5


async def test_without_a_usage_events_are_counted_and_marked_as_an_estimate(gateway, engine):
    running = await gateway((await engine(sse(EVENT, b": ping\n\n", EVENT + EVENT, b'data: {"usage":null}\n\n', DONE))).url)
    await running.ask()
    assert running.count("nebula_completion_tokens_total", "m", "true") == 4
    assert running.count("nebula_completion_tokens_total", "m", "false") == 0


async def test_a_faulty_strategy_costs_the_client_a_500_and_nothing_else(gateway, engine):
    """A fault anywhere on the path is logged and ends one request."""
    running = await gateway((await engine()).url)
    running.table.find = None  # a fault that nobody foresaw
    client = await running.connect()
    assert (await client.ask()).status == 500
    assert await client.closed()
