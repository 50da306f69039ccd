"""What processes use, as /proc tells it: a gateway is its first process and all that descend from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """`pid` and its descendants that run now."""
    children: dict[int, list[int]] = {}
    for child, stat in _stats():
        children.setdefault(parent_of(stat), []).append(child)
    found = [pid]
    for one in found:  # grows while it is walked
        found += children.get(one, ())
    return found


def runs(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    with contextlib.suppress(OSError):
        return _fields((_PROC / str(pid) / "stat").read_text())[0] != "Z"
    return False


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used, and those of their children that have ended."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended since
            total += cpu_of((_PROC / str(pid) / "stat").read_text())
    return total


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes; a page that n processes share counts for 1/n in each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += pss_of((_PROC / str(pid) / "smaps_rollup").read_text())
    return total


def matching(pids: Iterable[int], word: str) -> list[int]:
    """Those whose command line has this word."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if word.encode() in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def socket_bytes() -> int:
    """Kernel memory in the buffers of all TCP sockets of this machine."""
    return tcp_memory_of((_PROC / "net/sockstat").read_text())


def clients_of(pid: int, port: int) -> set[int]:
    """The clients' own ports of the connections to `port` that this process holds."""
    held = set()
    for link in (_PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(link.readlink().name)
    return {client for inode, client in established((_PROC / "net/tcp").read_text(), port) if f"socket:[{inode}]" in held}


def cpu_of(stat: str) -> float:
    """CPU seconds in the text of /proc/PID/stat: user and system time, its own and that of children it has waited for."""
    return sum(map(int, _fields(stat)[11:15])) / _TICKS_PER_S


def parent_of(stat: str) -> int:
    """The parent in the text of /proc/PID/stat."""
    return int(_fields(stat)[1])


def pss_of(rollup: str) -> int:
    """Bytes in the text of /proc/PID/smaps_rollup."""
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def tcp_memory_of(sockstat: str) -> int:
    """Bytes in the text of /proc/net/sockstat, which counts pages."""
    line = next(line for line in sockstat.splitlines() if line.startswith("TCP:")).split()
    return int(line[line.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def established(table: str, port: int) -> list[tuple[str, int]]:
    """Inode and client's port of every established connection to a local port, in the text of /proc/net/tcp."""
    rows = (line.split() for line in table.splitlines()[1:])
    return [(row[9], int(row[2].rpartition(":")[2], 16)) for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]


def _fields(stat: str) -> list[str]:
    return stat.rpartition(")")[2].split()  # a program's name may hold spaces and brackets


def _stats() -> Iterator[tuple[int, str]]:
    for path in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_text()
