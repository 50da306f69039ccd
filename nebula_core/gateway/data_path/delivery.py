"""An engine's answer on its way to the client: the head held back, the pieces framed, the facts noted as they pass.

Nothing here parses JSON. Pieces are framed anew, which drops trailers and chunk extensions and costs 0.1 us, where passing the
engine's own chunks on would have to prove that they end where the answer does.
"""

from __future__ import annotations

from collections import deque

from nebula_core.gateway.data_path import sse
from nebula_core.gateway.data_path.answer_reader import AnswerHead
from nebula_core.gateway.data_path.http import JOIN_BYTES, LAST_CHUNK, NO_BODY, Request
from nebula_core.gateway.data_path.measures import Tokens
from nebula_core.gateway.data_path.outbox import BatchedTransport
from nebula_core.gateway.data_path.usage import TAIL_BYTES, TAIL_PIECES, read_usage

UNKNOWN: Tokens = (None, None, False)
"""Of an answer that says nothing of tokens."""


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

    def __init__(
        self, head: AnswerHead, length: bytes | None, request: Request, transport: BatchedTransport, draining: bool, hold_bytes: int
    ) -> None:
        self.status = status = head.status
        self.streams = head.streams
        self.committed = False
        self.begun = False
        """The first event of a stream has come, or the first body byte of another answer."""
        self.held = b""
        """Comments that wait for the first event."""
        self.events = 0
        self._open_ended = length is None and status not in NO_BODY
        self._chunked = self._open_ended and not request.http10
        self.closing = draining or not request.keep_alive or (self._open_ended and request.http10)
        """The client's connection ends with this answer."""
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        if length is not None and status not in NO_BODY:
            framing = b"content-length: %b\r\n" % length
        self._head = b"".join((head.top, request.return_lines, request.connection_line(self.closing), framing, b"\r\n"))
        self._transport = transport
        self._hold_bytes = hold_bytes
        self._tail: deque[bytes] = deque(maxlen=TAIL_PIECES)

    def pass_on(self, body: bytes, complete: bool) -> None:
        """Send the next piece, or hold it back if only comments have come so far."""
        if not self.begun:
            if self.streams:
                body, self.held = self.held + body, b""
                self.begun = sse.has_event(body)
            else:
                self.begun = body != b""
            if not (self.begun or complete or self.committed or len(body) > self._hold_bytes):
                self.held = body
                return
        if self.streams:  # in place, as in `_write`: events come here one by one, and each call is a twentieth of what one costs
            self.events += body.count(sse.NEXT_EVENT) + body.startswith(sse.FIRST_EVENT)
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

    @property
    def shows_its_end(self) -> bool:
        """Whether the client can tell an answer that stops early from a whole one, however its connection ends."""
        return self._chunked or not self._open_ended

    def tokens(self) -> Tokens:
        """What the answer's `usage` says; without one, its events are counted."""
        prompt, completion = read_usage(b"".join(self._tail))
        if completion is not None or prompt is not None or not self.events:
            return prompt, completion, False
        return None, self.events - self._tail[-1].rstrip().endswith(b"[DONE]"), True

    def _write(self, body: bytes, complete: bool) -> None:
        if self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if complete:
                body += LAST_CHUNK
        if self.committed:
            self._transport.write(body)
            return
        self.committed = True
        if len(body) <= JOIN_BYTES:
            self._transport.write(self._head + body)
        else:
            self._transport.writelines((self._head, body))
        self._head = b""
