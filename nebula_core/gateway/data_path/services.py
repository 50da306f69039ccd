"""What every connection of the data path shares."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nebula_core.gateway.data_path.cors import Cors
from nebula_core.gateway.data_path.http import Request
from nebula_core.gateway.data_path.known_heads import KnownHeads
from nebula_core.gateway.data_path.measures import Measures
from nebula_core.gateway.data_path.pool import Pool
from nebula_core.gateway.data_path.retries import Retries
from nebula_core.gateway.data_path.waiting import WaitingRoom
from nebula_core.settings import GatewaySettings

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.client import ClientConnection
    from nebula_core.router.router import Router


_SANE_ID = re.compile(rb"[!-~](?:[ -~]{0,126}[!-~])?")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that protect the gateway and that no setting changes."""

    head_bytes: int = 64 * 1024
    """Largest request line and header fields."""
    head_s: float = 30.0
    """Longest time for a request's head to arrive, from its first byte."""
    first_request_s: float = 1.0
    """How long a drain waits for the first request of a client that has just connected: it cannot know that it comes too late."""
    hold_bytes: int = 16 * 1024
    """Comments of a stream that are held back with its head, before the first event."""
    hold_s: float = 30.0
    """Longest time that they are held back: proxies in front may need to see that something lives."""
    linger_bytes: int = 16 * 1024 * 1024
    """What is read and dropped after a refusal, so that a client still sending gets to read it."""
    linger_s: float = 5.0
    write_high_bytes: int = 16 * 1024
    """Bytes waiting for a slow client above which its engine is not read from."""
    unsent_bytes: int = 16 * 1024
    """Bytes that the kernel takes for a client beyond what is on its way to it; without a bound up to 4 MiB for one that has stalled."""
    unread_bytes: int = 32 * 1024
    """Bytes that the kernel takes from an engine whose client has stalled; without a bound they were 900 KiB per stream, measured."""
    idle_engine_connections: int = 512
    """Idle connections kept per engine."""
    idle_engine_s: float = 4.0
    """How long they are kept: less than the 5 s after which uvicorn, under vLLM and SGLang, closes its end."""


@dataclass(slots=True)
class Services:
    """Shared by all connections of one gateway worker."""

    router: Router
    settings: GatewaySettings
    limits: Limits
    measures: Measures
    retries: Retries
    room: WaitingRoom
    cors: Cors
    pool: Pool
    clock: Callable[[], float]
    """Monotonic seconds, exact."""
    keep_alive_s: float
    first_byte_s: float
    idle_s: float
    """These three are copies of settings: an attribute of a pydantic model costs 50 ns, and the last one is read per piece."""
    now: float
    """The same at the last sweep: exact enough for timeouts, and free."""
    request_ids: Iterator[bytes]
    known_requests: KnownHeads[Request] = field(default_factory=dict)
    draining: bool = False
    connections: set[ClientConnection] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Connects under way; each is cancelled with the request it is for."""
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last connection has ended while draining."""

    def identify(self, request: Request) -> None:
        """Give a request its id, the client's own if that is sane, and the lines that go on every answer to it."""
        fields = request.fields
        given = fields.get(b"x-request-id")
        request.request_id = given if given is not None and _SANE_ID.fullmatch(given) else next(self.request_ids)
        lines = b"x-request-id: %b\r\n" % request.request_id
        request.return_lines = lines + self.cors.lines(fields.get(b"origin")) if self.cors.enabled else lines

    def forget(self, connection: ClientConnection) -> None:
        """A client's connection has ended."""
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self.emptied.set()
