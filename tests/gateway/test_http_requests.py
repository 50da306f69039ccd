"""What the public port makes of what clients send, good and bad."""

from __future__ import annotations

import asyncio
import json

import pytest

from nebula_core.gateway.data_path.limits import Limits
from nebula_core.router.routes import ModelRoute
from nebula_core.testing.scripted_engine import OK

pytestmark = pytest.mark.asyncio
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n"


def error_of(answer):
    return json.loads(answer.body)["error"]


async def get(gateway, path, *, method=b"GET", lines=b""):
    client = await gateway.connect()
    client.send(b"%b %b HTTP/1.1\r\nhost: g\r\n%b\r\n" % (method, path, lines))
    return await client.answer(to_head=method == b"HEAD")


async def test_models_are_listed_with_their_aliases(gateway):
    answer = await get(await gateway(), b"/v1/models")
    assert [entry["id"] for entry in json.loads(answer.body)["data"]] == ["alias", "m"]
    assert json.loads(answer.body)["data"][1] == {"id": "m", "object": "model", "created": 7, "owned_by": "nebula"}


@pytest.mark.parametrize("path", [b"/v1/models/Qwen/Qwen3-8B", b"/v1/models/Qwen%2FQwen3-8B"])
async def test_a_model_whose_name_holds_a_slash_is_found(gateway, path):
    answer = await get(await gateway(models=[ModelRoute(model_uid="Qwen/Qwen3-8B")]), path)
    assert json.loads(answer.body)["id"] == "Qwen/Qwen3-8B"


async def test_an_unknown_model_page_is_a_404_that_names_the_known_ones(gateway):
    answer = await get(await gateway(), b"/v1/models/none")
    assert (answer.status, error_of(answer)["code"]) == (404, "model_not_found")
    assert "Models here: m" in error_of(answer)["message"]


async def test_ready_tells_whether_a_table_was_applied_and_health_does_not_care(gateway):
    running = await gateway()
    assert (await get(running, b"/ready")).status == 200
    running.table.applied = False
    assert ((await get(running, b"/ready")).status, (await get(running, b"/health")).status) == (503, 200)


async def test_head_is_answered_like_get_without_the_body(gateway):
    running = await gateway()
    client = await running.connect()
    client.send(b"HEAD /v1/models HTTP/1.1\r\nhost: g\r\n\r\nGET /health HTTP/1.1\r\nhost: g\r\n\r\n")
    head = await client.answer(to_head=True)
    assert (head.status, int(head.field(b"content-length")[0]) > 0) == (200, True)
    assert (await client.answer()).body == b'{"status":"ok"}'


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        (b"POST", b"/health", 405, [b"GET, HEAD, OPTIONS"]),
        (b"POST", b"/v1/models/m", 405, [b"GET, HEAD, OPTIONS"]),
        (b"GET", b"/v1/chat/completions", 405, [b"POST, OPTIONS"]),
        (b"DELETE", b"/anything", 405, [b"POST, OPTIONS"]),
        (b"GET", b"/anything", 404, []),
    ],
)
async def test_wrong_methods_and_paths_are_told_apart(gateway, method, path, status, allow):
    answer = await get(await gateway(), path, method=method)
    assert (answer.status, answer.field(b"allow")) == (status, allow)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", None, None),
        (b"{", None, None),
        (b'{"model":"m"} x', None, None),
        (b'{"model":"\xff"}', None, None),
        (b"[]", "invalid_type", None),
        (b"{}", "missing_model", "model"),
        (b'{"model":1}', "invalid_type", "model"),
        (b'{"model":null}', "invalid_type", "model"),
    ],
)
async def test_a_body_without_a_usable_model_is_a_400(gateway, body, code, param):
    answer = await (await gateway()).ask(body)
    assert (answer.status, error_of(answer)["code"], error_of(answer)["param"]) == (400, code, param)


async def test_an_unknown_model_is_a_404_and_names_no_more_than_twenty(gateway):
    running = await gateway(models=[ModelRoute(model_uid=f"model-{i:03}") for i in range(500)])
    answer = await running.ask(b'{"model":"%b"}' % (b"x" * 5000))
    assert answer.status == 404
    assert "and 481 more" in error_of(answer)["message"]
    assert len(answer.body) < 1500
    assert running.series("nebula_request_total").keys() == {("404",)}


