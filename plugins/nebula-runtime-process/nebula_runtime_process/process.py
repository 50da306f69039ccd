"""Naming a process beyond doubt, and waiting for the end of one that may be anybody's child."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STATE, _STARTED = 0, 19
"""Fields of `/proc/<pid>/stat`, counted after the command's closing bracket: a command may hold spaces and brackets itself."""


def boot_id() -> str:
    """Names this boot of the machine: process ids of another one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; `None` if it has ended, also if nobody has collected it yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[_STATE] in "ZX" else int(fields[_STARTED])


def ticks_to_s(ticks: int) -> float:
    """Clock ticks as seconds."""
    return ticks / _TICKS_PER_S


@contextlib.contextmanager
def opened(pid: int, ticks: int) -> Iterator[int | None]:
    """A pidfd of the process with this id that started at `ticks`; `None` if it has ended. A later process of that id is never meant."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Looked at after opening: if the process is the right one now, the descriptor names it for good.
        yield pidfd if start_ticks(pid) == ticks else None
    finally:
        collect(pidfd)
        os.close(pidfd)


@contextlib.contextmanager
def opened_writers(pipe: int) -> Iterator[list[int]]:
    """pidfds of all processes whose standard output or error is the pipe with this inode."""
    with contextlib.ExitStack() as stack:
        found = []
        for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                stack.callback(os.close, pidfd)
                if _writes_to(pid, f"pipe:[{pipe}]"):
                    found.append(pidfd)
        yield found


def _writes_to(pid: int, target: str) -> bool:
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            if str(Path(f"/proc/{pid}/fd/{fd}").readlink()) == target:
                return True
    return False


def collect(pidfd: int) -> None:
    """Take an ended process off the process table, if it is our child; another's child is its parent's to collect."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


async def readable(fd: int) -> None:
    """Wait until there is something to read on `fd`; a pidfd is readable once its process has ended."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, done)
    try:
        await done
    finally:
        loop.remove_reader(fd)


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def ended(pidfd: int, timeout_s: float | None = None) -> bool:
    """Wait for the end of a process; false if it has not ended within `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            await readable(pidfd)
    except TimeoutError:
        return False
    return True
