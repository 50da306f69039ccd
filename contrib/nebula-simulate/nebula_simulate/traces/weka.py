"""WEKA's coding agents: one session a line, with relative times and blocks of 64 tokens whose ids count within the session."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from nebula_simulate.traces.lines import parsed
from nebula_simulate.traces.trace import BLOCK_TOKENS, Session, Trace, Turn, checked

Id = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Request(msgspec.Struct, rename={"prompt_tokens": "in", "output_tokens": "out"}):
    """A request of a session, or a sub-agent with requests of its own, whose times count from its start."""

    t: Seconds
    type: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    hash_ids: list[Id] = []
    api_time: Seconds | None = None
    think_time: Seconds | None = None
    requests: list[Request] = []


class Line(msgspec.Struct):
    """A line of the file."""

    requests: list[Request]
    block_size: int = 64


def read(path: Path) -> Trace:
    """The whole trace. Raises `TraceError`."""
    decode = msgspec.json.Decoder(Line).decode
    return Trace(path, list(parsed(path, lambda line: _session(decode(line)))), timed=False)


def _session(line: Line) -> Session:
    """Sub-agents are played in their place, one after the other.

    Each id stands for all blocks up to its own, so that of those that make one of our blocks the last will do.
    """
    step, odd = divmod(BLOCK_TOKENS, line.block_size) if line.block_size > 0 else (0, 1)
    if odd:
        raise ValueError(f"block_size {line.block_size} does not divide {BLOCK_TOKENS}")
    requests = sorted(_flat(line.requests, 0.0), key=lambda pair: pair[0])
    turns, ended = [], requests[0][0] if requests else 0.0
    for at, request in requests:
        pause = max(0.0, at - ended) if request.think_time is None else request.think_time
        whole = request.hash_ids[step - 1 : request.prompt_tokens // line.block_size : step]
        turns.append(checked(Turn(pause, request.prompt_tokens, request.output_tokens, array("q", whole))))
        ended = at + (request.api_time or 0.0)
    if not turns:
        raise ValueError("a session without requests")
    return Session(0.0, tuple(turns))


def _flat(requests: list[Request], start: float) -> Iterator[tuple[float, Request]]:
    for request in requests:
        if request.type == "subagent":
            yield from _flat(request.requests, start + request.t)
        else:
            yield start + request.t, request
