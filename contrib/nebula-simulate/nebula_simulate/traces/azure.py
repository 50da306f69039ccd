"""Azure's LLM inference traces: arrivals and lengths as CSV. Nothing is said of the prompts, so that no two share anything."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from nebula_simulate.errors import TraceError
from nebula_simulate.traces.lines import parsed
from nebula_simulate.traces.trace import Session, Trace, Turn, checked

HEAD = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: Path) -> Trace:
    """The whole trace. Raises `TraceError`."""
    rows = list(parsed(path, _row))
    if not rows:
        raise TraceError(f"{path}: no request in it")
    start = min(at for at, _ in rows)
    return Trace(path, [Session((at - start).total_seconds(), (turn,)) for at, turn in rows])


def _row(line: bytes) -> tuple[datetime, Turn] | None:
    fields = [field.strip() for field in line.decode().split(",")]
    if tuple(fields) == HEAD:
        return None
    if len(fields) != len(HEAD):
        raise ValueError(f"{len(fields)} fields where {','.join(HEAD)} is expected")
    # A seventh decimal is more than `fromisoformat` takes.
    at, _, fraction = fields[0].partition(".")
    moment = datetime.fromisoformat(f"{at}.{fraction[:6]:0<6}")
    return moment, checked(Turn(0.0, int(fields[1]), int(fields[2]), None))
