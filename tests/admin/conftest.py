from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx
import pytest

from nebula_core import plugins
from nebula_core.admin import token
from nebula_core.admin.api import make_app
from nebula_core.admin.server import AdminServer, bind
from nebula_core.admin.view import PREFIXES, View
from nebula_core.metrics import Metrics
from nebula_core.settings import Settings
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import following
from nebula_core.testing.engines import FakeEngine

logger = logging.getLogger("test")


@pytest.fixture
def serve_admin(tmp_path):
    """Serves the admin API on a real socket: `async with serve_admin(**settings) as nebula`, with its parts and an HTTP client."""

    @asynccontextmanager
    async def serve(installed=(), exporters=None, followed=PREFIXES, store_type=EmbeddedStore, explain=None, **tables):
        listener = bind("127.0.0.1", 0)
        admin = {"port": listener.getsockname()[1], **tables.pop("admin", {})}
        settings = Settings.model_validate({"data_dir": tmp_path, "admin": admin, **tables})
        metrics = Metrics()
        async with (
            store_type(tmp_path / "store", EmbeddedSettings(), time.monotonic, logger) as store,
            following(store, followed, logger) as mirror,
        ):
            view = View(
                settings=settings,
                store=store,
                mirror=mirror,
                engines={"fake": FakeEngine()},
                plugins=plugins.load(found=installed),
                snapshot=metrics.snapshot,
                exporters=exporters or {},
                followed=followed,
                explain=explain,
            )
            secret = token.ensure(settings.data_dir)
            async with (
                AdminServer(make_app(view, secret), listener) as server,
                httpx.AsyncClient(base_url=server.url, headers={"authorization": f"Bearer {secret}"}, trust_env=False) as http,
            ):
                yield SimpleNamespace(settings=settings, store=store, view=view, metrics=metrics, http=http, url=server.url)

    return serve


@pytest.fixture
async def nebula(serve_admin):
    async with serve_admin() as nebula:
        yield nebula
