"""Who may talk to the admin port: whoever has the token, and no web page of another site.

The checks come before any routing, so that a route that a plugin adds is behind them too:

1. `Host` names this listener. Else a page could reach it under a name of its own that it lets point here (DNS rebinding).
2. `Origin`, which browsers send along, is this same host.
3. The token, except for the documentation, which holds no secrets.

`/health` and the pages of exporters are answered to anybody: load balancers and Prometheus reach them by any name, and they hold no
secrets.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from nebula_core.admin.answers import refusal

ANYBODY = "/health"
WITHOUT_TOKEN = frozenset({"/", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
ASSETS = "/docs/assets"
LOCAL = ("localhost", "127.0.0.1", "::1")
_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


class Security:
    """ASGI middleware. `hosts` are the names that it answers to, beside localhost and the address a connection came in at.

    `open_paths` are answered to anybody.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str], open_paths: Iterable[str]) -> None:
        self._app = app
        self._open = frozenset(open_paths)
        self._token = token.encode()
        self._hosts = frozenset(name.lower().strip("[]") for name in (*LOCAL, *hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed, and answer the rest."""
        if scope["type"] == "http" and scope["path"] not in self._open:
            answer = self._refuse_host(scope) or self._refuse_stranger(scope)
            if answer is not None:
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refuse_host(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host = split_host(headers.get("host", ""))
        own = (scope.get("server") or ("",))[0].removeprefix("::ffff:")  # IPv4 as a listener for both families shows it
        if host is None or (host.hostname or "") not in self._hosts | {own}:
            return refusal(
                HTTPStatus.FORBIDDEN,
                f'the admin API does not answer to the host "{headers.get("host", "")}"; '
                "use its own address, or add the name to `[admin] allowed_hosts`",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not same_host(origin, host):
            return refusal(HTTPStatus.FORBIDDEN, f'pages of "{origin}" may not call the admin API', "origin_not_allowed")
        return None

    def _refuse_stranger(self, scope: Scope) -> ASGIApp | None:
        path: str = scope["path"]
        if path in WITHOUT_TOKEN or path.startswith(ASSETS + "/"):
            return None
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return None
        what = "this is not the token of the admin API" if given else "the admin API needs a token"
        message = f"{what}: send `Authorization: Bearer TOKEN` with the text of the file admin.token in Nebula's data folder"
        return refusal(HTTPStatus.UNAUTHORIZED, message, "invalid_token", {"www-authenticate": "Bearer"})


def split_host(header: str) -> SplitResult | None:
    """The `Host` header's name and port; `None` if it is none. Names are lower case, IPv6 addresses without brackets."""
    try:
        parts = urlsplit(f"//{header}")
        valid = parts.netloc == header and parts.hostname and "@" not in header and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if valid else None


def same_host(origin: str, host: SplitResult) -> bool:
    """Whether a page of `origin` was loaded from `host` itself."""
    try:
        parts = urlsplit(origin)
        default = _PORTS[parts.scheme]
        return (parts.hostname, parts.port or default) == (host.hostname, host.port or default)
    except (KeyError, ValueError):
        return False
