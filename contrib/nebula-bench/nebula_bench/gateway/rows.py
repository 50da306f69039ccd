"""What a comparison has found: a row per scenario, gateway and round, ratios within a round, and both as text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway under one load, once."""

    scenario: str
    gateway: str
    round: int
    requests: int
    seconds: float
    cpu_us: float
    """CPU time of all the gateway's processes per request."""
    p50_ms: float
    p99_ms: float
    pss_mib: float
    worker_mib: float | None = None
    """The largest of Nebula's data-path workers."""
    refused: int = 0
    socket_errors: int = 0
    complaint: str = ""
    """Why the row means nothing."""

    @property
    def flaw(self) -> str:
        """What makes the row doubtful; empty if nothing does."""
        found = [
            f"{self.refused} answers with an error status" if self.refused else "",
            f"{self.socket_errors} socket errors" if self.socket_errors else "",
            self.complaint,
        ]
        return ", ".join(filter(None, found))

    def line(self) -> str:
        """For people who watch."""
        memory = f"{self.pss_mib:6.1f} MiB" + (f" (worker {self.worker_mib:.1f})" if self.worker_mib else "")
        flaw = f"  DOUBTFUL: {self.flaw}" if self.flaw else ""
        return (
            f"{self.scenario:13} {self.gateway:26} round {self.round}: {self.cpu_us:8.1f} us CPU/request"
            f" {self.requests / self.seconds:8.0f}/s  p50 {self.p50_ms:7.2f} ms  p99 {self.p99_ms:7.2f} ms {memory}{flaw}"
        )


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time per request of one gateway divided by another's, the median over rounds."""

    scenario: str
    gateway: str
    peer: str
    ratio: float
    rounds: int


def ratios(rows: Iterable[Row], gateway: str) -> list[Ratio]:
    """Of `gateway` to every other one, scenario by scenario, from rounds that both have been through without a flaw."""
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        rounds = found.setdefault((row.scenario, row.gateway), {})
        if not row.flaw and row.cpu_us > 0:
            rounds[row.round] = row
    result = []
    for (scenario, peer), theirs in found.items():
        ours = found.get((scenario, gateway), {})
        both = [ours[number].cpu_us / theirs[number].cpu_us for number in ours.keys() & theirs.keys()]
        if peer != gateway and both:
            result.append(Ratio(scenario=scenario, gateway=gateway, peer=peer, ratio=statistics.median(both), rounds=len(both)))
    return result


def medians(rows: Sequence[Row]) -> str:
    """A line per scenario and gateway: the medians over rounds, as a Markdown table."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.scenario, row.gateway), []).append(row)
    lines = [
        "| scenario | gateway | CPU, µs/request | requests/s | p50, ms | p99, ms | PSS, MiB | flaws |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for (scenario, gateway), group in groups.items():
        of = _median_of(group)
        flaws = "; ".join(sorted({row.flaw for row in group if row.flaw}))
        lines.append(
            f"| {scenario} | {gateway} | {of(lambda row: row.cpu_us):.1f} | {of(lambda row: row.requests / row.seconds):.0f}"
            f" | {of(lambda row: row.p50_ms):.2f} | {of(lambda row: row.p99_ms):.2f} | {of(lambda row: row.pss_mib):.0f} | {flaws} |"
        )
    return "\n".join(lines)


def ratio_table(found: Sequence[Ratio]) -> str:
    """A line per scenario and a column per peer, as a Markdown table."""
    peers = list(dict.fromkeys(one.peer for one in found))
    cells = {(one.scenario, one.peer): f"{one.ratio:.2f}" for one in found}
    lines = ["| CPU per request | " + " | ".join(f"/ {peer}" for peer in peers) + " |", "|---|" + "--:|" * len(peers)]
    for scenario in dict.fromkeys(one.scenario for one in found):
        lines.append(f"| {scenario} | " + " | ".join(cells.get((scenario, peer), "–") for peer in peers) + " |")
    return "\n".join(lines)


def _median_of(group: Sequence[Row]) -> Callable[[Callable[[Row], float]], float]:
    return lambda value: statistics.median(map(value, group))
