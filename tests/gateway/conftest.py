"""A gateway's data path on a real port, scripted engines, and a client that sees every byte."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import uvloop

from nebula_core.gateway.data_path.limits import Limits
from nebula_core.gateway.data_path.server import Server
from nebula_core.interfaces import Strategy
from nebula_core.metrics import Metrics
from nebula_core.router.candidate import Candidate
from nebula_core.router.events import Lost, Pick, RouteRequest
from nebula_core.router.router import Router
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.router.table import RoutingTable
from nebula_core.settings import GatewaySettings
from nebula_core.snapshots import Sample
from nebula_core.testing import scripted_engine
from nebula_core.testing.scripted_engine import OK, ScriptedEngine, Seen


def pytest_asyncio_loop_factories():
    """The event loop that workers run on."""
    return {"uvloop": uvloop.new_event_loop}


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait until something holds; fails if it does not come to that."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process's or the kernel's
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture():
    return until


class First(Strategy):
    """Takes the first candidate, so that a test knows which."""

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        return Pick(candidates[0], "first")


class LeastLoaded(Strategy):
    """Goes by charges, so that a test sees that they count."""

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        return Pick(min(candidates, key=lambda candidate: candidate.load), "least_loaded")


@dataclass
class Answer:
    status: int
    head: bytes
    body: bytes
    chunks: list[bytes]

    def field(self, name: bytes) -> list[bytes]:
        return Seen(self.head, b"").field(name)


class Client:
    """A connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, body: bytes = b'{"model":"m"}', *lines: bytes, path: bytes = b"/v1/chat/completions", version: bytes = b"1.1") -> None:
        fields = b"".join(line + b"\r\n" for line in (b"host: gateway", b"content-length: %d" % len(body), *lines))
        self.send(b"POST %b HTTP/%b\r\n%b\r\n%b" % (path, version, fields, body))

    async def head(self) -> tuple[int, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), head

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self, *, to_head: bool = False) -> Answer:
        status, head = await self.head()
        answer = Answer(status, head, b"", [])
        if to_head or status in (204, 304) or status < 200:
            return answer
        if length := answer.field(b"content-length"):
            answer.body = await self.reader.readexactly(int(length[0]))
        elif answer.field(b"transfer-encoding"):
            while piece := await self.chunk():
                answer.chunks.append(piece)
            answer.body = b"".join(answer.chunks)
        else:
            answer.body = await self.reader.read()
        return answer

    async def ask(self, *args, **kwargs) -> Answer:
        self.post(*args, **kwargs)
        return await self.answer()

    async def closed(self) -> bool:
        """Whether the gateway ends the connection without another byte."""
        return await self.reader.read() == b""


class Gateway:
    """A data path in this event loop."""

    def __init__(self, server: Server, table: RoutingTable, metrics: Metrics, port: int, stack: AsyncExitStack) -> None:
        self.server, self.table, self.metrics, self.port, self._stack = server, table, metrics, port, stack
        self.url = f"http://127.0.0.1:{port}"

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._stack.callback(client.writer.close)
        return client

    async def ask(self, *args, **kwargs) -> Answer:
        return await (await self.connect()).ask(*args, **kwargs)

    async def raw(self, data: bytes) -> Answer:
        client = await self.connect()
        client.send(data)
        return await client.answer()

    @property
    def charged(self) -> int:
        return sum(candidate.charged for model in self.table.models.values() for candidate in model.candidates)

    def series(self, name: str) -> dict[tuple[str, ...], Sample]:
        return {sample.labels: sample for family in self.metrics.snapshot() if family.name == name for sample in family.samples}

    def count(self, name: str, *labels: str) -> float:
        sample = self.series(name).get(labels)
        return 0 if sample is None else sample.value

    def suspect(self, candidate: Candidate) -> None:
        """Have a replica passed over for a while, as if another worker could not connect to it."""
        route = candidate.route
        self.server.services.router.suspect(Lost(route.model_uid, route.replica_id, route.incarnation))

    async def at_rest(self) -> None:
        """Wait until nothing is in flight; fails if something leaks."""
        await until(lambda: not self.charged and not self.count("nebula_request_concurrent"))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def engine(stack: AsyncExitStack):
    """Start an engine that answers as a script says: bytes, or a coroutine function."""

    async def start(script=OK, port: int = 0, ssl=None) -> ScriptedEngine:
        return await stack.enter_async_context(scripted_engine.running(script, port, ssl))

    return start


@pytest.fixture
def gateway(stack: AsyncExitStack):
    """Start a data path whose model `m` is served by `urls`; `models` are further or other models."""

    async def start(
        *urls: str, models=(), limits: Limits | None = None, retry=None, served=(), api_key="", aliases=("alias",), **settings
    ) -> Gateway:
        table = RoutingTable()
        routes = tuple(
            Route(
                model_uid="m",
                replica_id=str(i),
                assignment_version="1",
                incarnation=1,
                url=url,
                served_names=tuple(served),
                api_key=api_key,
            )
            for i, url in enumerate(urls)
        )
        table.update([ModelRoute(model_uid="m", aliases=aliases, created=7, routes=routes, note="it is loading"), *models], whole=True)
        metrics = Metrics()
        logger = logging.getLogger("test")
        strategies = {"first": First(), "least_loaded": LeastLoaded()}
        router = Router(table, strategies, default="first", fallback="first", clock=time.monotonic, metrics=metrics, logger=logger)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = Server(router, GatewaySettings(**settings), metrics, retry=retry, limits=limits or Limits())
        await stack.enter_async_context(server)
        await server.listen(listener)
        return Gateway(server, table, metrics, listener.getsockname()[1], stack)

    return start


@pytest.fixture
def dead_url() -> str:
    """A base URL where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def mute_url(stack: AsyncExitStack) -> str:
    """A base URL where connections are neither accepted nor refused: its queue of waiting ones is full."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
