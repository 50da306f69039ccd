"""Mooncake's traces: one request a line with its time, its lengths and its blocks of 512 tokens."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Annotated

import msgspec

from nebula_simulate.traces.lines import parsed
from nebula_simulate.traces.trace import BLOCK_TOKENS, Session, Trace, Turn, checked

TICK_S = 3.0
"""The published timestamps are quantised to about this: all requests of a tick bear its start."""
Id = Annotated[int, msgspec.Meta(ge=0)]


class Line(msgspec.Struct):
    """A line of the file."""

    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    """Milliseconds, from whenever: the first request is the start."""
    input_length: int
    output_length: int
    hash_ids: list[Id]


def read(path: Path) -> Trace:
    """The whole trace. Raises `TraceError`."""
    decode = msgspec.json.Decoder(Line).decode
    rows = list(parsed(path, lambda line: _turn(decode(line))))
    start = min((at for at, _ in rows), default=0.0)
    return Trace(path, [Session((at - start) / 1000, (turn,)) for at, turn in rows], tick_s=TICK_S)


def _turn(line: Line) -> tuple[float, Turn]:
    whole = line.hash_ids[: line.input_length // BLOCK_TOKENS]
    try:
        blocks = array("Q", whole)
    except OverflowError as error:
        raise ValueError(f"hash_ids: {max(whole)} has more than 64 bits") from error
    return line.timestamp, checked(Turn(0.0, line.input_length, line.output_length, blocks))
