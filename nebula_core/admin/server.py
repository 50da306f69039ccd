"""Serving the admin API within the control process's own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import uvicorn
from starlette.types import ASGIApp

from nebula_core.background import background
from nebula_core.gateway.sockets import bind_one

STOP_S = 2
"""How long running calls may take to finish when the server stops."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `NebulaError` naming `[admin]` if the port is in use or the address is not this machine's."""
    return bind_one(host, port, "[admin]")


class AdminServer:
    """Serves `app` on `listener`, which it closes, for as long as the context."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_S,
        )
        self._server = _Server(config)

    async def __aenter__(self) -> AdminServer:
        async with AsyncExitStack() as stack:
            stack.callback(self._listener.close)
            (self._task,) = await stack.enter_async_context(background(self._server.serve([self._listener])))
            await self._server.up.wait()
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._closing:
            self._server.should_exit = True
            await asyncio.wait([self._task])


class _Server(uvicorn.Server):
    """uvicorn as a guest: signals are its host's business."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
