"""What all roles of one process share: settings, plugins, the store and its mirror, metrics and an HTTP client."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx

from nebula_core import plugins as plugin_loader
from nebula_core.background import background
from nebula_core.identity import named
from nebula_core.interfaces import Devices, Engine, Exporter, Placement, Probe, Runtime, ScalingPolicy, Scraper, Store
from nebula_core.metrics import Metrics
from nebula_core.plugins import Build, Plugins
from nebula_core.settings import Settings
from nebula_core.store.mirror import Mirror

logger = logging.getLogger("nebula")

PLACEMENT, DEFAULT_PLACEMENT = "[scheduler] placement", "binpack"
SCALER, DEFAULT_SCALER = "[scheduler] scaler", "load"


@dataclass(frozen=True)
class App:
    """One process of Nebula. Nothing of it is global: whoever needs a part is given it."""

    settings: Settings
    plugins: Plugins
    metrics: Metrics
    http: httpx.AsyncClient
    store: Store
    mirror: Mirror
    build: Build
    engines: dict[str, Engine]
    """Every engine that is installed, by name."""

    def runtime(self) -> Runtime:
        """The runtime that this node runs its engines with."""
        return self.build("runtime", self.settings.node.runtime, "[node] runtime")  # type: ignore[no-any-return]

    def probes(self) -> dict[str, Probe]:
        """Every probe that is installed, by name."""
        return {name: self.build("probe", name, "an engine") for name in self.plugins.names("probe")}

    def scraper(self, name: str) -> Scraper:
        """A new scraper, which remembers its last sample: one per replica."""
        return self.build("scraper", name, "an engine")  # type: ignore[no-any-return]

    def devices(self) -> dict[str, Devices]:
        """What reads this node's GPUs, by name."""
        names = self.settings.node.devices or self.plugins.names("devices")
        return {name: self.build("devices", name, "[node] devices") for name in names}

    def placement(self) -> Placement | None:
        """The policy that chooses places for replicas; `None` where none is installed."""
        name = self.plugins.choice("placement", self.settings.scheduler.placement, PLACEMENT, DEFAULT_PLACEMENT)
        return None if name is None else self.build("placement", name, PLACEMENT)

    def scalers(self) -> dict[str, ScalingPolicy]:
        """Every scaling policy that is installed, by name."""
        return {name: self.build("scaler", name, SCALER) for name in self.plugins.names("scaler")}

    def scaler(self) -> str | None:
        """The one for models that name none; `None` where none is installed."""
        return self.plugins.choice("scaler", self.settings.scheduler.scaler, SCALER, DEFAULT_SCALER)

    def exporters(self) -> dict[str, Exporter]:
        """Every metrics exporter that is installed, by name."""
        return {name: self.build("exporter", name, "the admin port") for name in self.plugins.names("exporter")}


def load_plugins(settings: Settings) -> Plugins:
    """All enabled plugins. Every name and table in the settings is checked against them; a table without a plugin only warns."""
    plugins = plugin_loader.load(settings.plugins.disabled)
    for table in plugins.check_tables(settings.plugin_tables):
        logger.warning("the settings table [%s] belongs to no installed plugin and is ignored", table)
    plugins.offer("strategy", settings.router.strategy, "[router] strategy")
    plugins.offer("strategy", settings.router.fallback, "[router] fallback")
    plugins.choice("retry", settings.gateway.retry, "[gateway] retry")
    plugins.choice("placement", settings.scheduler.placement, PLACEMENT, DEFAULT_PLACEMENT)
    plugins.choice("scaler", settings.scheduler.scaler, SCALER, DEFAULT_SCALER)
    plugins.offer("store", settings.store.use, "[store] use")
    plugins.offer("runtime", settings.node.runtime, "[node] runtime")
    for name in settings.node.devices:
        plugins.offer("devices", name, "[node] devices")
    for model in settings.models:
        plugins.offer("engine", model.engine, f'the model "{model.model_uid}"')
        if model.strategy is not None:
            plugins.offer("strategy", model.strategy, f'the model "{model.model_uid}"')
        if model.scaler is not None:
            plugins.offer("scaler", model.scaler, f'the model "{model.model_uid}"')
    return plugins


@asynccontextmanager
async def open_app(settings: Settings, plugins: Plugins, prefixes: Sequence[str]) -> AsyncIterator[App]:
    """Open the store and follow what lies under `prefixes`. The mirror may not be filled yet: see `startup.wait_for_store`."""
    settings = named(settings)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))  # a proxy of the environment is not for engines
        build = plugins.builder(settings.plugin_tables, settings.data_dir, metrics, http)
        engines = {name: build("engine", name, "nebula") for name in plugins.names("engine")}
        store = await stack.enter_async_context(build("store", settings.store.use, "[store] use"))
        mirror = Mirror(store, prefixes, logging.getLogger("nebula.store"))
        await stack.enter_async_context(background(mirror.run()))
        yield App(settings, plugins, metrics, http, store, mirror, build, engines)
