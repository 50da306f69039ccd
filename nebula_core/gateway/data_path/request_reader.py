"""Client bytes in, requests out. No I/O: `client.py` feeds it, and so can a test, split anywhere.

llhttp cannot be paused, so that the further requests of a client that pipelines come out in the same call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from nebula_core.gateway.data_path import errors, routes
from nebula_core.gateway.data_path.answers import Answer
from nebula_core.gateway.data_path.errors import Refused
from nebula_core.gateway.data_path.http import REQUEST_KEPT, REQUEST_READ, Request, repeat_field, without_named
from nebula_core.gateway.data_path.known_heads import MOST_BYTES, KnownHeads, Recall

PARSED_ALWAYS = frozenset((b"expect", b"transfer-encoding"))
"""A head with one of these fields is never taken for known, for it can mean more than a body of the stated length."""


class RequestReader:
    """Reads the requests of one connection. The `on_` methods are called by the parser."""

    __deletable__ = ("_parser",)  # what mypyc asks of a compiled class
    __slots__ = (
        "_body",
        "_body_rest",
        "_declined",
        "_fields",
        "_head_bytes",
        "_identify",
        "_lines",
        "_loose_bytes",
        "_max_body_bytes",
        "_max_head_bytes",
        "_parser",
        "_recall",
        "_target",
        "between",
        "ended",
        "ready",
        "request",
    )

    def __init__(self, identify: Callable[[Request], None], known: KnownHeads[Request], max_head_bytes: int, max_body_bytes: int) -> None:
        self._identify, self._recall = identify, Recall(known)
        self._max_head_bytes, self._max_body_bytes = max_head_bytes, max_body_bytes
        self._parser = HttpRequestParser(self)
        self._loose_bytes = 0
        """Bytes read since the parser last gave out a field, a piece of a body or the end of a request."""
        self._target = b""
        self._fields: dict[bytes, bytes] = {}
        self._lines: list[bytes] = []
        self._head_bytes = 0
        self._body = b""
        """The body's first piece, which mostly is the whole."""
        self._body_rest = bytearray()
        """The pieces after it, in one array: a client may send a piece for each byte."""
        self._declined: Request | None = None
        self.ready: deque[Request] = deque()
        """Requests that are complete; one with a `refusal` is the last."""
        self.request: Request | None = None
        """The request whose body is being read."""
        self.between = True
        """No byte has been read of a request that is not complete; line ends alone are none."""
        self.ended = False
        """Nothing more can follow: the client has said so, or has been refused."""

    def feed(self, data: bytes | memoryview) -> None:
        """Read on; what is complete is then in `ready`. Nothing of `data` is referred to afterwards."""
        if not self.between:
            self._parse(bytes(data))
            return
        size = len(data)
        start = bytes(data[:MOST_BYTES])
        body_at = self._recall.find(start, size)
        if body_at and size - body_at <= self._max_body_bytes:
            known, body = self._recall.head, start[body_at:] if size <= MOST_BYTES else bytes(data[body_at:])
            request = Request(known.method, known.target, known.fields, known.lines, True, False, body, b"", known.known_path)
            self._identify(request)
            self.ready.append(request)
            return
        before = len(self.ready)
        whole = bytes(data)
        self._parse(whole)
        if self._recall.new is not None:
            if len(self.ready) == before + 1:
                self._learn(whole, self.ready[-1])
            self._recall.new = None

    def _learn(self, data: bytes, request: Request) -> None:
        """Remember the head of the one request that was in `data`, if a head and a length are all there is to it."""
        fields = dict(request.fields)
        length = fields.pop(b"content-length", None)
        if fields.keys() & PARSED_ALWAYS or fields.get(b"connection", b"keep-alive").lower() != b"keep-alive" or request.http10:
            return
        if self.between and request.keep_alive and request.refusal is None:
            head = Request(request.method, request.target, fields, request.lines, known_path=request.known_path)
            self._recall.learn(data, length, request.body, head)

    def _parse(self, data: bytes) -> None:
        self._loose_bytes += len(data)
        upgrade_at = None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            upgrade_at = upgrade.args[0]
        except HttpParserError as error:
            if not self.ended:  # else these are bytes after a request that was announced as the last
                cause = error.__context__
                self.refuse(cause.answer if isinstance(cause, Refused) else errors.bad_http(str(error).rstrip(".")))
        if upgrade_at is not None:  # not in the handler above, for a refusal in there would lose its cause
            self._decline_upgrade(data[upgrade_at:])
        if self._loose_bytes > 2 * self._max_head_bytes and not (self.between or self.ended):  # a field or a chunk's size without an end
            self.refuse(errors.head_too_large(self._max_head_bytes))

    def refuse(self, answer: Answer) -> None:
        """Read no more: the client is to be told `answer` once its earlier requests are answered."""
        request, self.request = self.request, None
        if request is None:
            request = Request(b"", b"", {}, [])
            self._identify(request)
        request.keep_alive = False
        request.refusal = answer
        self.ended = True
        self.ready.append(request)

    def close(self) -> None:
        """Break the cycle with the parser, which holds this object's methods."""
        del self._parser

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on in HTTP/1.1, as RFC 9110 allows.

        Java's client offers h2c with every POST, and llhttp takes an upgrade for the end of the message: another parser, shown how
        the body is framed, reads it.
        """
        self._declined = request = self.ready.pop()
        self.ended = False  # its body is yet to come, also where it is the client's last request
        names = (b"content-length", b"transfer-encoding")
        framing = b"".join(b"%b: %b\r\n" % (name, request.fields[name]) for name in names if name in request.fields)
        self._parser = HttpRequestParser(self)
        self._parse(b"POST / HTTP/1.1\r\n%b\r\n%b" % (framing, rest))

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.between = False
        self._loose_bytes = 0  # of line ends before it

    def on_url(self, part: bytes) -> None:
        """A part of the target: it may come in several."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or of the trailers, which nobody looks at."""
        self._loose_bytes = 0
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._max_head_bytes:
            raise Refused(errors.head_too_large(self._max_head_bytes))
        key = name.lower()
        if key in REQUEST_READ:
            if key in self._fields:
                repeat_field(self._fields, key, value.strip())
            else:
                self._fields[key] = value.strip()
        if key not in REQUEST_KEPT:
            self._lines.append(b"".join((name, b": ", value, b"\r\n")))  # in half the time of formatting

    def on_headers_complete(self) -> None:
        """Look at the head; what cannot be served is refused before its body is read."""
        target, self._target = self._target, b""
        fields, self._fields = self._fields, {}
        lines, self._lines = self._lines, []
        if self._declined is not None:
            self.request, self._declined = self._declined, None
            return
        parser = self._parser
        self.request = request = Request(parser.get_method(), target, fields, lines, parser.should_keep_alive())
        self._identify(request)
        if not request.keep_alive or b"connection" in fields:  # else it can only be 1.1, and asking costs 0.3 us
            self._check_version(request)
            request.lines = without_named(lines, fields.get(b"connection", b""))
        if len(target) > self._max_head_bytes:
            raise Refused(errors.head_too_large(self._max_head_bytes))
        routes.check(request, self._max_body_bytes)

    def on_body(self, piece: bytes) -> None:
        """A piece of the body; a chunked one is only now known to be too large."""
        self._loose_bytes = 0
        if len(self._body) + len(self._body_rest) + len(piece) > self._max_body_bytes:
            raise Refused(errors.too_large(self._max_body_bytes))
        if self._body:
            self._body_rest += piece
        else:
            self._body = piece

    def on_message_complete(self) -> None:
        """The request is whole."""
        request, self.request = self.request, None
        assert request is not None, "a message ends after its head"
        request.body, self._body = self._body, b""
        if self._body_rest:
            request.body += self._body_rest
            self._body_rest = bytearray()
        self._head_bytes = self._loose_bytes = 0
        self.between = True
        self._fields.clear()  # of trailers
        self._lines.clear()
        self.ended = not request.keep_alive
        self.ready.append(request)

    def _check_version(self, request: Request) -> None:
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise Refused(errors.bad_http(f"HTTP/{version} is not spoken here"))
        request.http10 = version == "1.0"
