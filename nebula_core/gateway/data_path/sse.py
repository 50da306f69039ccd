"""Server-sent events as they pass: when the first one comes, how many there are, and how to end a stream that broke off."""

from __future__ import annotations

import re

import msgspec

from nebula_core.gateway.data_path.errors import envelope

NEXT_EVENT, FIRST_EVENT = b"\ndata:", b"data:"
"""How an event begins, in a piece and at its start. JSON holds no bare line feed, so that text cannot be taken for an event."""

_FIELD = re.compile(rb"(?:^|[\r\n])[^:\r\n]")


def is_stream(content_type: bytes, content_encoding: bytes) -> bool:
    """Whether an answer's body can be read as events; a compressed one cannot."""
    return content_type[:17].lower() == b"text/event-stream" and content_encoding in (b"", b"identity")


def has_event(body: bytes) -> bool:
    """Whether the start of a stream holds more than comments and empty lines."""
    return _FIELD.search(body) is not None


def error_event(message: str, code: str, *, mid_event: bool) -> bytes:
    """OpenAI's error as an event. `mid_event`: the stream broke off inside an event, which has to be closed first."""
    data = b"data: %b\n\n" % msgspec.json.encode(envelope(message, "server_error", None, code))
    return b"\n\n" + data if mid_event else data
