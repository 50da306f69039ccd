"""What the figures were measured on, and with what."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

import nebula_core
from nebula_bench.gateway import programs
from nebula_bench.gateway.errors import MissingError


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The place and time of a sitting."""

    date: str
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    load_average: float
    """Runnable processes over the minute before: on an idle machine near 0, and above `cores` the benchmark has to share."""
    versions: dict[str, str]

    def lines(self) -> str:
        """For people."""
        busy = " (others are at work here: trust ratios within a round, not absolute times)" if self.load_average > self.cores / 2 else ""
        return (
            f"{self.date}, {self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, Linux {self.kernel}\n"
            f"load average before: {self.load_average:.1f}{busy}\n"
            + ", ".join(f"{name} {number}" for name, number in self.versions.items())
        )


def describe(requirements: Sequence[str] = ()) -> Machine:
    """This machine, now, with the versions of what takes part; `requirements` are peers from PyPI."""
    found = {"Nebula": _nebula(), "Python": platform.python_version()}
    found |= {name: number for name in ("haproxy", "wrk") if (number := _program(name))}
    for requirement in sorted(set(requirements)):
        package, _, number = requirement.partition("==")
        found[package] = number
    return Machine(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        kernel=platform.release(),
        load_average=os.getloadavg()[0],
        versions=found,
    )


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _nebula() -> str:
    """Its version, and the commit where it runs from a checkout."""
    here = Path(nebula_core.__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return version("nebula-serving")
    return f"{version('nebula-serving')} ({done.stdout.strip()})" if done.returncode == 0 else version("nebula-serving")


def _program(name: str) -> str:
    """The version of a program of the system, out of what `NAME -v` prints; empty if it is not here."""
    try:
        said = subprocess.run([programs.find(name), "-v"], capture_output=True, text=True, check=False)
    except MissingError:
        return ""
    found = re.search(r"\d+\.\d+[\w.+-]*", said.stdout + said.stderr)
    return found[0] if found else ""
