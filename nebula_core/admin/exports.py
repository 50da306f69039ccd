"""Exporters on the admin port: one page each, which anybody may read, for whoever scrapes has neither token nor our host name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response

from nebula_core.admin.answers import refusal
from nebula_core.errors import PluginError
from nebula_core.interfaces import Exporter
from nebula_core.snapshots import Snapshot

logger = logging.getLogger("nebula")


def add_exporters(
    app: FastAPI, exporters: Mapping[str, Exporter], snapshot: Callable[[], Snapshot], taken: Iterable[str], reserved: tuple[str, ...]
) -> None:
    """Serve each exporter's page at its path.

    Raises `PluginError` if that is one of `taken`, another exporter's, no path, or begins like a `reserved` one.
    """
    owners = dict.fromkeys(taken, "the admin API")
    for name, exporter in exporters.items():
        path = exporter.path
        if path in owners or not path.startswith("/") or path.startswith(reserved):
            raise PluginError(
                f'the exporter "{name}" cannot serve its page at "{path}" ({_why(path, owners)}); uninstall or disable its plugin'
            )
        owners[path] = f'the exporter "{name}"'
        app.add_api_route(path, _page(name, exporter, snapshot), summary=f"All metrics, as the exporter {name} writes them")


def _why(path: str, owners: Mapping[str, str]) -> str:
    if path in owners:
        return f"it belongs to {owners[path]}"
    return "the admin API lies there" if path.startswith("/") else "a path begins with /"


def _page(name: str, exporter: Exporter, snapshot: Callable[[], Snapshot]) -> Callable[[Request], Awaitable[Response]]:
    one_at_a_time = asyncio.Lock()  # a page takes a while, and anybody may ask for one

    async def page(request: Request) -> Response:
        try:
            async with one_at_a_time:
                content_type, body = await asyncio.to_thread(exporter.page, snapshot(), request.headers.get("accept", ""))
        except Exception:  # a fault in one plugin must not look like one of the admin API's
            logger.exception("the exporter %r failed", name)
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, f'the exporter "{name}" failed; the log says more', "exporter_failed")
        return Response(body, headers={"content-type": content_type})

    return page
