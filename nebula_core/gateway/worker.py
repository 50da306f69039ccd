"""A gateway worker: the process that carries requests. The supervisor starts it as `python -m nebula_core.gateway.worker`.

It has no store, no FastAPI and no disk: what it knows comes over the link from the control process. If that dies, the worker goes
on with the last table, until a new control process asks it to retire.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from nebula_core.background import background
from nebula_core.gateway import handover, link
from nebula_core.gateway.data_path.server import Server
from nebula_core.gateway.report import Reporter
from nebula_core.gateway.routing import build_routing
from nebula_core.gateway.sockets import short_name
from nebula_core.metrics import Metrics
from nebula_core.router.router import Router
from nebula_core.settings import Settings

RECONNECT_S = 0.2

logger = logging.getLogger("nebula.gateway.worker")


@dataclass(frozen=True)
class DataPath:
    """What carries requests, once the settings have come."""

    router: Router
    server: Server
    reporter: Reporter

    @classmethod
    def build(cls, settings: Settings) -> DataPath:
        """From the settings in force."""
        metrics = Metrics()
        router, retry = build_routing(settings, metrics)
        server = Server(router, settings.gateway, metrics, retry=retry)
        return cls(router, server, Reporter(router, metrics, server.services.room))


class Worker:
    """The data path of this process, and the link that feeds it."""

    def __init__(self, hello: link.Hello, hub: Path, listener: socket.socket) -> None:
        self._hello, self._hub, self._listener = hello, hub, listener
        self._retired: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._drain_s = 0.0
        self._data_path: DataPath | None = None
        self._listening = False
        self._open = AsyncExitStack()

    async def run(self) -> None:
        """Serve until asked to retire, then finish what runs. The link stays up meanwhile: a drain elsewhere may wait for us."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: self._retire(self._drain_s))
        for passed_over in (signal.SIGINT, signal.SIGHUP):  # they come to the whole terminal; the control process decides
            signal.signal(passed_over, signal.SIG_IGN)
        async with self._open, background(self._follow()):
            drain_s = await self._retired
            if self._data_path is not None:
                await self._data_path.server.drain(drain_s)

    def _obey(self, message: link.Retire) -> None:
        if message.hand_over and not self._retired.done():
            try:
                handover.give(self._hub, self._listener)
            except OSError as error:
                logger.warning("could not hand the public port over, it is closed for a moment: %s", error)
        self._retire(message.drain_s)

    def _retire(self, drain_s: float) -> None:
        if not self._retired.done():
            self._retired.set_result(drain_s)

    async def _follow(self) -> None:
        """Keep the link: what comes down is applied, what there is to tell goes up. Raises if nothing ever came down."""
        while True:
            try:
                with short_name(self._hub) as name:
                    reader, writer = await asyncio.open_unix_connection(name)
                try:
                    await self._talk(reader, writer)
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError, msgspec.MsgspecError) as error:
                if self._data_path is None:
                    raise
                if isinstance(error, msgspec.MsgspecError):
                    logger.error("the control process says what this worker does not understand, going on without it: %s", error)
            await asyncio.sleep(RECONNECT_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link.write(writer, self._hello)
        first = await link.read_down(reader)
        if self._data_path is None and isinstance(first, link.Welcome):
            self._data_path = await self._start(Settings.model_validate_json(first.settings))
        if isinstance(first, link.Retire):
            self._obey(first)
        if self._data_path is None:
            return
        try:
            async with background(self._data_path.reporter.run(writer)):
                message = first
                while True:
                    await self._take(self._data_path, message, writer)
                    message = await link.read_down(reader)
        finally:
            self._data_path.router.shared = None  # with nobody to tell, events would be gathered without end

    async def _start(self, settings: Settings) -> DataPath:
        logging.getLogger().setLevel(settings.log.level.upper())
        self._drain_s = settings.gateway.drain_s
        data_path = DataPath.build(settings)
        await self._open.enter_async_context(data_path.server)
        gc.freeze()  # what lives as long as the process: else a full collection would halt all streams for up to 80 ms
        return data_path

    async def _take(self, data_path: DataPath, message: link.Down, writer: asyncio.StreamWriter) -> None:
        router = data_path.router
        match message:
            case link.Table():
                router.update(message.models, message.removed, whole=message.whole)
                await self._listen(data_path.server)
                data_path.reporter.tell_charges(writer)  # before it says that a replica gets nothing new, all it got must be told
                link.write(writer, link.Applied(message.revision))
            case link.Stats():
                for model_uid, replica_id, stats in message.samples:
                    candidate = router.table.replica(model_uid, replica_id)
                    if candidate is not None and stats.incarnation == candidate.route.incarnation:
                        candidate.set_stats(stats)
            case link.ChargesElsewhere():
                for model_uid, replica_id, count in message.in_flight:
                    if (candidate := router.table.replica(model_uid, replica_id)) is not None:
                        candidate.set_charged_elsewhere(count)
            case link.Suspects():
                for lost in message.replicas:
                    router.suspect(lost)
            case link.ShareEvents():
                router.shared = [] if message.wanted else None
            case link.Events():
                router.observe(message.events)
            case link.Explain():
                link.write(writer, link.Explanations(message.number, router.explain(message.request_id)))
            case link.Retire():
                self._obey(message)

    async def _listen(self, server: Server) -> None:
        """Accept clients once there is a table to route by."""
        if not self._listening and not self._retired.done():
            self._listening = True
            await server.listen(self._listener)


def main() -> None:
    """Run one worker until it is asked to retire."""
    parser = argparse.ArgumentParser(description="A gateway worker; `nebula gateway` and `nebula up` start it.")
    parser.add_argument("--hub", type=Path, required=True, help="Unix socket of the control process")
    parser.add_argument("--listen-fd", type=int, required=True, help="inherited listening socket")
    parser.add_argument("--slot", type=int, required=True, help="number of this worker, from 0")
    parser.add_argument("--generation", required=True, help="name of the control process that starts it")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    hello = link.Hello(pid=os.getpid(), slot=args.slot, generation=args.generation)

    async def serve() -> None:
        await Worker(hello, args.hub, socket.socket(fileno=args.listen_fd)).run()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
