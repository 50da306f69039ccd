"""ServeGen's mixes of clients: for each client and each window of ten minutes, how many requests per second and by which law they come.

A line of a client's file `chunk-N-trace.csv` is: second of the window's start, requests per second, coefficient of variation of the times
between requests, the law of these times (`Gamma`, `Weibull` or empty), and its shape and scale.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import gamma
from pathlib import Path
from random import Random

import zstandard

from nebula_simulate.errors import TraceError

WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What one client sends in one window."""

    since: float
    until: float
    per_s: float
    shape: float
    law: str

    def gap(self, load: float, rng: Random) -> float:
        """Time from one request to the next, drawn; its mean is that of the rate times the load, its variation the law's."""
        mean = 1.0 / (self.per_s * load)
        if self.law == "Gamma":
            return rng.gammavariate(self.shape, mean / self.shape)
        if self.law == "Weibull":
            return rng.weibullvariate(mean / gamma(1.0 + 1.0 / self.shape), self.shape)
        return rng.expovariate(1.0 / mean)


def rates(path: Path, since: float, until: float) -> dict[str, list[Rate]]:
    """Windows of each client that begin in that time, counted from `since`. Raises `TraceError` naming the file and line."""
    found = {name: [each for each in windows if since <= each.since < until] for name, windows in _clients(path).items()}
    return {name: [_moved(each, since) for each in windows] for name, windows in found.items() if windows}


@lru_cache(maxsize=1)
def _clients(path: Path) -> dict[str, list[Rate]]:
    """Every client that ever sends anything, by the name of its file."""
    try:
        return {name: list(_parsed(path, name, lines)) for name, lines in _files(path)}
    except (OSError, zstandard.ZstdError, tarfile.TarError) as error:
        raise TraceError(f"{path}: no folder of ServeGen's chunk-N-trace.csv files, nor a .tar.zst of one: {error}") from error


def _files(path: Path) -> Iterator[tuple[str, list[str]]]:
    if path.is_dir():
        yield from ((file.name, file.read_text().splitlines()) for file in sorted(path.glob("*-trace.csv")))
        return
    with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
        unpacked = io.BytesIO(stream.read())
    with tarfile.open(fileobj=unpacked) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith("-trace.csv") else None
            if content is not None:
                yield Path(member.name).name, content.read().decode().splitlines()


def _parsed(path: Path, name: str, lines: list[str]) -> Iterator[Rate]:
    """Windows in which something is sent."""
    for number, line in enumerate(lines, 1):
        fields = line.split(",")
        try:
            since, per_s = float(fields[0]), float(fields[1])
            if per_s > 0:
                yield Rate(since, since + WINDOW_S, per_s, float(fields[4]) if fields[3] else 1.0, fields[3])
        except (ValueError, IndexError) as error:
            raise TraceError(f"{path}, {name}, line {number}: not `start,rate,cv,law,shape,scale`: {error}") from error


def _moved(rate: Rate, by: float) -> Rate:
    return Rate(rate.since - by, rate.until - by, rate.per_s, rate.shape, rate.law)
