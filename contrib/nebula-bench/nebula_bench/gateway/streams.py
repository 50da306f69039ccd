"""`streams`: very many streams at once through one worker, each with few events: errors, memory per stream, CPU."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import cast

import msgspec
import uvloop

from nebula_bench.gateway import gateways, limits, machine, processes, prompts
from nebula_bench.gateway.gateways import Running
from nebula_bench.gateway.scene import Scene

_WITHOUT_END = 10**6
"""Events of a stream: more than it lives to see."""
_OPENED_AT_ONCE = 50
_PAUSE_S = 0.1
"""Between two lots of openings: 500 streams a second, which spreads their events over time as well."""
_FIRST_EVENT_S = 60.0


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """One round."""

    round: int
    streams: int
    seconds: float
    errors: dict[str, int]
    """Streams that failed: answers with another status than 200, and those that were `refused`, `lost`, or `silent` to the end."""
    events: int
    expected_events: int
    longest_silence_s: float
    """Of any stream, between two of its events; the interval if nothing is ever late."""
    worker_kib_per_stream: float
    """What the worker's PSS has grown by, divided by the streams."""
    socket_kib_per_stream: float
    """Kernel memory of the whole machine's TCP sockets: four ends per stream, three of which are not the worker's own work."""
    worker_cpu: float
    """Share of one core."""
    worker_cpu_us_per_event: float

    def line(self) -> str:
        """For people."""
        reasons = f" ({', '.join(f'{fault}: {count}' for fault, count in self.errors.items())})" if self.errors else ""
        return (
            f"round {self.round}: {self.streams} streams, {sum(self.errors.values())} errors{reasons},"
            f" {self.events} events in {self.seconds:.1f} s"
            f" ({self.expected_events} expected), longest silence {self.longest_silence_s:.2f} s\n"
            f"         worker: {self.worker_kib_per_stream:.1f} KiB per stream, {self.worker_cpu:.0%} of a core,"
            f" {self.worker_cpu_us_per_event:.1f} us CPU per event\n"
            f"         kernel's socket buffers: {self.socket_kib_per_stream:.1f} KiB per stream"
        )


class Listener(asyncio.Protocol):
    """One client: it asks once, and counts events."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._head_seen = self._closing = False
        self.events = 0
        self.last_at = self.longest_silence_s = 0.0
        self.fault = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are transports without being its subclasses
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Events, usually one."""
        if not self._head_seen:
            self._head_seen = True
            status = data[9:12].decode(errors="replace")
            self.fault = "" if status == "200" else status
        now = time.monotonic()
        if self.events:
            self.longest_silence_s = max(self.longest_silence_s, now - self.last_at)
        self.last_at = now
        self.events += data.count(b"data: ")

    def connection_lost(self, exc: Exception | None) -> None:
        """By whomever."""
        if not self._closing:
            self.fault = self.fault or "lost"

    def close(self) -> None:
        """Hang up."""
        self._closing = True
        self._transport.abort()


def run(scene: Scene, streams: int, interval_ms: int) -> list[Streams]:
    """As many rounds as asked for, each with a new Nebula."""
    limits.take_files(streams)
    here = machine.describe()
    scene.say(f"{here.lines()}\n")
    found = []
    with gateways.engines(scene.cache, scene.folder, events=_WITHOUT_END, interval_ms=interval_ms) as urls:
        for number in range(1, scene.rounds + 1):
            with gateways.serving(gateways.NEBULA, urls, scene.cache, scene.folder / f"nebula-{number}") as running:
                found.append(uvloop.run(_round(running, streams, interval_ms, scene.seconds, number)))
            scene.say(found[-1].line())
    scene.write({"machine": here, "rows": found})
    return found


async def _round(running: Running, streams: int, interval_ms: int, seconds: float, number: int) -> Streams:
    worker = running.workers()
    memory, buffers = processes.pss_bytes(worker), processes.socket_bytes()
    listeners: list[Listener] = []
    try:
        refused = await _open(listeners, running.port, streams)
        await _first_events(listeners)
        events, cpu, began = sum(one.events for one in listeners), processes.cpu_s(worker), time.monotonic()
        for one in listeners:
            one.longest_silence_s = 0.0  # that of the opening does not count
        await asyncio.sleep(seconds)
        took_s = time.monotonic() - began
        events = sum(one.events for one in listeners) - events
        cpu = processes.cpu_s(worker) - cpu
        memory, buffers = processes.pss_bytes(worker) - memory, processes.socket_bytes() - buffers
        return Streams(
            round=number,
            streams=streams,
            seconds=took_s,
            errors=_errors(listeners, refused),
            events=events,
            expected_events=round(streams * took_s * 1000 / interval_ms),
            longest_silence_s=max((one.longest_silence_s for one in listeners), default=0.0),
            worker_kib_per_stream=memory / streams / 1024,
            socket_kib_per_stream=buffers / streams / 1024,
            worker_cpu=cpu / took_s,
            worker_cpu_us_per_event=cpu / max(1, events) * 1e6,
        )
    finally:
        for one in listeners:
            one.close()
        await asyncio.sleep(0)  # the loop delivers their ends


async def _open(listeners: list[Listener], port: int, streams: int) -> int:
    """Open all streams little by little; returns how many could not be."""
    loop, refused = asyncio.get_running_loop(), 0
    bodies = prompts.bodies(stream=True)
    for number in range(streams):
        request = prompts.request(port, bodies[number % len(bodies)])
        try:
            _, one = await loop.create_connection(partial(Listener, request), "127.0.0.1", port, local_addr=(limits.source(number), 0))
        except OSError:
            refused += 1
        else:
            listeners.append(one)
        if number % _OPENED_AT_ONCE == _OPENED_AT_ONCE - 1:
            await asyncio.sleep(_PAUSE_S)
    return refused


async def _first_events(listeners: list[Listener]) -> None:
    """Until every stream has had an event, or `_FIRST_EVENT_S` have passed."""
    deadline = time.monotonic() + _FIRST_EVENT_S
    while time.monotonic() < deadline:
        if all(one.events or one.fault for one in listeners):
            return
        await asyncio.sleep(0.1)


def _errors(listeners: list[Listener], refused: int) -> dict[str, int]:
    faults = Counter(one.fault or "silent" for one in listeners if one.fault or not one.events)
    return {**faults, **({"refused": refused} if refused else {})}
