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
from math import gamma, inf
from pathlib import Path
from random import Random

import zstandard

from nebula_simulate.errors import TraceError

WINDOW_S = 600.0
LAWS = ("Gamma", "Weibull")
LEAST_SHAPE = 0.006
"""Of a law: the mean of a Weibull law with a smaller one is more than a float holds."""


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
    """Windows of each client that begin in that time of the mix, counted from `since`. Raises `TraceError` naming the file and line."""
    clients = _clients(path)
    origin = min((windows[0].since for windows in clients.values() if windows), default=0.0)
    found = {name: [_moved(each, origin) for each in windows if each.per_s > 0] for name, windows in clients.items()}
    chosen = {name: [_moved(each, since) for each in windows if since <= each.since < until] for name, windows in found.items()}
    return {name: windows for name, windows in chosen.items() if windows}


@lru_cache(maxsize=1)
def _clients(path: Path) -> dict[str, list[Rate]]:
    """Every client by the name of its file, with all of its windows in their order."""
    try:
        return {name: sorted(_parsed(path, name, lines), key=lambda each: each.since) for name, lines in _files(path)}
    except (OSError, zstandard.ZstdError, tarfile.TarError) as error:
        raise TraceError(f"{path}: no folder of ServeGen's chunk-N-trace.csv files, nor a .tar.zst of one: {error}") from error


def _files(path: Path) -> Iterator[tuple[str, list[bytes]]]:
    if path.is_dir():
        yield from ((file.name, file.read_bytes().splitlines()) for file in sorted(path.glob("*-trace.csv")))
        return
    with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
        unpacked = io.BytesIO(stream.read())
    with tarfile.open(fileobj=unpacked) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith("-trace.csv") else None
            if content is not None:
                yield Path(member.name).name, content.read().splitlines()


def _parsed(path: Path, name: str, lines: list[bytes]) -> Iterator[Rate]:
    for number, line in enumerate(lines, 1):
        try:
            yield _rate(line.decode().split(","))
        except (ValueError, IndexError) as error:
            raise TraceError(f"{path}, {name}, line {number}: not `start,rate,cv,law,shape,scale`: {error}") from error


def _rate(fields: list[str]) -> Rate:
    """A window, which may be one in which nothing is sent: then its law does not count."""
    since, per_s, law = float(fields[0]), float(fields[1]), fields[3].strip()
    if not (0 <= since < inf and 0 <= per_s < inf):
        raise ValueError(f"{per_s:g} requests per second from second {since:g} on")
    if not per_s or not law:
        return Rate(since, since + WINDOW_S, per_s, 1.0, "")
    if law not in LAWS:
        raise ValueError(f"no law is known as {law}, but {' and '.join(LAWS)}")
    shape = float(fields[4])
    if not LEAST_SHAPE <= shape < inf:
        raise ValueError(f"a {law} law of shape {shape:g}: it is at least {LEAST_SHAPE:g}")
    return Rate(since, since + WINDOW_S, per_s, shape, law)


def _moved(rate: Rate, by: float) -> Rate:
    return Rate(rate.since - by, rate.until - by, rate.per_s, rate.shape, rate.law)
