"""Engine bytes in, the answer's head and body pieces out. No I/O: `upstream.py` feeds it."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from nebula_core.gateway.data_path.http import ANSWER_KEPT, ANSWER_READ, repeat_field, without_named


class BadAnswerError(Exception):
    """What the engine sends is no HTTP/1.1 answer, or one whose framing cannot be undone."""


class AnswerReader:
    """Reads the answers of one connection, one after the other. The `on_` methods are called by the parser."""

    __slots__ = (
        "_fields",
        "_lines",
        "_parser",
        "_pieces",
        "_whole",
        "complete",
        "fields",
        "keep_alive",
        "lines",
        "on_body",
        "status",
        "surplus",
    )

    def __init__(self) -> None:
        self._fields: dict[bytes, bytes] = {}
        self._lines: list[bytes] = []
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # so that a piece costs no Python frame
        self._parser = HttpResponseParser(self)
        self.surplus = False
        """The engine has sent more than it was asked for: the connection cannot be used again."""
        self.reset()

    def reset(self) -> None:
        """Make ready for the next answer."""
        self.status = 0
        """The answer's status; 0 until its head is complete."""
        self.fields: dict[bytes, bytes] = {}
        """The fields that the gateway reads, by lower-case name."""
        self.lines: list[bytes] = []
        """The field lines that the client shall see."""
        self.complete = False
        self.keep_alive = False
        self._whole = 0

    @property
    def ends_with_connection(self) -> bool:
        """Whether the answer has no other end than that of the connection."""
        return self.status != 0 and b"content-length" not in self.fields and b"transfer-encoding" not in self.fields

    def feed(self, data: bytes) -> bytes:
        """Read on; returns the bytes of the answer's body in `data`. Raises `BadAnswerError`."""
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
        return body

    def close(self) -> None:
        """Break the cycle with the parser, which holds this object's methods."""
        del self._parser

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
            if b"transfer-encoding" in fields and fields[b"transfer-encoding"].lower() != b"chunked":
                raise BadAnswerError("its Transfer-Encoding is not chunked")
            self.fields = fields
            self.lines = without_named(lines, fields[b"connection"]) if b"connection" in fields else lines
            self.keep_alive = self._parser.should_keep_alive()
            self.status = status

    def on_message_complete(self) -> None:
        """The answer is whole; what follows it in the same bytes is surplus."""
        self._fields.clear()  # of trailers
        self._lines.clear()
        if self.status and not self.complete:
            self.complete = True
            self._whole = len(self._pieces)
