"""The public port of one gateway worker: accepts clients, watches their deadlines, and drains."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

from nebula_core.gateway.data_path.client import ClientConnection
from nebula_core.gateway.data_path.limits import Limits
from nebula_core.gateway.data_path.services import Services
from nebula_core.interfaces import Retry
from nebula_core.metrics import Metrics
from nebula_core.settings import GatewaySettings

if TYPE_CHECKING:
    from nebula_core.router.router import Router

logger = logging.getLogger("nebula.gateway")

BACKLOG = 4096
ACCEPTED_AT_ONCE = 8
"""Connections accepted in one turn of the event loop.

libuv accepts one per listening descriptor and turn, so that a crowd of new clients waits while turns are long. Hence several
descriptors of the one socket: each costs a new connection about 1 us.
"""
SLOWEST_SWEEP_S = 0.5
FAREWELL_S = 0.2
"""How long a drain that is at its end waits until the last refusals are sent."""
DEFAULT_LIMITS = Limits()


class Server:
    """The data path of one worker. Leaving the context closes what is still open."""

    def __init__(
        self,
        router: Router,
        settings: GatewaySettings,
        metrics: Metrics,
        *,
        retry: Retry | None = None,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.services = Services(router, settings, limits, metrics, retry, clock, _request_ids())
        self._servers: list[asyncio.Server] = []
        self._sweep_s = _sweep_interval(settings, limits)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._sweep()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)
        if self._timer is not None:
            self._timer.cancel()

    async def listen(self, listener: socket.socket) -> None:
        """Accept clients on a bound socket. What is set on it here holds for theirs."""
        if sys.platform == "linux":
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self.services.limits.unsent_bytes)
        loop = asyncio.get_running_loop()
        for descriptor in (listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))):
            self._servers.append(await loop.create_server(self.connection, sock=descriptor, backlog=BACKLOG))

    def connection(self) -> ClientConnection:
        """A protocol for one client; what `listen` hands to the event loop."""
        return ClientConnection(self.services)

    async def drain(self, deadline_s: float) -> None:
        """Accept nothing more, let running requests finish for up to `deadline_s` seconds, then cut them off.

        Those that still wait for a replica then are told to come again.
        """
        services = self.services
        services.draining = True
        for server in self._servers:
            server.close()
        for connection in tuple(services.connections):
            connection.drain()
        await self._emptied(deadline_s)
        if services.room.close():
            await self._emptied(FAREWELL_S)
        for connection in tuple(services.connections):
            connection.cut()
        services.pool.close()
        await asyncio.sleep(0)  # lets the loop deliver the ends of all these connections
        if services.tasks:
            await asyncio.wait(tuple(services.tasks))

    async def _emptied(self, seconds: float) -> None:
        """Wait until no connection is left, for so long at most."""
        if self.services.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.services.emptied.wait()

    def _sweep(self) -> None:
        """Look at all deadlines: one timer for all connections costs nothing per request, and 0.4 ms for 10,000 of them."""
        services = self.services
        self._timer = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)
        services.now = now = services.clock()
        for connection in tuple(services.connections):
            if connection.deadline <= now:
                self._expire(connection)
        services.pool.sweep(now)

    def _expire(self, connection: ClientConnection) -> None:
        try:
            connection.expired()
        except Exception:  # a fault here must cost one connection, and not the sweep of all
            logger.exception("a connection whose time is up could not be ended in order")
            connection.cut()


def _sweep_interval(settings: GatewaySettings, limits: Limits) -> float:
    """A tenth of the shortest timeout: deadlines are met that much late."""
    shortest = min(
        settings.first_byte_timeout_s, settings.idle_timeout_s, settings.keep_alive_s, limits.head_s, limits.hold_s, limits.linger_s
    )
    return min(SLOWEST_SWEEP_S, max(0.01, shortest / 10))


def _request_ids() -> Iterator[bytes]:
    """Ids that no other worker makes: a random part drawn once, and a count."""
    return map((b"req-" + secrets.token_hex(8).encode() + b"-%x").__mod__, itertools.count(1))