async def test_a_known_model_without_a_replica_is_a_503_that_says_why_and_when_if_nothing_may_wait(gateway):
    answer = await (await gateway(wait_s=0)).ask()
    assert (answer.status, answer.field(b"retry-after"), error_of(answer)["code"]) == (503, [b"5"], "no_ready_replica")
    assert "it is loading" in error_of(answer)["message"]


async def test_a_refused_request_leaves_the_connection_usable(gateway, engine):
    client = await (await gateway((await engine()).url)).connect()
    assert (await client.ask(b"{")).status == 400
    assert (await client.ask()).status == 200


@pytest.mark.parametrize("given", [b"abc-123", b"a" * 128, b"two words"])
async def test_a_sane_request_id_is_kept_and_passed_on(gateway, engine, given):
    upstream = await engine()
    answer = await (await gateway(upstream.url)).ask(b'{"model":"m"}', b"x-request-id: " + given)
    assert answer.field(b"x-request-id") == upstream.seen[0].field(b"x-request-id") == [given]


@pytest.mark.parametrize("given", [b"", b"a" * 129, b"caf\xc3\xa9"])
async def test_another_request_id_is_replaced(gateway, engine, given):
    upstream = await engine()
    answer = await (await gateway(upstream.url)).ask(b'{"model":"m"}', b"x-request-id: " + given)
    assert answer.field(b"x-request-id") == upstream.seen[0].field(b"x-request-id")
    assert answer.field(b"x-request-id")[0].startswith(b"req-")


async def test_every_request_gets_an_id_of_its_own_errors_included(gateway):
    running = await gateway(wait_s=0)
    ids = {(await running.ask(body)).field(b"x-request-id")[0] for body in (b"{", b'{"model":"m"}', b'{"model":"none"}')}
    ids |= set((await running.raw(b"nonsense\r\n\r\n")).field(b"x-request-id"))
    assert len(ids) == 4


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/2.0\r\nhost: g\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET health HTTP/1.1\r\nhost: g\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost : g\r\n\r\n",
        b"GET /health HTTP/1.1\nhost: g\n\n",
        HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\na",
        HEAD + b"content-length: -1\r\n\r\na",
        HEAD + b"content-length: 1, 1\r\n\r\na",
        HEAD + b"transfer-encoding: gzip\r\n\r\n",
        HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST /../secret HTTP/1.1\r\nhost: g\r\n\r\n",
        b"POST /a/%2e%2E/secret HTTP/1.1\r\nhost: g\r\n\r\n",
        b"POST /a%2f..%2Fsecret HTTP/1.1\r\nhost: g\r\n\r\n",
    ],
)
async def test_what_is_not_clean_http_is_a_400_and_the_end_of_the_connection(gateway, engine, request_):
    upstream = await engine()
    client = await (await gateway(upstream.url)).connect()
    client.send(request_)
    answer = await client.answer()
    assert (answer.status, answer.field(b"connection")) == (400, [b"close"])
    client.send(b"GET /health HTTP/1.1\r\nhost: g\r\n\r\n")
    assert await client.closed()
    assert upstream.seen == []


async def test_connect_is_refused(gateway):
    assert (await (await gateway()).raw(b"CONNECT a:1 HTTP/1.1\r\nhost: g\r\n\r\n")).status == 405


