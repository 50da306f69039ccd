"""Runs replicas in this process until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from math import isinf
from typing import Any

from nebula_engine_sim.arguments import SimArgs
from nebula_engine_sim.faults import Fault, Timeline
from nebula_engine_sim.server.replica import Replica


@dataclass(frozen=True)
class Program:
    """What the command line asks for."""

    host: str
    port: int
    """Of the first replica; the others have the next ones."""
    count: int
    model: str
    key: str
    arguments: SimArgs
    timeline: Timeline


async def serve(program: Program) -> int:
    """Serve until a signal; returns the exit code: 0, or that of the crash of an only replica. Raises `OSError` for a port in use."""
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _finish, stopped, 0)
    replicas = [asyncio.create_task(_keep(program, place, stopped)) for place in range(program.count)]
    waited: list[asyncio.Future[Any]] = [stopped, *replicas]
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for task in replicas:
            if task.done():
                task.result()
        return await stopped
    finally:
        for task in replicas:
            task.cancel()
        await asyncio.gather(*replicas, return_exceptions=True)


async def _keep(program: Program, place: int, stopped: asyncio.Future[int]) -> None:
    """One replica; among others it starts again after a crash, with the faults that come after it."""
    timeline = program.timeline
    while True:
        crash: asyncio.Future[Fault] = asyncio.get_running_loop().create_future()
        port = program.port + place
        async with Replica(program.host, port, program.model, program.key, program.arguments, timeline, crash.set_result):
            say(f"{program.model} is ready on {program.host}:{port}")
            fault = await crash
        say(f"the replica on port {port} crashes, as its timeline says")
        if program.count == 1:
            _finish(stopped, fault.code)
        if isinf(fault.for_s) or stopped.done():
            await stopped
            return
        await asyncio.sleep(fault.for_s / program.arguments.time_scale)
        timeline = timeline.after(fault.ends_s)


def _finish(stopped: asyncio.Future[int], code: int) -> None:
    if not stopped.done():
        stopped.set_result(code)


def say(line: str) -> None:
    """One line for the engine's log."""
    print(line, file=sys.stderr, flush=True)
