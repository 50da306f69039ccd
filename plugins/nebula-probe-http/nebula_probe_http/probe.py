"""`HttpProbe`: one GET of an engine's health page."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Iterator

import httpx

from nebula_core import Health, Probe

ALIVE = frozenset({401, 403, 404, 405, 410, 501})
"""Statuses of a server that works but has no such page, or wants a key for it: many OpenAI-compatible servers have no `/health`."""
REASON_BYTES = 4096
"""How much of an answer is read: enough for an error's message."""
REASON_CHARS = 200


class HttpProbe(Probe):
    """Well is what answers with a 2xx, and what answers that it has no health page."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def probe(self, url: str, path: str, api_key: str) -> Health:
        """GET `url` + `path`, with the key if there is one. The reason is short and in words: `503: Loading model`."""
        headers = {b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}
        try:
            async with self._http.stream("GET", url + path, headers=headers) as response:
                if response.is_success or response.status_code in ALIVE:
                    await _read(response)
                    return Health(ok=True)
                return Health(ok=False, reason=_explain(response.status_code, await _read(response)))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Health(ok=False, reason=_in_words(error))


async def _read(response: httpx.Response) -> bytes:
    """The beginning of the body. A short one is read to its end, which keeps the connection for the next probe."""
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > REASON_BYTES:
            break
    return body[:REASON_BYTES]


def _explain(status: int, body: bytes) -> str:
    message = " ".join(_message(body).split())[:REASON_CHARS]
    return f"{status}: {message}" if message else str(status)


def _message(body: bytes) -> str:
    """The message in OpenAI's error envelope or FastAPI's, else the text itself unless it is a page for browsers."""
    try:
        value = json.loads(body)
    except ValueError:
        text = body.decode(errors="replace")
        return "" if text.lstrip().startswith("<") else text
    while isinstance(value, dict):
        value = next((value[key] for key in ("error", "message", "detail", "status") if key in value), "")
    return str(value)


def _in_words(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno:
            # Those two have numbers of their own; for all others asyncio's text hides what the number says.
            own = isinstance(cause, ssl.SSLError | socket.gaierror)
            return str(cause.strerror if own else os.strerror(cause.errno)).lower()
    return str(error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What led to it; httpx wraps the operating system's error, which has the words, several times."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
