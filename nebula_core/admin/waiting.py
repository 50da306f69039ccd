"""What the admin port answers while its process waits for the store: that it is alive, so that no liveness check restarts it for ever."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from nebula_core.admin.answers import refusal
from nebula_core.admin.security import ANYBODY


def waiting_app(store: str) -> ASGIApp:
    """An app that is well, and can do nothing else before the store of that name answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(scope["path"], store)(scope, receive, send)

    return app


def _answer(path: str, store: str) -> ASGIApp:
    if path == ANYBODY:
        return JSONResponse({"status": "waiting for the store"})
    message = f'this process waits for the store "{store}" ([store] use) and starts nothing before it answers; its log says why it does not'
    return refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, "store_unavailable", {"retry-after": "1"})
