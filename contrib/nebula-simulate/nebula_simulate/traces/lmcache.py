"""LMCache's agents: one request a line with the whole text of its prompt; the lines of a session bear its id.

The texts are not tokenized: four bytes count as a token, as everywhere in the simulation, and blocks are compared by their bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec
from xxhash import xxh32

from nebula_simulate.traces.lines import parsed
from nebula_simulate.traces.trace import BLOCK_TOKENS, Session, Trace, Turn, checked

BYTES_PER_TOKEN = 4
BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN


class Line(msgspec.Struct):
    """A line of the file."""

    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    """Microseconds."""
    session_id: str
    input: str
    output: str = ""


def read(path: Path) -> Trace:
    """The whole trace. Raises `TraceError`."""
    decode, sessions = msgspec.json.Decoder(Line).decode, dict[str, list[tuple[float, Turn]]]()
    for session_id, at, turn in parsed(path, lambda line: _call(decode(line))):
        sessions.setdefault(session_id, []).append((at, turn))
    return Trace(path, [_session(calls) for calls in sessions.values()], timed=False)


def _call(line: Line) -> tuple[str, float, Turn]:
    """The session, the second, and what was asked; the texts go, for they would fill the memory."""
    prompt = line.input.encode()
    turn = Turn(0.0, _tokens(len(prompt)), _tokens(len(line.output.encode())), array("q", _ids(prompt)))
    return line.session_id, line.timestamp / 1e6, checked(turn)


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)


def _ids(prompt: bytes) -> Iterator[int]:
    """A hash of all up to each whole block: ids have 32 bits, and of a session's hundred blocks two collide once in a million sessions."""
    chain, view = xxh32(), memoryview(prompt)
    for end in range(BLOCK_BYTES, len(prompt) + 1, BLOCK_BYTES):
        chain.update(view[end - BLOCK_BYTES : end])
        yield chain.intdigest()


def _session(calls: list[tuple[float, Turn]]) -> Session:
    """Turns in their order. The pause before one is all the time since the one before it: when that was answered, nobody wrote down."""
    calls.sort(key=lambda call: call[0])
    later = [replace(turn, pause_s=at - before) for (before, _), (at, turn) in pairwise(calls)]
    return Session(0.0, (calls[0][1], *later))
