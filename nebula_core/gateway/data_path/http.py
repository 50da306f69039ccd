"""HTTP/1.1 as a gateway needs it: which fields it reads, which it keeps to itself, and how heads are written.

Parsing is llhttp's (`httptools`). Fields that pass keep the sender's spelling and order.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.answers import Answer


def _names(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


HOP_BY_HOP = _names(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade http2-settings"
)
CREDENTIALS = _names("authorization x-api-key api-key")
"""What a client proves itself with, to the gateway alone: an engine gets the key of its route instead."""

REQUEST_READ = _names(
    "connection content-length content-type expect host origin transfer-encoding x-request-id"
    " access-control-request-method access-control-request-headers"
)
REQUEST_KEPT = HOP_BY_HOP | CREDENTIALS | _names("content-length expect host x-request-id")

ANSWER_READ = _names("connection content-encoding content-length content-type transfer-encoding")
ENGINE_CORS = _names(
    "access-control-allow-origin access-control-allow-credentials access-control-allow-methods access-control-allow-headers "
    "access-control-allow-private-network access-control-expose-headers access-control-max-age"
)
"""Which origins may read an answer is the gateway's to say; llama.cpp, for one, lets any."""
ANSWER_KEPT = HOP_BY_HOP | ENGINE_CORS | _names("content-length x-request-id")

JOIN_BYTES = 16 * 1024
"""Up to this size a head and a body are joined, for the copy costs less than a second buffer in the write."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
NO_BODY = frozenset((204, 304))

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


class Request:
    """One request of a client: its head, and its body once that is complete."""

    __slots__ = (
        "body",
        "fields",
        "http10",
        "keep_alive",
        "known_path",
        "lines",
        "method",
        "refusal",
        "request_id",
        "return_lines",
        "target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        fields: dict[bytes, bytes],
        lines: list[bytes],
        keep_alive: bool = True,
        http10: bool = False,
        body: bytes = b"",
        request_id: bytes = b"",
        known_path: str = "",
    ) -> None:
        self.method, self.target = method, target
        self.fields = fields
        """The fields that the gateway reads, by lower-case name."""
        self.lines = lines
        """The field lines that an engine shall see."""
        self.keep_alive, self.http10 = keep_alive, http10
        self.body, self.request_id = body, request_id
        self.known_path = known_path
        """The path, if it is one of the usual ones, for those need no looking into."""
        self.return_lines = b""
        """Field lines that go on every answer to this request."""
        self.refusal: Answer | None = None
        """What to answer without looking further."""

    @property
    def path(self) -> bytes:
        """The target without its query."""
        target = self.target
        return target.partition(b"?")[0] if b"?" in target else target

    def connection_line(self, closing: bool) -> bytes:
        """The `connection` field line of the answer, if it needs one."""
        if closing or not self.keep_alive:
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if self.http10 else b""


def repeat_field(fields: dict[bytes, bytes], key: bytes, value: bytes) -> None:
    """Note a field that has come before: a repeated one becomes a list, as RFC 9110 has it."""
    fields[key] = b"%b, %b" % (fields[key], value)


def without_named(lines: list[bytes], connection: bytes) -> list[bytes]:
    """Drop the lines that the sender's `connection` field names: they are meant for this hop alone."""
    named = {token.strip().lower() for token in connection.split(b",")} - {b"close", b"keep-alive", b""}
    return [line for line in lines if line.partition(b":")[0].lower() not in named] if named else lines


def status_line(status: int) -> bytes:
    """How an answer begins."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
