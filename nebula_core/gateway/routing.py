"""Makes a worker's router from settings: the strategies it may use, built from their plugins."""

from __future__ import annotations

import logging
import time

from nebula_core import plugins
from nebula_core.metrics import Metrics
from nebula_core.router.router import Router
from nebula_core.router.table import RoutingTable
from nebula_core.settings import Settings


def build_router(settings: Settings, metrics: Metrics) -> Router:
    """A router with an empty table. Every strategy that is installed is built, since a model loaded later may ask for any of them."""
    loaded = plugins.load(settings.plugins.disabled)
    build = loaded.builder(settings.plugin_tables, settings.data_dir, metrics, http=None)
    return Router(
        RoutingTable(),
        {name: build("strategy", name, "[router]") for name in loaded.names("strategy")},
        default=settings.router.strategy,
        fallback=settings.router.fallback,
        clock=time.monotonic,
        metrics=metrics,
        logger=logging.getLogger("nebula.router"),
    )
