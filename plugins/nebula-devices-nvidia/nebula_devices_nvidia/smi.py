"""Reading GPUs through `nvidia-smi`, where the driver's library cannot be loaded. Each run takes tenths of a second."""

from __future__ import annotations

import csv
import re
import subprocess
from collections import defaultdict
from collections.abc import Sequence

from nebula_core import GpuStatus
from nebula_devices_nvidia.visible import Gpu, Unreadable, mig_index

COMMAND = "nvidia-smi"
TIMEOUT_S = 10
MIB = 1024 * 1024
FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.used",
    "temperature.gpu",
    "utilization.gpu",
    "power.draw",
    "ecc.errors.uncorrected.volatile.total",
    "mig.mode.current",
)

_CARD = re.compile(r"GPU (\d+):")
_PART = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")


def read() -> list[Gpu]:
    """All GPUs, in MIG mode their MIG devices instead, of which only the names are told. Raises `Unreadable`."""
    rows = list(csv.reader(_run(f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits").splitlines(), skipinitialspace=True))
    parts = parse_parts(_run("-L")) if any(row[-1:] == ["Enabled"] for row in rows) else {}
    return [gpu for row in rows for gpu in parse_row(row, parts)]


def parse_row(row: Sequence[str], parts: dict[int, list[GpuStatus]]) -> list[Gpu]:
    """The GPU of one line of the table, or its MIG devices. Raises `Unreadable` if it is no such line."""
    if len(row) != len(FIELDS) or not row[0].isdecimal():
        raise Unreadable(f"{COMMAND}: not understood: {', '.join(row)}")
    told = dict(zip(FIELDS, row, strict=True))
    index, uuid = int(told["index"]), told["uuid"]
    if told["mig.mode.current"] == "Enabled":
        return [Gpu(part, index, uuid) for part in parts.get(index, [])]
    use, errors = _number(told["utilization.gpu"]), _number(told["ecc.errors.uncorrected.volatile.total"])
    status = GpuStatus(
        index=index,
        uuid=uuid,
        name=told["name"],
        memory_total_bytes=_bytes(told["memory.total"]),
        memory_used_bytes=_bytes(told["memory.used"]),
        temperature_celsius=_number(told["temperature.gpu"]),
        utilization=None if use is None else use / 100,
        power_watts=_number(told["power.draw"]),
        ecc_errors=None if errors is None else int(errors),
    )
    return [Gpu(status, index, uuid)]


def parse_parts(listing: str) -> dict[int, list[GpuStatus]]:
    """The MIG devices of each card, from `nvidia-smi -L`."""
    found: defaultdict[int, list[GpuStatus]] = defaultdict(list)
    card = 0
    for line in listing.splitlines():
        if match := _CARD.match(line):
            card = int(match[1])
        elif match := _PART.match(line):
            found[card].append(GpuStatus(index=mig_index(card, int(match[2])), uuid=match[3], name=f"MIG {match[1]}"))
    return found


def _run(*arguments: str) -> str:
    try:
        return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    except FileNotFoundError as error:
        raise Unreadable(f"there is no {COMMAND}") from error
    except subprocess.CalledProcessError as error:
        raise Unreadable(f"{COMMAND}: {(error.stdout + error.stderr).strip() or f'exit code {error.returncode}'}") from error
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise Unreadable(f"{COMMAND}: {error}") from error


def _number(text: str) -> float | None:
    """A number; `[N/A]`, `[Not Supported]` and the like are unknown."""
    try:
        return float(text)
    except ValueError:
        return None


def _bytes(mebibytes: str) -> int | None:
    number = _number(mebibytes)
    return None if number is None else int(number * MIB)
