"""Makes what decides in a worker from settings: its router with the strategies, and the retry policy, built from their plugins."""

from __future__ import annotations

import logging
import time

from nebula_core import plugins
from nebula_core.interfaces import Retry
from nebula_core.metrics import Metrics
from nebula_core.router.router import Router
from nebula_core.router.table import RoutingTable
from nebula_core.settings import Settings

RETRY = "[gateway] retry"


def build_routing(settings: Settings, metrics: Metrics) -> tuple[Router, Retry | None]:
    """A router with an empty table, and the retry policy if one is installed.

    Every strategy that is installed is built, since a model loaded later may ask for any of them.
    """
    loaded = plugins.load(settings.plugins.disabled)
    build = loaded.builder(settings.plugin_tables, settings.data_dir, metrics, http=None)
    router = Router(
        RoutingTable(),
        {name: build("strategy", name, "[router]") for name in loaded.names("strategy")},
        default=settings.router.strategy,
        fallback=settings.router.fallback,
        clock=time.monotonic,
        metrics=metrics,
        logger=logging.getLogger("nebula.router"),
    )
    retry = loaded.choice("retry", settings.gateway.retry, RETRY)
    return router, build("retry", retry, RETRY) if retry else None
