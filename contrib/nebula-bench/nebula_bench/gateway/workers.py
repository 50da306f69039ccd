"""`workers`: what a second worker costs per request, and what is lost when one is killed under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field

import msgspec
import uvloop

from nebula_bench.gateway import compare, gateways, machine, processes, prompts, rows
from nebula_bench.gateway.errors import GatewayError
from nebula_bench.gateway.gateways import NEBULA, Running
from nebula_bench.gateway.rows import Row
from nebula_bench.gateway.scene import Scene

_ONE, _TWO = "1 worker", "2 workers"
_SCENARIO = compare.SCENARIOS["json"]
_CLIENTS = 64
_AGAIN_S = 0.05
"""Pause of a client after a failure."""
_PATIENCE_S = 30.0


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """SIGKILL of one of two workers under load."""

    round: int
    requests: int
    held: int
    """Connections of the killed worker."""
    failed: int
    """Requests that clients saw fail."""
    failed_elsewhere: int
    """Those of them that were not on a connection of the killed worker."""
    longest_answer_s: float
    replaced_s: float
    """From the kill until a new worker holds connections."""

    def line(self) -> str:
        """For people."""
        return (
            f"round {self.round}: a worker with {self.held} of {_CLIENTS} connections was killed: {self.failed} of {self.requests} requests"
            f" failed, {self.failed_elsewhere} of them on other connections; replaced after {self.replaced_s:.1f} s;"
            f" longest answer {self.longest_answer_s:.2f} s"
        )


@dataclass
class Seen:
    """What the clients have seen."""

    requests: int = 0
    longest_s: float = 0.0
    failed_ports: list[int] = field(default_factory=list)
    """The clients' own ports of connections on which a request failed; 0: no connection was had."""


def run(scene: Scene) -> tuple[list[Row], list[Kill]]:
    """One and two workers in turn, then the kill, in every round."""
    here = machine.describe()
    scene.say(f"{here.lines()}\n")
    bodies = _SCENARIO.write_bodies(scene.folder)
    found: list[Row] = []
    kills = []
    with gateways.engines(scene.cache, scene.folder) as urls:
        for number in range(1, scene.rounds + 1):
            for name, workers in ((_ONE, 1), (_TWO, 2)):
                with gateways.serving(NEBULA, urls, scene.cache, scene.folder / f"{workers}-{number}", workers=workers) as running:
                    found.append(compare.measure(running, name, _SCENARIO, bodies, number, scene.seconds))
                    scene.say(found[-1].line())
                    if workers > 1:
                        kills.append(uvloop.run(_kill(running, scene.seconds, number)))
                        scene.say(kills[-1].line())
    compared = rows.ratios(found, _TWO)
    scene.say(f"\n{rows.ratio_table(compared)}" if compared else "")
    scene.write({"machine": here, "rows": found, "ratios": compared, "kills": kills})
    return found, kills


async def _kill(running: Running, seconds: float, number: int) -> Kill:
    """Load for half of the time, kill, and load on until there is a new worker, and for the other half."""
    seen = Seen()
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(_client(running.port, client, seen)) for client in range(_CLIENTS)]
        await asyncio.sleep(seconds / 2)
        before = set(running.workers())
        victim = max(before, key=lambda pid: len(processes.clients_of(pid, running.port)))
        held = processes.clients_of(victim, running.port)
        os.kill(victim, signal.SIGKILL)
        replaced_s = await _replaced(running, before)
        await asyncio.sleep(seconds / 2)
        for client in clients:
            client.cancel()
    return Kill(
        round=number,
        requests=seen.requests,
        held=len(held),
        failed=len(seen.failed_ports),
        failed_elsewhere=sum(port not in held for port in seen.failed_ports),
        longest_answer_s=seen.longest_s,
        replaced_s=replaced_s,
    )


async def _replaced(running: Running, before: set[int]) -> float:
    """Seconds until a new worker holds connections. Raises `GatewayError`."""
    began = time.monotonic()
    while not any(processes.clients_of(pid, running.port) for pid in set(running.workers()) - before):
        if time.monotonic() > began + _PATIENCE_S:
            raise GatewayError(f"the killed worker has not been replaced within {_PATIENCE_S:g} s")
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def _client(port: int, number: int, seen: Seen) -> None:
    """Ask over one connection, and over a new one after a failure, until cancelled."""
    request = prompts.request(port, prompts.chat(number % prompts.SYSTEM_PROMPTS, number))
    while True:
        own_port = 0
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            own_port = writer.get_extra_info("sockname")[1]
            try:
                await _ask_on(reader, writer, request, seen)
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError):
            seen.failed_ports.append(own_port)
            await asyncio.sleep(_AGAIN_S)


async def _ask_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, seen: Seen) -> None:
    while True:
        began = time.monotonic()
        writer.write(request)
        async with asyncio.timeout(_PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_length(head))
        seen.requests += 1
        seen.longest_s = max(seen.longest_s, time.monotonic() - began)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(head.decode(errors="replace"))


def _length(head: bytes) -> int:
    fields = (line.partition(b":") for line in head.split(b"\r\n"))
    return next(int(value) for name, _, value in fields if name.lower() == b"content-length")
