"""Engine bytes in, the answer's head and body pieces out. No I/O: `upstream.py` feeds it."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from nebula_core.gateway.data_path import sse
from nebula_core.gateway.data_path.http import ANSWER_KEPT, ANSWER_READ, NO_BODY, repeat_field, status_line, without_named
from nebula_core.gateway.data_path.known_heads import MOST_ANSWER_HEADS, KnownHeads, Recall


class BadAnswerError(Exception):
    """What the engine sends is no HTTP/1.1 answer, or one whose framing cannot be undone."""


class AnswerHead:
    """What an answer's head says, but for the length."""

    __slots__ = ("chunked", "keep_alive", "lines", "status", "streams", "top")

    def __init__(self, status: int, lines: list[bytes], streams: bool, chunked: bool, keep_alive: bool) -> None:
        self.status = status
        self.lines = lines
        """The field lines that the client shall see."""
        self.top = b"".join((status_line(status), *lines))
        """The status line and these lines."""
        self.streams = streams
        """The body can be read as events."""
        self.chunked, self.keep_alive = chunked, keep_alive


class AnswerReader:
    """Reads the answers of one connection, one after the other. The `on_` methods are called by the parser."""

    __deletable__ = ("_parser",)  # what mypyc asks of a compiled class
    __slots__ = (
        "_between",
        "_fields",
        "_lines",
        "_parser",
        "_pieces",
        "_recall",
        "_whole",
        "complete",
        "head",
        "length",
        "on_body",
        "surplus",
    )

    def __init__(self, known: KnownHeads[AnswerHead]) -> None:
        self._recall = Recall(known, MOST_ANSWER_HEADS)
        self._fields: dict[bytes, bytes] = {}
        self._lines: list[bytes] = []
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # so that a piece costs no Python frame
        self._parser = HttpResponseParser(self)
        self._between = True
        """The parser has read no byte of an answer that is not complete."""
        self.surplus = False
        """The engine has sent more than it was asked for: the connection cannot be used again."""
        self.reset()

    def reset(self) -> None:
        """Make ready for the next answer."""
        self.head: AnswerHead | None = None
        """`None` until it is complete."""
        self.length: bytes | None = None
        """What the head says of the body's length, in digits."""
        self.complete = False
        self._whole = 0

    @property
    def ends_with_connection(self) -> bool:
        """Whether the answer has no other end than that of the connection."""
        return self.head is not None and self.length is None and not self.head.chunked

    def feed(self, data: bytes) -> bytes:
        """Read on; returns the bytes of the answer's body in `data`. Raises `BadAnswerError`."""
        if self._between and not self.complete and (body_at := self._recall.find(data, len(data))):
            self.head, self.length, self.complete = self._recall.head, b"%d" % (len(data) - body_at), True
            return data[body_at:]
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.complete:
                raise BadAnswerError(str(error)) from error
            self.surplus = True
        pieces = self._pieces
        if self.surplus:
            del pieces[self._whole :]
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._recall.new is not None:
            self._learn(data, body)
        return body

    def close(self) -> None:
        """Break the cycle with the parser, which holds this object's methods."""
        del self._parser

    def _learn(self, data: bytes, body: bytes) -> None:
        """Remember the head of the answer that was in `data`, if a head and a length are all there is to it."""
        head = self.head
        if head is not None and self.complete and not (self.surplus or head.chunked or head.status in NO_BODY):
            self._recall.learn(data, self.length, body, head)
        self._recall.new = None

    def on_message_begin(self) -> None:
        """The first byte of an answer."""
        self._between = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or of the trailers, which are dropped."""
        key = name.lower()
        if key in ANSWER_READ:
            if key in self._fields:
                repeat_field(self._fields, key, value.strip())
            else:
                self._fields[key] = value.strip()
        if key not in ANSWER_KEPT:
            self._lines.append(b"".join((name, b": ", value, b"\r\n")))  # in half the time of formatting

    def on_headers_complete(self) -> None:
        """Take over the head, unless it is an interim one such as 100 Continue: then the answer is still to come."""
        fields, self._fields = self._fields, {}
        lines, self._lines = self._lines, []
        status = self._parser.get_status_code()
        if self.complete:
            self.surplus = True
        elif status >= 200:
            coding = fields.get(b"transfer-encoding")
            if coding is not None and coding.lower() != b"chunked":
                raise BadAnswerError("its Transfer-Encoding is not chunked")
            if b"connection" in fields:
                lines = without_named(lines, fields[b"connection"])
            self.length = fields.get(b"content-length")
            self.head = AnswerHead(
                status,
                lines,
                sse.is_stream(fields.get(b"content-type", b""), fields.get(b"content-encoding", b"")),
                coding is not None,
                self._parser.should_keep_alive(),
            )

    def on_message_complete(self) -> None:
        """The answer is whole; what follows it in the same bytes is surplus."""
        self._between = True
        self._fields.clear()  # of trailers
        self._lines.clear()
        if self.head is not None and not self.complete:
            self.complete = True
            self._whole = len(self._pieces)
