"""`stalled`: clients that ask for a long stream and do not read it: what each costs the worker, and what others notice."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from nebula_bench.gateway import gateways, limits, machine, processes, prompts, wrk
from nebula_bench.gateway.gateways import Running
from nebula_bench.gateway.scene import Scene
from nebula_bench.gateway.wrk import Load

_WITHOUT_END, _WORDS = 10**7, 800
"""Events of a stream, and words of an event: 4 KiB, so that all buffers are soon full."""
_SEGMENT = 1460
"""Ethernet's. With loopback's of 64 KiB the kernel would take megabytes from the worker before anything is held up."""
_CONNECTIONS = 32
"""Of the other clients, who ask for JSON."""
_STEADY = 0.01
"""Memory is taken to have settled when the worker's and the sockets' change by less than this share within `_WITHIN_S`."""
_WITHIN_S = 2.0
_SETTLE_S = 60.0
_PATIENCE_S = 30.0


class Stalled(msgspec.Struct, frozen=True, kw_only=True):
    """One round."""

    round: int
    readers: int
    worker_kib_per_reader: float
    """What the worker's PSS has grown by, divided by the readers."""
    socket_kib_per_reader: float
    """Kernel memory of the whole machine's TCP sockets: from the engine to the worker and from there to the client, both ends."""
    before: Load
    """What the other clients saw without them."""
    beside: Load
    """What they saw beside them."""

    def line(self) -> str:
        """For people."""
        return (
            f"round {self.round}: {self.readers} stalled readers: worker {self.worker_kib_per_reader:.1f} KiB each,"
            f" kernel's socket buffers {self.socket_kib_per_reader:.1f} KiB each\n"
            f"         other clients before: {_line(self.before)}\n"
            f"         beside them:          {_line(self.beside)}"
        )


def run(scene: Scene, readers: int) -> list[Stalled]:
    """As many rounds as asked for, each with a new Nebula."""
    limits.take_files(readers)
    here = machine.describe()
    scene.say(f"{here.lines()}\n")
    bodies = prompts.write(scene.folder / "bodies", prompts.bodies())
    found = []
    with gateways.engines(scene.cache, scene.folder, events=_WITHOUT_END, words=_WORDS) as urls:
        for number in range(1, scene.rounds + 1):
            with gateways.serving(gateways.NEBULA, urls, scene.cache, scene.folder / f"nebula-{number}") as running:
                found.append(_round(running, readers, bodies, scene.seconds, number))
            scene.say(found[-1].line())
    scene.write({"machine": here, "rows": found})
    return found


def _round(running: Running, readers: int, bodies: Path, seconds: float, number: int) -> Stalled:
    worker = running.workers()
    wrk.load(running.port, bodies, connections=_CONNECTIONS, seconds=1)  # what a worker grows by when it is first used
    before = wrk.load(running.port, bodies, connections=_CONNECTIONS, seconds=seconds)
    memory, buffers = processes.pss_bytes(worker), processes.socket_bytes()
    streams = prompts.bodies(stream=True)
    with ExitStack() as stack:
        for reader in range(readers):
            client = stack.enter_context(_client(running.port))
            client.sendall(prompts.request(running.port, streams[reader % len(streams)]))
        settled, full_buffers = _settled(worker)
        beside = wrk.load(running.port, bodies, connections=_CONNECTIONS, seconds=seconds)
    return Stalled(
        round=number,
        readers=readers,
        worker_kib_per_reader=(settled - memory) / readers / 1024,
        socket_kib_per_reader=(full_buffers - buffers) / readers / 1024,
        before=before,
        beside=beside,
    )


def _client(port: int) -> socket.socket:
    client = socket.socket()
    client.settimeout(_PATIENCE_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
    client.connect(("127.0.0.1", port))
    return client


def _settled(worker: list[int]) -> tuple[int, int]:
    """The worker's PSS and the sockets' memory in bytes, once they grow no more or `_SETTLE_S` have passed."""
    deadline = time.monotonic() + _SETTLE_S
    last, now = (0, 0), (processes.pss_bytes(worker), processes.socket_bytes())
    while any(abs(new - old) > _STEADY * new for old, new in zip(last, now, strict=True)) and time.monotonic() < deadline:
        time.sleep(_WITHIN_S)
        last, now = now, (processes.pss_bytes(worker), processes.socket_bytes())
    return now


def _line(load: Load) -> str:
    failures = load.refused + load.socket_errors
    return f"{load.requests / load.seconds:.0f}/s, p50 {load.p50_ms:.2f} ms, p99 {load.p99_ms:.2f} ms, {failures} failures"
