"""Whatever engines and clients do, in whatever mix: nothing stays in flight, nothing stays charged, and every request is counted once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.asyncio

JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'f\r\ndata: {"n":1}\n\n\r\n'
END = b"0\r\n\r\n"
ENGINE = {
    "answers": (JSON, b'{"ok": true}'),
    "streams": (SSE, EVENT, EVENT, END),
    "fails": (b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops",),
    "is busy": (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nretry-after: 1\r\n\r\nbusy",),
    "is no engine": (b"220 mail ready\r\n",),
    "resets before the head": ("reset",),
    "resets in the head": (b"HTTP/1.1 200 OK\r\ncontent-", "reset"),
    "resets after the head": (SSE, "reset"),
    "resets after an event": (SSE, EVENT, "reset"),
    "ends early": (JSON, b'{"ok"', "end"),
    "stalls": ("stall",),
    "stalls after the head": (SSE, "stall"),
    "stalls after an event": (SSE, EVENT, "stall"),
    "closes afterwards": (JSON, b'{"ok": true}', "end"),
}
"""What an engine sends, a piece at a time, and what it does then."""
CLIENT = ["waits", "waits", "asks twice", "half-closes", "leaves at once", "leaves after the head", "leaves in the middle", "resets"]
SILENCE_S = 0.25


class Call:
    """One client's request: what each engine that gets it does, and what the client does."""

    def __init__(self, number: int, acts: Sequence[str], client: str) -> None:
        self.body = json.dumps({"model": "m", "call": number}).encode()
        self.client = client
        self._acts = iter(acts)

    def act(self) -> tuple[bytes | str, ...]:
        """What the next engine does."""
        return ENGINE[next(self._acts, "answers")]


CALLS = st.lists(st.tuples(st.lists(st.sampled_from(sorted(ENGINE)), max_size=3), st.sampled_from(CLIENT)), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn=CALLS)
async def test_whatever_happens_nothing_stays_in_flight_and_every_request_is_counted_once(gateway, engine, dead_url, until, drawn):
    calls = [Call(number, acts, client) for number, (acts, client) in enumerate(drawn)]

    async def script(engine, reader, writer, seen):
        for piece in calls[json.loads(seen.body)["call"]].act():
            await play(piece, reader, writer)

    engines = [(await engine(script)).url for _ in range(2)]
    running = await gateway(dead_url, *engines, first_byte_timeout_s=SILENCE_S, idle_timeout_s=SILENCE_S)
    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            tasks.create_task(ask(running, call))
    await until(lambda: not running.server.services.connections)
    await running.at_rest()
    assert all(candidate.charged == 0 for candidate in running.table.models["m"].candidates)
    check_counts(running, calls)


def check_counts(running, calls):
    """A request is whole when its last byte has come; what is reset on the way may never come."""
    sent = sum(2 if call.client == "asks twice" else 1 for call in calls)
    unsure = sum({"resets": 1, "asks twice": 1}.get(call.client, 0) for call in calls)  # the second is not read once the first has failed
    counted = sum(sample.value for sample in running.series("nebula_request_total").values())
    assert sent - unsure <= counted <= sent
    assert observed(running, "nebula_request_duration_seconds") == counted
    assert observed(running, "nebula_time_to_first_token_seconds") <= counted
    picked = sum(sample.value for (_, status), sample in running.series("nebula_route_total").items() if status != "no_candidate")
    assert picked >= running.count("nebula_request_total", "200")


def observed(running, name):
    return sum(sum(sample.buckets) for sample in running.series(name).values())


async def play(piece, reader, writer):
    match piece:
        case "stall":
            await reader.read()  # until the gateway has had enough
            raise ConnectionResetError
        case "reset":
            writer.transport.abort()
            raise ConnectionResetError
        case "end":
            raise ConnectionResetError
        case _:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


async def ask(running, call):
    client = await running.connect()
    client.post(call.body)
    with suppress(OSError, asyncio.IncompleteReadError):
        match call.client:
            case "waits":
                await client.answer()
            case "asks twice":
                client.post(call.body)
                await client.answer()
                await client.answer()
            case "half-closes":
                client.writer.write_eof()
                await client.reader.read()
            case "leaves after the head":
                await client.head()
            case "leaves in the middle":
                await client.reader.readuntil(b"\r\n\r\n")
                await client.reader.read(8)
            case "resets":
                client.writer.transport.abort()
    client.writer.close()
