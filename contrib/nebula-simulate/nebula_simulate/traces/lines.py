"""Lines of a file, compressed or not, and how a broken one is told."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import msgspec
import zstandard

from nebula_simulate.errors import TraceError

Row = TypeVar("Row")


def parsed(path: Path, parse: Callable[[bytes], Row | None]) -> Iterator[Row]:
    """What `parse` makes of each line; `None` leaves a line out. Raises `TraceError`, naming the line that it cannot parse."""
    number = 0
    try:
        for line in _lines(path):
            number += 1
            row = parse(line) if line.strip() else None
            if row is not None:
                yield row
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except zstandard.ZstdError as error:
        raise TraceError(f"{path}, after line {number}: not a whole zstd file: {error}") from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise TraceError(f"{path}, line {number}: {error}") from error


def _lines(path: Path) -> Iterator[bytes]:
    with ExitStack() as opened:
        file = opened.enter_context(path.open("rb"))
        if path.suffix == ".zst":
            stream = opened.enter_context(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
            yield from opened.enter_context(io.BufferedReader(stream, 1 << 20))
        else:
            yield from file
