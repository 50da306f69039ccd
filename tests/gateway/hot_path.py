"""Counts what `test_hot_path.py` asks for, and prints it as JSON: calls of Nebula's Python functions for each kind of request."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

from nebula_strategy_prefix import Prefix, PrefixSettings

from nebula_core import Context
from nebula_core.gateway.data_path.server import Server
from nebula_core.gateway.data_path.upstream import EngineConnection
from nebula_core.metrics import Metrics
from nebula_core.router.router import Router
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.router.table import RoutingTable
from nebula_core.settings import GatewaySettings

ROUNDS = 64
BODY = b'{"model":"m","stream":%b,"messages":[{"role":"user","content":"hello %d"}]}'
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
USAGE = b'{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":20,"total_tokens":40}}'
ANSWER = b"HTTP/1.1 200 OK\r\nserver: engine\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(USAGE), USAGE)
HEAD = b"HTTP/1.1 200 OK\r\nserver: engine\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":" token"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(TOKEN), TOKEN)
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Wire(asyncio.Transport):
    """Takes what is written, at once."""

    def write(self, data: bytes) -> None: ...

    def writelines(self, parts) -> None: ...

    def set_write_buffer_limits(self, high=None, low=None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None: ...


class Path:
    """One client, one engine, each with a warm connection, and the data path between them."""

    def __init__(self) -> None:
        metrics, table, logger = Metrics(), RoutingTable(), logging.getLogger("test")
        strategy = Prefix(Context(logger=logger, metrics=metrics), PrefixSettings())
        router = Router(
            table, {"prefix": strategy}, default="prefix", fallback="prefix", clock=time.monotonic, metrics=metrics, logger=logger
        )
        url = "http://127.0.0.1:1"
        route = Route(model_uid="m", replica_id="0", assignment_version="a", incarnation=1, url=url)
        router.update([ModelRoute(model_uid="m", routes=(route,))], whole=True)
        server = Server(router, GatewaySettings(), metrics)
        self.engine = EngineConnection(server.services.pool.endpoint(url))
        self.engine.connection_made(Wire())
        self.engine.endpoint.keep(self.engine)
        self.client = server.connection()
        self.client.connection_made(Wire())
        self.outbox = server.services.outbox
        self.asked = 0
        self.counts = metrics

    def ask(self, *pieces: bytes, streamed: bytes = b"true") -> None:
        self.asked += 1
        body = BODY % (streamed, self.asked)
        feed(self.client, REQUEST % (len(body), body))
        self.outbox.flush()
        for piece in pieces:
            feed(self.engine, piece)
            self.outbox.flush()

    @property
    def answered(self) -> float:
        [family] = [family for family in self.counts.snapshot() if family.name == "nebula_request_total"]
        return sum(sample.value for sample in family.samples if sample.labels == ("200",))


def feed(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """What an event loop does with bytes that came."""
    protocol.get_buffer(-1)[: len(data)] = data
    protocol.buffer_updated(len(data))


def calls_per_round(act: Callable[[], None]) -> float:
    """How often functions of Nebula's packages are called by `act`, when all that is made once has been made."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("nebula_"):
            calls[frame.f_code.co_qualname] += 1

    for _ in range(ROUNDS):
        act()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for _ in range(ROUNDS):
            act()
    finally:
        sys.setprofile(before)
    return calls.total() / ROUNDS


def count(act: Callable[[Path], None]) -> float:
    path = Path()
    calls = calls_per_round(lambda: act(path))
    assert path.answered == path.asked
    return calls


async def main() -> None:
    few, many = (count(lambda path, events=events: path.ask(HEAD, *[CHUNK] * events, END)) for events in (10, 30))
    counted = {
        "json_request": count(lambda path: path.ask(ANSWER, streamed=b"false")),
        "stream": count(lambda path: path.ask(HEAD + 20 * CHUNK + END)),
        "event": (many - few) / 20,
    }
    print(json.dumps(counted))


if __name__ == "__main__":
    asyncio.run(main())
