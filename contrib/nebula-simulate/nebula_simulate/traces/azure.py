"""Azure's LLM inference traces: arrivals and lengths as CSV. Nothing is said of the prompts, so that no two share anything."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from pathlib import Path

from nebula_simulate.errors import TraceError
from nebula_simulate.traces.lines import parsed
from nebula_simulate.traces.trace import Session, Trace, Turn, checked

HEAD = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
TOKENS = re.compile(r"\d{1,18}", re.ASCII)


def read(path: Path) -> Trace:
    """The whole trace. Raises `TraceError`."""
    rows = list(parsed(path, _row))
    if not rows:
        raise TraceError(f"{path}: no request in it")
    start = min(at for at, _ in rows)
    return Trace(path, [Session((at - start).total_seconds(), (turn,)) for at, turn in rows])


def _row(line: bytes) -> tuple[datetime, Turn] | None:
    try:
        [fields] = csv.reader([line.decode()], strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    fields = [field.strip() for field in fields]
    if tuple(fields) == HEAD:
        return None
    if len(fields) != len(HEAD):
        raise ValueError(f"{len(fields)} fields where {','.join(HEAD)} is expected")
    return _moment(fields[0]), checked(Turn(0.0, _tokens(fields[1]), _tokens(fields[2]), None))


def _moment(text: str) -> datetime:
    """A time without a zone is of UTC: files with and without one exist, and in some both."""
    if not (found := MOMENT.fullmatch(text)):
        raise ValueError(f"{text!r} is no time such as 2023-11-16 18:15:46.680590")
    day, clock, fraction, zone = found.groups()
    # A seventh decimal is more than `fromisoformat` takes.
    moment = datetime.fromisoformat(f"{day} {clock}.{(fraction or '')[:6]:0<6}{zone or ''}")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _tokens(text: str) -> int:
    if not TOKENS.fullmatch(text):
        raise ValueError(f"{text!r} is no number of tokens")
    return int(text)
