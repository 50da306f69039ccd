"""Answers that the gateway gives itself: whole, with a length, on any connection."""

from __future__ import annotations

from typing import Any

import msgspec

from nebula_core.gateway.data_path.http import NO_BODY, Request, status_line


class Answer(msgspec.Struct, frozen=True):
    """A status, a JSON body (or none), and field lines such as `b"retry-after: 5\\r\\n"`."""

    status: int
    body: bytes = b""
    lines: tuple[bytes, ...] = ()

    def render(self, request: Request, closing: bool) -> bytes:
        """All bytes of it, as they answer `request`; to HEAD without the body, but with its length."""
        parts = [status_line(self.status), *self.lines, request.return_lines, request.connection_line(closing)]
        if self.status not in NO_BODY:
            parts.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(self.body))
        head = b"".join((*parts, b"\r\n"))
        return head if request.method == b"HEAD" else head + self.body


def json_answer(status: int, value: Any, *lines: bytes) -> Answer:
    """An answer whose body is `value` as JSON."""
    return Answer(status, msgspec.json.encode(value), lines)
