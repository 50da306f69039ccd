"""Machines for tests of a fleet: a network namespace each, or a loopback address each where namespaces are not allowed.

In a namespace a machine has a loopback of its own: what listens on 127.0.0.1 there is heard by nobody else, as on a real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nebula_core.testing.waiting import eventually

_TOOLS = ("ip", "nsenter", "setpriv", "unshare")
_START_S = 30.0
_SUBNETS = 512
"""Of 24 bits, in 198.18.0.0/15, which is kept free for tests (RFC 2544)."""


@dataclass(frozen=True)
class Machine:
    """An address, and what is put before a command line to run it there."""

    address: str
    prefix: tuple[str, ...] = ()


HERE = Machine("127.0.0.1")


@contextmanager
def machines(names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """Machines that reach each other, and that the caller reaches, for as long as the context."""
    with ExitStack() as stack:
        yield _in_namespaces(names, stack) or _on_loopback(names)


def _on_loopback(names: Sequence[str]) -> dict[str, Machine]:
    return {name: Machine(f"127.83.{os.getpid() % 256}.{number}") for number, name in enumerate(names, 2)}


def _in_namespaces(names: Sequence[str], stack: ExitStack) -> dict[str, Machine] | None:
    """A namespace for each name and one that holds a switch for all; `None` where that is not allowed."""
    holders = _namespaces(len(names) + 1, stack)
    if holders is None:
        return None
    switch, *rest = holders
    subnet = switch % _SUBNETS
    network = f"198.{18 + subnet // 256}.{subnet % 256}"
    try:
        _inside(switch, "ip link add br0 type bridge", "ip link set br0 up")
        _connect(switch, os.getpid(), f"nebula{switch}", f"{network}.1/24")
        stack.callback(subprocess.run, ["ip", "link", "delete", f"nebula{switch}"], check=True)
        for number, holder in enumerate(rest, 2):
            _connect(switch, holder, "eth0", f"{network}.{number}/24")
            _inside(holder, "ip link set lo up")
    except subprocess.CalledProcessError:
        return None
    return {name: Machine(f"{network}.{n}", _enter(holder)) for n, (name, holder) in enumerate(zip(names, rest, strict=True), 2)}


def _namespaces(count: int, stack: ExitStack) -> list[int] | None:
    """The pids of processes that hold a network namespace each, which ends with them; `None` where that is not allowed."""
    if os.geteuid() != 0 or not all(map(shutil.which, _TOOLS)):
        return None
    ours, pids = Path("/proc/self/ns/net").readlink(), []
    for _ in range(count):
        holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"], stderr=subprocess.DEVNULL)
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        pids.append(holder.pid)
        eventually(lambda: holder.poll() is not None or Path(f"/proc/{holder.pid}/ns/net").readlink() != ours, _START_S)  # noqa: B023
        if holder.poll() is not None:
            return None
    return pids


def _connect(switch: int, other: int, device: str, address: str) -> None:
    """Lay a cable from the switch to another namespace, where it ends in `device`."""
    port = f"to{other}"
    _inside(switch, f"ip link add {port} type veth peer name {device} netns {other}", f"ip link set {port} master br0 up")
    _inside(other, f"ip address add {address} dev {device}", f"ip link set {device} up")


def _inside(holder: int, *commands: str) -> None:
    for command in commands:
        subprocess.run([*_enter(holder), *command.split()], check=True)


def _enter(holder: int) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{holder}/ns/net", "--")
