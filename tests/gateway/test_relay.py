"""What passes through the gateway, and what is counted of it."""

from __future__ import annotations

import asyncio
import os
import ssl

import pytest

from nebula_core.testing.scripted_engine import DONE, EVENT, OK, SSE, chunk, sends, sse

pytestmark = pytest.mark.asyncio


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
