"""For tests of what carries requests: an engine whose answers are written byte by byte.

async with running(sends(SSE, chunk(EVENT), then="reset")) as engine:
    ...  # engine.url breaks off every stream after its first event
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

OK = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"ok":true}'
"""A whole answer."""
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
"""The head of a stream; what follows are chunks."""
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse(*events: bytes) -> bytes:
    """A whole stream, one event in each chunk."""
    return SSE + b"".join(map(chunk, events)) + b"0\r\n\r\n"


@dataclass
class Seen:
    """One request as the engine got it."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.split(b"\r\n")[0]

    def field(self, name: bytes) -> list[bytes]:
        """The values of a header field; `name` in lower case."""
        pairs = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip() for key, _, value in pairs if key.lower() == name]


@dataclass
class ScriptedEngine:
    """A server that has `script` answer each request, and counts what it sees."""

    script: Script
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """A client went away while its answer was under way."""
    url: str = ""
    server: asyncio.Server | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, port: int, ssl: ssl.SSLContext | None) -> None:
        """Listen on a port of loopback; 0 takes a free one."""
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", port, ssl=ssl)
        self.url = f"{'https' if ssl else 'http'}://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Listen no more, and drop all connections."""
        if self.server is not None:
            self.server.close()
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def until_gone(self, reader: asyncio.StreamReader) -> None:
        """Wait until the client closes the connection."""
        with suppress(OSError):
            await reader.read()
        self.gone.set()
        raise ConnectionResetError

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                seen = Seen(head, b"")
                seen.body = await reader.readexactly(int((seen.field(b"content-length") or [b"0"])[0]))
                self.seen.append(seen)
                await self.script(self, reader, writer, seen)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.open -= 1
            writer.close()


Script: TypeAlias = Callable[[ScriptedEngine, asyncio.StreamReader, asyncio.StreamWriter, Seen], Awaitable[None]]
"""Answers one request. If it raises `ConnectionResetError`, the connection is closed."""


def replies(answer: bytes) -> Script:
    """A script that always sends these bytes."""

    async def script(engine: ScriptedEngine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        writer.write(answer)
        await writer.drain()

    return script


def sends(*parts: bytes, then: Literal["reset", "close"] | None = None) -> Script:
    """A script that sends parts, each by itself, and then waits for the client to go or does as told."""

    async def script(engine: ScriptedEngine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then is None:
            await engine.until_gone(reader)
        if then == "reset":
            writer.transport.abort()
        raise ConnectionResetError

    return script


@asynccontextmanager
async def running(script: Script | bytes = OK, port: int = 0, ssl: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedEngine]:
    """An engine that listens for as long as the context; bytes are the answer to everything."""
    engine = ScriptedEngine(replies(script) if isinstance(script, bytes) else script)
    await engine.start(port, ssl)
    try:
        yield engine
    finally:
        await engine.stop()
