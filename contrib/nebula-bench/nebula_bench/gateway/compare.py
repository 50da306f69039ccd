"""`compare`: gateways in turn under the same load, and what a request costs each in CPU time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nebula_bench.gateway import decisions, gateways, machine, processes, prompts, rows, wrk
from nebula_bench.gateway.errors import GatewayError
from nebula_bench.gateway.gateways import Gateway, Running
from nebula_bench.gateway.rows import Row
from nebula_bench.gateway.scene import Scene

_MIB = 2**20
_SETTLE_S = 0.3
"""After the load, for what is still to be done for its last requests."""


@dataclass(frozen=True)
class Scenario:
    """One load, and what the engines answer to it."""

    name: str
    connections: int
    words: int = 0
    events: int = 0
    """Of a streamed answer; 0: a JSON answer."""
    interval_ms: int = 0

    def write_bodies(self, folder: Path) -> Path:
        """The file that wrk reads."""
        return prompts.write(folder / f"{self.name}.bodies", prompts.bodies(words=self.words, stream=self.events > 0))


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("json", 64),
        Scenario("json-32KiB", 32, words=prompts.WORDS_32_KIB),
        Scenario("sse-burst-20", 64, events=20),
        Scenario("sse-paced-50", 200, events=50, interval_ms=10),
    )
}


def run(scene: Scene, names: tuple[str, ...]) -> list[Row]:
    """Every scenario, in rounds in which the gateways take turns."""
    taking_part = [gateways.NEBULA, *gateways.available(scene.peers, scene.cache, scene.say)]
    here = machine.describe([peer.requirement for peer in taking_part if peer.requirement])
    scene.say(f"{here.lines()}\n")
    found: list[Row] = []
    for name in names:
        found += _scenario(scene, SCENARIOS[name], taking_part)
    compared = rows.ratios(found, gateways.NEBULA.name)
    scene.say(f"\nMedians over rounds\n\n{rows.medians(found)}\n")
    if compared:
        scene.say(f"Nebula's CPU time per request divided by a peer's, within a round; median over rounds\n\n{rows.ratio_table(compared)}")
    scene.write({"machine": here, "rows": found, "ratios": compared})
    return found


def _scenario(scene: Scene, scenario: Scenario, taking_part: list[Gateway]) -> list[Row]:
    folder = scene.folder / scenario.name
    folder.mkdir()
    bodies = scenario.write_bodies(folder)
    found = []
    with gateways.engines(scene.cache, folder, events=scenario.events, interval_ms=scenario.interval_ms) as urls:
        for number in range(1, scene.rounds + 1):
            for gateway in taking_part:
                try:
                    with gateways.serving(gateway, urls, scene.cache, folder / f"{gateway.name}-{number}") as running:
                        row = measure(running, gateway.name, scenario, bodies, number, scene.seconds)
                except GatewayError as error:
                    scene.say(f"{scenario.name:13} {gateway.name:26} round {number}: failed: {error}")
                    continue
                scene.say(row.line())
                found.append(row)
    return found


def measure(running: Running, name: str, scenario: Scenario, bodies: Path, number: int, seconds: float) -> Row:
    """One gateway under one load, once it is warm."""
    wrk.load(running.port, bodies, connections=scenario.connections, seconds=1)  # connections, pools, caches
    workers = running.workers()
    decided = decisions.counts(running.metrics()) if workers else {}
    before = processes.cpu_s(running.pids())
    load = wrk.load(running.port, bodies, connections=scenario.connections, seconds=seconds)
    time.sleep(_SETTLE_S)
    pids = running.pids()
    used = processes.cpu_s(pids) - before
    return Row(
        scenario=scenario.name,
        gateway=name,
        round=number,
        requests=load.requests,
        seconds=load.seconds,
        cpu_us=used / max(1, load.requests) * 1e6,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        pss_mib=processes.pss_bytes(pids) / _MIB,
        worker_mib=max(processes.pss_bytes([pid]) for pid in workers) / _MIB if workers else None,
        refused=load.refused,
        socket_errors=load.socket_errors,
        complaint=_complaint(running, decided) if workers else "",
    )


def _complaint(running: Running, before: dict[str, float]) -> str:
    return decisions.complaint(before, decisions.counts(running.metrics()))
