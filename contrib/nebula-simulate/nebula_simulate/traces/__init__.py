"""Traces by format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from nebula_simulate.errors import TraceError
from nebula_simulate.traces import azure, lmcache, mooncake, weka
from nebula_simulate.traces.lines import parsed
from nebula_simulate.traces.trace import BLOCK_TOKENS, Session, Trace, Turn

__all__ = ["BLOCK_TOKENS", "FORMATS", "Session", "Trace", "Turn", "guess", "read"]

FORMATS: Mapping[str, Callable[[Path], Trace]] = {
    "mooncake": mooncake.read,
    "weka": weka.read,
    "azure": azure.read,
    "lmcache": lmcache.read,
}
"""Format → what reads it."""


@lru_cache(maxsize=1)
def read(path: Path, format_name: str) -> Trace:
    """The trace in a file. The last one is kept: processes that are forked later have it without reading it again.

    Raises `TraceError` naming the file and the line.
    """
    trace = FORMATS[format_name](path)
    if not trace.sessions:
        raise TraceError(f"{path}: no request in it; is it a trace of the format {format_name}?")
    return trace


def guess(path: Path) -> str:
    """The format that the first line looks like. Raises `TraceError`."""
    first = next(parsed(path, bytes.strip))
    if first.lstrip(b'"').startswith(azure.HEAD[0].encode()):
        return "azure"
    if b'"input"' in first and b'"session_id"' in first:
        return "lmcache"
    if b'"hash_ids"' not in first:
        raise TraceError(f"{path}, line 1: not of any format that is known; name one with --format ({', '.join(FORMATS)})")
    return "weka" if b'"requests"' in first else "mooncake"
