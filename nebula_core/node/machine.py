"""The node's own processors and memory, from /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nebula_core.node.steady import near
from nebula_core.types import MachineStatus

UTILIZATION = 0.1
"""By how much the processors' use must have changed to be told again."""
MEMORY_SHARE = 0.02


@dataclass(frozen=True)
class Ticks:
    """Time that all processors together have spent since the start of the machine, in its own unit."""

    busy: int
    total: int


class Machine:
    """Reads this machine; the processors' use is that since the reading before."""

    def __init__(self) -> None:
        self._before = read_ticks()

    def read(self) -> MachineStatus:
        """As it stands."""
        before, now = self._before, read_ticks()
        self._before = now
        memory = parse_meminfo(Path("/proc/meminfo").read_text())
        return MachineStatus(
            cpus=len(os.sched_getaffinity(0)),
            cpu_utilization=(now.busy - before.busy) / (now.total - before.total) if now.total > before.total else None,
            memory_total_bytes=memory.get("MemTotal"),
            memory_available_bytes=memory.get("MemAvailable"),
        )


def read_ticks() -> Ticks:
    """The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    with Path("/proc/stat").open() as stat:
        spent = [int(word) for word in stat.readline().split()[1:9]]
    return Ticks(busy=sum(spent) - sum(spent[3:5]), total=sum(spent))


def parse_meminfo(text: str) -> Mapping[str, int]:
    """Name → bytes."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}


def steadied(told: MachineStatus, read: MachineStatus) -> MachineStatus:
    """`told`, unless `read` differs so that it matters: a percent more is not worth a write every few seconds."""
    hardly_differ = (
        (told.cpus, told.memory_total_bytes) == (read.cpus, read.memory_total_bytes)
        and near(told.cpu_utilization, read.cpu_utilization, UTILIZATION)
        and near(told.memory_available_bytes, read.memory_available_bytes, MEMORY_SHARE * (told.memory_total_bytes or 0))
    )
    return told if hardly_differ else read
