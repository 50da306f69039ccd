"""An engine's answer on its way to the client: the head held back, the pieces framed, the facts noted as they pass.

Nothing here parses JSON. Pieces are framed anew, which drops trailers and chunk extensions and costs 0.1 us, where passing the
engine's own chunks on would have to prove that they end where the answer does.
"""

from __future__ import annotations

import asyncio
from collections import deque

from nebula_core.gateway.data_path import sse
from nebula_core.gateway.data_path.answer_reader import AnswerReader
from nebula_core.gateway.data_path.http import JOIN_BYTES, NO_BODY, Request, answer_head, chunk
from nebula_core.gateway.data_path.usage import TAIL_BYTES, TAIL_PIECES, read_usage


class Delivery:
    """One answer. Committed with its first body byte, for engines send the head before they have a token."""

    __slots__ = (
        "_chunked",
        "_head",
        "_hold_bytes",
        "_open_ended",
        "_tail",
        "_transport",
        "begun",
        "closing",
        "committed",
        "events",
        "held",
        "status",
        "streams",
    )

    def __init__(self, answer: AnswerReader, request: Request, transport: asyncio.Transport, draining: bool, hold_bytes: int) -> None:
        fields = answer.fields
        self.status = answer.status
        self.streams = sse.is_stream(fields.get(b"content-type", b""), fields.get(b"content-encoding", b""))
        self.committed = False
        self.begun = False
        """The first event of a stream has come, or the first body byte of another answer."""
        self.held = b""
        """Comments that wait for the first event."""
        self.events = 0
        length = fields.get(b"content-length")
        self._open_ended = length is None and self.status not in NO_BODY
        self._chunked = self._open_ended and not request.http10
        self.closing = draining or not request.keep_alive or (self._open_ended and request.http10)
        """The client's connection ends with this answer."""
        self._head = self._client_head(answer, request, length)
        self._transport = transport
        self._hold_bytes = hold_bytes
        self._tail: deque[bytes] = deque(maxlen=TAIL_PIECES)

    def pass_on(self, body: bytes, complete: bool) -> None:
        """Send the next piece, or hold it back if only comments have come so far."""
        if not self.begun:
            if self.held:
                body, self.held = self.held + body, b""
            if not self._is_due(body, complete):
                self.held = body
                return
        if self.streams:
            self.events += sse.count_events(body)
        if body:
            self._tail.append(body if len(body) <= TAIL_BYTES else body[-TAIL_BYTES:])
        self._write(body, complete)

    def let_go(self) -> None:
        """Send what is held back: it has waited long enough."""
        body, self.held = self.held, b""
        self._tail.append(body)
        self._write(body, False)

    def break_off(self, message: str, code: str) -> bool:
        """End a stream with an error event; `False` if the answer is not a stream, or of a stated length: it can only be cut."""
        if not (self.streams and self._open_ended):
            return False
        last = self._tail[-1] if self._tail else b"\n\n"
        event = sse.error_event(message, code, mid_event=not last.endswith((b"\n\n", b"\r\n\r\n")))
        self._write(event, self._chunked)
        return True

    def tokens(self) -> tuple[int | None, int | None, bool]:
        """Prompt tokens, completion tokens, and whether the latter are events counted for want of a `usage`."""
        prompt, completion = read_usage(b"".join(self._tail))
        if completion is not None or prompt is not None or not self.events:
            return prompt, completion, False
        return None, self.events - self._tail[-1].rstrip().endswith(b"[DONE]"), True

    def _is_due(self, body: bytes, complete: bool) -> bool:
        self.begun = sse.has_event(body) if self.streams else bool(body)
        return self.begun or complete or self.committed or len(body) > self._hold_bytes

    def _write(self, body: bytes, complete: bool) -> None:
        if self._chunked:
            body = chunk(body, complete)
        if self.committed:
            self._transport.write(body)
            return
        self.committed = True
        if len(body) <= JOIN_BYTES:
            self._transport.write(self._head + body)
        else:
            self._transport.writelines((self._head, body))

    def _client_head(self, answer: AnswerReader, request: Request, length: bytes | None) -> bytes:
        framing = b""
        if self._chunked:
            framing = b"transfer-encoding: chunked\r\n"
        elif length is not None and self.status not in NO_BODY:
            framing = b"content-length: %b\r\n" % length
        return answer_head(self.status, *answer.lines, request.return_lines, request.connection_line(self.closing), framing)
