"""Whatever engines, clients and the table do, in whatever mix: nothing stays in flight or charged, and every request is counted once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nebula_core.router.routes import ModelRoute, Route
from nebula_core.testing.scripted_engine import SSE

pytestmark = pytest.mark.asyncio

JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n"
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
WAIT_S = 0.2
TURN_S = 0.03
TABLES = ["has replicas", "gets them", "loses them", "loses and gets them", "has none", "forgets the model", "is whole anew"]
"""What becomes of the routing table while requests come."""


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
@given(drawn=CALLS, table=st.sampled_from(TABLES), room=st.sampled_from([0, 3, 1000]))
async def test_whatever_happens_nothing_stays_in_flight_and_every_request_is_counted_once(
    gateway, engine, dead_url, until, drawn, table, room
):
    calls = [Call(number, acts, client) for number, (acts, client) in enumerate(drawn)]

    async def script(engine, reader, writer, seen):
        for piece in calls[json.loads(seen.body)["call"]].act():
            await play(piece, reader, writer)

    engines = [(await engine(script)).url for _ in range(2)]
    urls = [dead_url, *engines]
    begins_with = [] if table in ("gets them", "has none") else urls
    bounds = {"wait_s": WAIT_S, "wait_requests": room}
    running = await gateway(*begins_with, first_byte_timeout_s=SILENCE_S, idle_timeout_s=SILENCE_S, **bounds)
    async with asyncio.TaskGroup() as tasks:
        for call in calls[::2]:
            tasks.create_task(ask(running, call))
        changed = tasks.create_task(change(running, table, urls))
        await asyncio.sleep(TURN_S)
        for call in calls[1::2]:
            tasks.create_task(ask(running, call))
    await until(lambda: not running.server.services.connections)
    await running.at_rest()
    assert all(candidate.charged == 0 for candidate in changed.result())
    assert all(sample.value == 0 for sample in running.series("nebula_request_waiting").values())
    assert running.server.services.room.is_empty
    check_counts(running, calls)


async def change(running, table, urls):
    """Change the routing table while requests are under way; returns all candidates that there ever were."""
    changes = {
        "gets them": [urls],
        "loses them": [[]],
        "loses and gets them": [[], urls],
        "forgets the model": [None],
        "is whole anew": [[], urls],
    }.get(table, [])
    seen = set(running.table.models["m"].candidates)
    for number, change in enumerate(changes):
        await asyncio.sleep(TURN_S)  # requests are at any stage then
        routes = [
            Route(model_uid="m", replica_id=str(i), assignment_version="1", incarnation=2 + number, url=url)
            for i, url in enumerate(change or ())
        ]
        models = [] if change is None else [ModelRoute(model_uid="m", routes=tuple(routes))]
        running.server.services.router.update(models, ["m"] if change is None else [], whole=table == "is whole anew")
        seen.update(*(model.candidates for model in running.table.models.values()))
    return seen


def check_counts(running, calls):
    """A request is whole when its last byte has come; what is reset on the way may never come."""
    sent = sum(2 if call.client == "asks twice" else 1 for call in calls)
    unsure = sum({"resets": 1, "asks twice": 1}.get(call.client, 0) for call in calls)  # the second is not read once the first has failed
    counted = sum(sample.value for sample in running.series("nebula_request_total").values())
    assert sent - unsure <= counted <= sent
    unknown = running.count("nebula_request_total", "404")  # of a model that is gone nothing more is counted
    assert counted - unknown <= observed(running, "nebula_request_duration_seconds") <= counted
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
