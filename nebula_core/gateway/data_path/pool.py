"""Warm connections to engines, kept per base URL."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nebula_core.gateway.data_path.known_heads import KnownHeads
from nebula_core.gateway.data_path.upstream import EngineConnection

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.answer_reader import AnswerHead
    from nebula_core.gateway.data_path.http import Request
    from nebula_core.gateway.data_path.limits import Limits
    from nebula_core.gateway.data_path.outbox import Outbox

FORGET_S = 60.0
"""An address that nothing was sent to for this long is forgotten: its replica is probably gone."""


class Endpoint:
    """Where an engine listens, and the idle connections to it: the one used last is used next, so that surplus ones grow old."""

    __slots__ = (
        "_host",
        "_port",
        "_tls",
        "_unread_bytes",
        "host_line",
        "idle",
        "known_heads",
        "limit",
        "open",
        "outbox",
        "prefix",
        "url",
        "used_at",
    )

    def __init__(self, url: str, limit: int, unread_bytes: int, tls: Callable[[], ssl.SSLContext], outbox: Outbox, now: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the base URL of an engine, such as http://10.0.0.5:8000")
        self.url = url
        self._unread_bytes = unread_bytes
        self._tls = tls() if parts.scheme == "https" else None
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        self.host_line = b"host: %b\r\n" % parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii")
        self.prefix = parts.path.rstrip("/").encode()
        self.known_heads: KnownHeads[AnswerHead] = {}
        self.idle: list[EngineConnection] = []
        self.limit = limit
        self.open = 0
        self.outbox = outbox
        self.used_at = now

    def request_head(self, request: Request, api_key: str, length: int) -> bytes:
        """The head that an engine here is sent for a client's request. `length`: of the body in bytes."""
        parts = [b"POST ", self.prefix, request.target, b" HTTP/1.1\r\n", self.host_line, *request.lines]
        if api_key:
            parts.append(b"authorization: Bearer %b\r\n" % api_key.encode())
        parts.append(b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (request.request_id, length))
        return b"".join(parts)

    def keep(self, connection: EngineConnection) -> bool:
        """Take an idle connection back; `False` if there are enough."""
        if len(self.idle) >= self.limit:
            return False
        self.idle.append(connection)
        return True

    def lost(self, connection: EngineConnection) -> None:
        """A connection to it has ended."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)

    async def connect(self, timeout_s: float) -> EngineConnection:
        """A new connection. Raises `OSError`: refused, unreachable, no such host, bad certificate, or `TimeoutError`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            transport, connection = await loop.create_connection(lambda: EngineConnection(self), self._host, self._port, ssl=self._tls)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._unread_bytes)
        return connection


class Pool:
    """All endpoints that requests were sent to lately."""

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        self._limits, self._outbox = limits, outbox
        self._endpoints: dict[str, Endpoint] = {}
        self._now = 0.0
        self._tls = cache(ssl.create_default_context)  # made when first needed, for reading the system's authorities takes 20 ms

    def endpoint(self, url: str) -> Endpoint:
        """The endpoint at this base URL. Raises `ValueError` if it is none."""
        endpoint = self._endpoints.get(url)
        if endpoint is None:
            limits = self._limits
            endpoint = self._endpoints[url] = Endpoint(
                url, limits.idle_engine_connections, limits.unread_bytes, self._tls, self._outbox, self._now
            )
        return endpoint

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long, before the engine does."""
        self._now = now
        for url, endpoint in list(self._endpoints.items()):
            old = now - self._limits.idle_engine_s
            while endpoint.idle and endpoint.idle[0].idle_since < old:
                endpoint.idle.pop(0).close()
            if endpoint.open:
                endpoint.used_at = now
            elif endpoint.used_at < now - FORGET_S:
                del self._endpoints[url]

    def close(self) -> None:
        """Close all idle connections."""
        for endpoint in self._endpoints.values():
            while endpoint.idle:
                endpoint.idle.pop().close()