@pytest.mark.parametrize("pieces", [1, 50])
async def test_a_head_that_is_too_large_is_a_431(gateway, pieces):
    client = await (await gateway()).connect()
    client.send(HEAD)
    for i in range(pieces):
        client.send(b"x-%d: %b\r\n" % (i, b"a" * (100_000 // pieces)))
    client.send(b"\r\n")
    assert (await client.answer()).status == 431
    assert await client.closed()


async def test_a_large_body_does_not_count_towards_the_head(gateway, engine):
    body = b'{"model":"m","x":"%b"}' % (b"a" * 300_000)
    assert (await (await gateway((await engine()).url)).ask(body)).status == 200


@pytest.mark.parametrize("begun", [b"0\r\nx: ", b"0\r\n", b"5;", b"5\r\nhello\r\n0;x="])
async def test_a_trailer_or_a_chunks_extension_without_end_is_a_431(gateway, begun):
    client = await (await gateway()).connect()
    client.send(HEAD + b"transfer-encoding: chunked\r\n\r\n" + begun)
    client.send(b"a" * 1_000_000)
    assert (await client.answer()).status == 431


async def test_an_announced_body_that_is_too_large_is_refused_unread(gateway):
    client = await (await gateway(max_body_bytes=1024)).connect()
    client.send(HEAD + b"content-length: 1025\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, error_of(answer)["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("framing", [b"content-length: 3000000", b"transfer-encoding: chunked"])
async def test_a_client_that_sends_all_of_a_too_large_body_can_read_the_refusal(gateway, framing):
    client = await (await gateway(max_body_bytes=1024)).connect()
    chunk = b"%x\r\n%b\r\n" % (100_000, b"a" * 100_000) if b"chunked" in framing else b"a" * 100_000
    client.send(HEAD + framing + b"\r\n\r\n")
    for _ in range(30):
        client.send(chunk)
    await client.writer.drain()
    assert (await client.answer()).status == 413
    assert await client.closed()


async def send_forever(client):
    while True:
        client.send(b"a" * 65536)
        await client.writer.drain()
        await asyncio.sleep(0)


async def test_what_is_read_after_a_refusal_is_bounded(gateway):
    running = await gateway(max_body_bytes=1024, limits=Limits(linger_bytes=100_000))
    client = await running.connect()
    client.send(HEAD + b"content-length: 99999999\r\n\r\n")
    with pytest.raises(ConnectionError):
        await send_forever(client)


async def test_what_is_sent_after_a_refusal_costs_no_answer_before_it(gateway, engine, until):
    go_on = asyncio.Event()

    async def script(engine, reader, writer, seen):
        await go_on.wait()
        writer.write(OK)

    upstream = await engine(script)
    client = await (await gateway(upstream.url, max_body_bytes=1024, limits=Limits(linger_bytes=100_000))).connect()
    client.post()
    await until(lambda: upstream.seen)
    client.send(HEAD + b"content-length: 2000000\r\n\r\n")
    await asyncio.sleep(0.05)  # so that the refused body comes by itself
    client.send(b"a" * 2_000_000)
    await asyncio.sleep(0.2)
    go_on.set()
    assert (await client.answer()).status == 200


async def test_100_continue_invites_a_body_that_is_welcome(gateway, engine):
    client = await (await gateway((await engine()).url)).connect()
    client.send(HEAD + b"content-length: 13\r\nexpect: 100-continue\r\n\r\n")
    assert (await client.answer()).status == 100
    client.send(b'{"model":"m"}')
    assert (await client.answer()).status == 200


async def test_a_body_that_is_too_large_is_not_invited(gateway):
    client = await (await gateway(max_body_bytes=1024)).connect()
    client.send(HEAD + b"content-length: 2000\r\nexpect: 100-continue\r\n\r\n")
    assert (await client.answer()).status == 413


async def test_a_body_that_came_along_needs_no_invitation(gateway, engine):
    assert (await (await gateway((await engine()).url)).ask(b'{"model":"m"}', b"expect: 100-continue")).status == 200


async def test_pipelined_requests_are_answered_in_order(gateway, engine):
    client = await (await gateway((await engine()).url)).connect()
    for _ in range(3):
        client.post()
        client.send(b"GET /v1/models/m HTTP/1.1\r\nhost: g\r\n\r\n")
    answers = [await client.answer() for _ in range(6)]
    assert [b'"ok"' in answer.body for answer in answers] == [True, False] * 3


async def test_a_pipelined_request_that_waits_for_100_continue_gets_it_in_its_turn(gateway, engine):
    client = await (await gateway((await engine()).url)).connect()
    client.post()
    client.send(HEAD + b"content-length: 13\r\nexpect: 100-continue\r\n\r\n")
    assert [(await client.answer()).status, (await client.answer()).status] == [200, 100]
    client.send(b'{"model":"m"}')
    assert (await client.answer()).status == 200


async def test_bad_bytes_after_good_requests_are_refused_in_their_turn(gateway, engine):
    client = await (await gateway((await engine()).url)).connect()
    client.post()
    client.send(b"nonsense\r\n\r\n")
    assert [(await client.answer()).status, (await client.answer()).status] == [200, 400]
    assert await client.closed()


async def test_a_client_that_pipelines_and_never_reads_is_not_answered_into_memory(gateway, until):
    running = await gateway(models=[ModelRoute(model_uid=f"model-{i:05}") for i in range(2000)])
    client = await running.connect()
    client.writer.transport.pause_reading()
    client.send(b"GET /v1/models HTTP/1.1\r\nhost: g\r\n\r\n" * 5000)  # asks for 900 MB
    connections = running.server.services.connections
    await until(lambda: any(connection.paused for connection in connections))
    assert connections.pop().transport.get_write_buffer_size() < 1_000_000


async def test_http_1_0_is_answered_and_closed_or_kept_if_it_asks(gateway, engine):
    running = await gateway((await engine()).url)
    once = await running.connect()
    assert (await once.ask(version=b"1.0")).field(b"connection") == [b"close"]
    assert await once.closed()
    kept = await running.connect()
    for _ in range(2):
        assert (await kept.ask(b'{"model":"m"}', b"connection: keep-alive", version=b"1.0")).field(b"connection") == [b"keep-alive"]


async def test_a_client_that_asks_for_it_gets_the_connection_closed(gateway, engine):
    client = await (await gateway((await engine()).url)).connect()
    client.post(b'{"model":"m"}', b"connection: close")
    client.post()  # comes too late
    answer = await client.answer()
    assert (answer.status, answer.field(b"connection")) == (200, [b"close"])
    assert await client.closed()


async def test_an_upgrade_is_declined_and_the_body_that_came_with_it_is_read(gateway, engine):
    upstream = await engine()
    client = await (await gateway(upstream.url)).connect()
    offer = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAEAAEAAAAIAAAAA")
    for _ in range(2):
        assert (await client.ask(b'{"model":"m"}', *offer)).status == 200
    assert (await client.ask()).status == 200
    assert [seen.body for seen in upstream.seen] == [b'{"model":"m"}'] * 3
    assert upstream.seen[0].field(b"upgrade") == upstream.seen[0].field(b"http2-settings") == []


@pytest.mark.parametrize(("version", "connection"), [(b"1.1", b"Upgrade, close"), (b"1.0", b"Upgrade")])
async def test_the_body_of_a_declined_upgrade_may_come_later_and_be_the_clients_last(gateway, engine, version, connection):
    upstream = await engine()
    client = await (await gateway(upstream.url)).connect()
    client.send(b"POST /v1/chat/completions HTTP/%b\r\nhost: g\r\ncontent-length: 13\r\n" % version)
    client.send(b"upgrade: h2c\r\nconnection: %b\r\n\r\n" % connection)
    await asyncio.sleep(0.05)  # so that the body comes by itself
    client.send(b'{"model":"m"}')
    assert (await client.answer()).status == 200
    assert [seen.body for seen in upstream.seen] == [b'{"model":"m"}']
    assert await client.closed()


async def test_a_target_with_scheme_and_host_is_taken_for_its_path(gateway, engine):
    upstream = await engine()
    await (await gateway(upstream.url)).ask(path=b"http://gateway/v1/rerank?x=1")
    assert upstream.seen[0].line == b"POST /v1/rerank?x=1 HTTP/1.1"


async def test_a_slow_head_is_a_408(gateway):
    client = await (await gateway(limits=Limits(head_s=0.1))).connect()
    client.send(b"POST /v1/chat")
    assert (await client.answer()).status == 408
    assert await client.closed()


async def test_a_head_that_trickles_in_is_a_408_all_the_same(gateway):
    client = await (await gateway(limits=Limits(head_s=0.2))).connect()

    async def trickle():
        while True:
            client.send(b"a")
            await asyncio.sleep(0.02)

    client.send(b"GET /")
    task = asyncio.create_task(trickle())
    try:
        assert (await client.answer()).status == 408
    finally:
        task.cancel()


async def test_a_head_that_begins_behind_another_request_is_a_408_as_soon(gateway):
    client = await (await gateway(limits=Limits(head_s=0.1))).connect()
    client.send(b"GET /health HTTP/1.1\r\nhost: g\r\n\r\nPOST /v1/c")
    assert (await client.answer()).status == 200
    assert (await asyncio.wait_for(client.answer(), 5)).status == 408


async def test_a_line_end_after_a_request_is_not_the_beginning_of_another(gateway, engine):
    running = await gateway((await engine()).url, limits=Limits(head_s=0.1))
    client = await running.connect()
    assert (await client.ask()).status == 200
    client.send(b"\r\n")  # as some old clients do
    await asyncio.sleep(0.3)
    assert (await client.ask()).status == 200
    client.send(b"\r\nPOST /v1/chat")
    assert (await client.answer()).status == 408


async def test_a_body_that_stops_coming_is_a_408(gateway):
    client = await (await gateway(idle_timeout_s=0.1)).connect()
    client.send(HEAD + b"content-length: 10\r\n\r\nabc")
    assert (await client.answer()).status == 408


async def test_an_idle_connection_is_closed(gateway, engine):
    client = await (await gateway((await engine()).url, keep_alive_s=0.1)).connect()
    assert (await client.ask()).status == 200
    assert await client.closed()


async def test_a_connection_that_never_asks_is_closed(gateway):
    assert await (await (await gateway(keep_alive_s=0.1)).connect()).closed()


@pytest.mark.parametrize(
    ("origins", "origin", "allowed", "vary"),
    [
        ((), b"https://a", [], []),
        (("*",), b"https://a", [b"*"], []),
        (("https://a",), b"https://a", [b"https://a"], [b"Origin"]),
        (("https://a",), b"https://b", [], [b"Origin"]),
    ],
)
async def test_cross_origin_calls_follow_the_settings(gateway, engine, origins, origin, allowed, vary):
    running = await gateway((await engine()).url, cors_origins=origins)
    for body in (b'{"model":"m"}', b"{"):
        answer = await running.ask(body, b"origin: " + origin)
        assert (answer.field(b"access-control-allow-origin"), answer.field(b"vary")) == (allowed, vary)
    lines = b"origin: %b\r\naccess-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n" % origin
    preflight = await get(running, b"/v1/chat/completions", method=b"OPTIONS", lines=lines)
    assert (preflight.status, preflight.field(b"access-control-allow-headers")) == (204, [b"authorization"] if allowed else [])


async def test_which_origins_may_read_an_answer_is_not_for_engines_to_say(gateway, engine):
    upstream = await engine(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\ncontent-length: 0\r\n\r\n")
    answer = await (await gateway(upstream.url, cors_origins=["https://a"])).ask(b'{"model":"m"}', b"origin: https://a")
    assert answer.field(b"access-control-allow-origin") == [b"https://a"]
    answer = await (await gateway(upstream.url)).ask(b'{"model":"m"}', b"origin: https://a")
    assert answer.field(b"access-control-allow-origin") == []


@pytest.mark.parametrize(
    "path",
    [
        *(b"/slots/0?action=erase", b"/v1/load_lora_adapter", b"/update_weights_from_disk", b"/sleep"),
        *(b"/slow_down", b"/clear_hicache_storage_backend", b"/destroy_weights_update_group", b"/send_weights_to_remote_instance"),
        *(b"/get_weights_by_name", b"/start_expert_distribution_record", b"/dump_expert_distribution_record"),
        *(b"/%73leep", b"/%6cora-adapters", b"http://host/slots/0", b"http://host/%73lots/0?action=erase"),
    ],
)
async def test_what_manages_an_engine_is_not_relayed(gateway, engine, path):
    upstream = await engine()
    answer = await (await gateway(upstream.url)).ask(path=path)
    assert answer.status == 403
    assert b"manages an engine" in answer.body
    assert upstream.seen == []


@pytest.mark.parametrize("depth", [900, 5_000, 100_000])
async def test_json_nested_without_end_is_no_fault_of_ours(gateway, engine, depth):
    running = await gateway((await engine()).url)
    answer = await running.ask(b'{"model":"m","a":' + b"[" * depth + b"]" * depth + b"}")
    assert answer.status in (200, 400)
    assert (await running.ask()).status == 200
