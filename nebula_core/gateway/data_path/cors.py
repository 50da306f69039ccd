"""Cross-origin calls from browsers, as `[gateway] cors_origins` allows them."""

from __future__ import annotations

from collections.abc import Iterable

from nebula_core.gateway.data_path.answers import Answer
from nebula_core.gateway.data_path.http import Request

_EXPOSED = b"access-control-expose-headers: x-request-id\r\n"
_VARY = b"vary: Origin\r\n"
PREFLIGHT_AGE_S = 600


class Cors:
    """Which origins may call, and the field lines that tell their browsers so."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._allowed = frozenset(origin.encode() for origin in origins)
        self._any = b"*" in self._allowed
        self.enabled = bool(self._allowed)
        """Whether any answer needs a line."""

    def lines(self, origin: bytes | None) -> bytes:
        """Field lines for an answer to a request with this `Origin`."""
        if self._any:
            return b"access-control-allow-origin: *\r\n" + _EXPOSED if origin is not None else b""
        if origin in self._allowed:
            return b"access-control-allow-origin: %b\r\n" % origin + _EXPOSED + _VARY
        return _VARY

    def allows(self, origin: bytes | None) -> bool:
        """Whether this origin may call."""
        return origin is not None and (self._any or origin in self._allowed)

    def preflight(self, request: Request, allow: bytes) -> Answer:
        """The answer to OPTIONS: what may be called, and how."""
        lines = [b"allow: %b\r\n" % allow]
        if self.allows(request.fields.get(b"origin")) and b"access-control-request-method" in request.fields:
            headers = request.fields.get(b"access-control-request-headers", b"*")
            lines.append(b"access-control-allow-methods: %b\r\n" % allow)
            lines.append(b"access-control-allow-headers: %b\r\n" % headers)
            lines.append(b"access-control-max-age: %d\r\n" % PREFLIGHT_AGE_S)
        return Answer(204, lines=tuple(lines))
