"""HTTP/1.1 for one connection: requests in their order, answers whole or in pieces, and news of a client that left."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

import httptools

MAX_BODY = 64 << 20
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Exchange:
    """One request and its answer: `respond`, or `begin`, `write` and `end`. After the client has left these do nothing."""

    def __init__(self, connection: Connection, method: str, path: str, headers: dict[str, str], body: bytes, keep: bool) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.on_close: Callable[[], None] | None = None
        """Called if the client leaves before the end."""
        self._connection = connection
        self._keep = keep

    def respond(self, status: int, content_type: str, body: bytes) -> None:
        """The whole answer."""
        self._send(_head(status, content_type, f"content-length: {len(body)}", keep=self._keep) + body)
        self._done()

    def begin(self, content_type: str) -> None:
        """The head of an answer that comes in pieces."""
        self._send(_head(200, content_type, "transfer-encoding: chunked", keep=self._keep))

    def write(self, piece: bytes) -> None:
        """A piece; not empty, which would mean the end."""
        self._send(b"%x\r\n%b\r\n" % (len(piece), piece))

    def end(self) -> None:
        """The last piece was written."""
        self._send(b"0\r\n\r\n")
        self._done()

    def _send(self, data: bytes) -> None:
        if not self._connection.transport.is_closing():
            self._connection.transport.write(data)

    def _done(self) -> None:
        self.on_close = None
        self._connection.answered(keep=self._keep)


class Connection(asyncio.Protocol):
    """Reads requests and hands them on, one after the other."""

    transport: asyncio.Transport

    def __init__(self, handle: Callable[[Exchange], None], open_connections: set[Connection]) -> None:
        self._handle = handle
        self._all = open_connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._url, self._headers, self._body = b"", dict[str, str](), bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.transport = cast("asyncio.Transport", transport)
        self._all.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """It left, perhaps in the middle of an answer."""
        self._all.discard(self)
        self._waiting.clear()
        if self._current and self._current.on_close:
            self._current.on_close()

    def data_received(self, data: bytes) -> None:
        """Some of a request, or of several."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(_head(400, "text/plain", "content-length: 0", keep=False))
            self.transport.close()

    def answered(self, *, keep: bool) -> None:
        """The current request has its answer: take the next."""
        self._current = None
        if not keep:
            self.transport.close()
        else:
            self._next()

    def on_message_begin(self) -> None:
        """Of the parser."""
        self._url, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        """Of the parser."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Of the parser."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Of the parser."""
        self._body += body
        if len(self._body) > MAX_BODY:
            self.transport.abort()

    def on_message_complete(self) -> None:
        """Of the parser: a whole request."""
        method = self._parser.get_method().decode()
        path = self._url.partition(b"?")[0].decode("latin-1")
        self._waiting.append(Exchange(self, method, path, self._headers, bytes(self._body), self._parser.should_keep_alive()))
        self._next()

    def _next(self) -> None:
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._handle(self._current)


def _head(status: int, content_type: str, length: str, *, keep: bool) -> bytes:
    first = f"HTTP/1.1 {status} {_PHRASES.get(status, 'Error')}"
    connection = "keep-alive" if keep else "close"
    return f"{first}\r\ncontent-type: {content_type}\r\n{length}\r\nconnection: {connection}\r\n\r\n".encode()
