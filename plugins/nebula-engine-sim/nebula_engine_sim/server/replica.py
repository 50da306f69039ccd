"""`Replica`: one engine behind one port, from its start to its end or its crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from nebula_engine_sim.arguments import SimArgs
from nebula_engine_sim.faults import Fault, Timeline
from nebula_engine_sim.server.api import Api
from nebula_engine_sim.server.live import LiveEngine
from nebula_engine_sim.server.web import Connection


class Replica:
    """Listens on `host`:`port` as an async context manager. `crashed` is called when its timeline says so, after its port has closed."""

    def __init__(
        self, host: str, port: int, model: str, key: str, arguments: SimArgs, timeline: Timeline, crashed: Callable[[Fault], None]
    ) -> None:
        self.port = port
        self._host, self._model, self._key, self._arguments = host, model, key, arguments
        self._timeline, self._crashed = timeline, crashed
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._live: LiveEngine | None = None

    async def __aenter__(self) -> Replica:
        """Begin to listen, after the slow start that its timeline may ask for. Raises `OSError` if the port cannot be had."""
        engine = self._arguments.make_engine(tokens=True)
        self._live = live = LiveEngine(engine, self._timeline, self._arguments.time_scale)
        if start_s := self._timeline.start_s():
            await asyncio.sleep(live.real_s(start_s))
        api = Api(live, self._model, self._key, self._arguments)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(api.handle, self._connections), self._host, self.port, backlog=2048)
        for fault in self._timeline.of("frozen_metrics"):
            live.later(fault.at_s, api.freeze)
        for fault in self._timeline.of("crash"):
            live.later(fault.at_s, partial(self._crash, fault))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the port and all connections."""
        self._close()

    def _crash(self, fault: Fault) -> None:
        self._close()
        self._crashed(fault)

    def _close(self) -> None:
        if self._live:
            self._live.close()
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.transport.abort()
