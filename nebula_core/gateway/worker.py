"""A gateway worker: the process that carries requests. The supervisor starts it as `python -m nebula_core.gateway.worker`.

It has no store, no FastAPI and no disk: what it knows comes over the link from the control process. If that dies, the worker goes
on with the last table, until a new control process asks it to retire.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
from pathlib import Path

import uvloop

from nebula_core.gateway import link
from nebula_core.gateway.data_path import DataPath, build
from nebula_core.gateway.report import Reporter
from nebula_core.gateway.sockets import short_name
from nebula_core.settings import Settings

RECONNECT_S = 0.2

logger = logging.getLogger("nebula.gateway.worker")


class Worker:
    """The data path of this process, and the link that feeds it."""

    def __init__(self, hello: link.Hello, hub: Path, listener: socket.socket) -> None:
        self._hello, self._hub, self._listener = hello, hub, listener
        self._retired: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._data_path: DataPath | None = None
        self._reporter: Reporter | None = None

    async def run(self) -> None:
        """Serve until asked to retire, then finish what runs."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._retire)
        for passed_over in (signal.SIGINT, signal.SIGHUP):  # they come to the whole terminal; the control process decides
            signal.signal(passed_over, signal.SIG_IGN)
        following = asyncio.create_task(self._follow(), name="link")
        await asyncio.wait([following, self._retired], return_when=asyncio.FIRST_COMPLETED)
        if not self._retired.done():
            following.result()
        if self._data_path is not None:
            await self._data_path.drain(self._retired.result())
        following.cancel()
        await asyncio.wait([following])

    def _retire(self, drain_s: float | None = None) -> None:
        if not self._retired.done():
            self._retired.set_result(drain_s)

    async def _follow(self) -> None:
        """Keep the link: what comes down is applied, what there is to tell goes up. Raises only if nothing ever came down."""
        while True:
            try:
                with short_name(self._hub) as name:
                    reader, writer = await asyncio.open_unix_connection(name)
                try:
                    await self._talk(reader, writer)
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError):
                if self._data_path is None:
                    raise
            await asyncio.sleep(RECONNECT_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link.write(writer, self._hello)
        reporting: asyncio.Task[None] | None = None
        try:
            while True:
                message = await link.read_down(reader)
                if isinstance(message, link.Welcome) and self._data_path is None:
                    await self._start(Settings.model_validate_json(message.settings))
                if reporting is None and self._reporter is not None:
                    reporting = asyncio.create_task(self._reporter.run(writer), name="reports")
                await self._take(message, writer)
        finally:
            if reporting is not None:
                reporting.cancel()

    async def _start(self, settings: Settings) -> None:
        logging.getLogger().setLevel(settings.log.level.upper())
        self._data_path = build(settings, logging.getLogger("nebula.gateway"))
        self._reporter = Reporter(self._data_path.router, self._data_path.metrics)

    async def _take(self, message: link.Down, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, link.Retire):
            self._retire(message.drain_s)
            return
        data_path = self._data_path
        if data_path is None:
            return
        router = data_path.router
        match message:
            case link.Table():
                router.note_gone(router.table.update(message.models, message.removed, whole=message.whole))
                await data_path.listen(self._listener)
                link.write(writer, link.Applied(message.revision))
            case link.Stats():
                for model_uid, replica_id, stats in message.samples:
                    if (candidate := router.table.replica(model_uid, replica_id)) is not None:
                        candidate.set_stats(stats)
            case link.ChargesElsewhere():
                for model_uid, replica_id, count in message.in_flight:
                    if (candidate := router.table.replica(model_uid, replica_id)) is not None:
                        candidate.set_charged_elsewhere(count)
            case link.Suspects():
                for outcome in message.outcomes:
                    router.suspect(outcome)


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
