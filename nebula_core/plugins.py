"""Loading plugins from entry points and choosing providers by name.

Every plugin is a module named by an entry point of the group `nebula`; the entry point's name is also the plugin's settings table.
The manager is a value that its holder passes on, never a module global.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy
from pydantic import ValidationError

from nebula_core import hookspecs
from nebula_core.errors import PluginError, SettingsError
from nebula_core.masks import shown
from nebula_core.metrics import Metrics
from nebula_core.provider import API_VERSION, Context, PluginSettings, Provider

if TYPE_CHECKING:
    import httpx

GROUP = "nebula"
KINDS: Mapping[str, str] = {
    "strategy": "nebula_register_strategies",
    "retry": "nebula_register_retries",
    "engine": "nebula_register_engines",
    "runtime": "nebula_register_runtimes",
    "probe": "nebula_register_probes",
    "scraper": "nebula_register_scrapers",
    "devices": "nebula_register_devices",
    "exporter": "nebula_register_exporters",
    "placement": "nebula_register_placements",
    "scaler": "nebula_register_scalers",
    "store": "nebula_register_stores",
}
"""Kind of provider → the hook that registers it."""


@dataclass(frozen=True)
class Offer:
    """A provider and the plugin it comes from."""

    kind: str
    provider: Provider[Any]
    plugin: str


@dataclass(frozen=True)
class PluginInfo:
    """A plugin as `nebula plugins` shows it."""

    name: str
    distribution: str
    version: str
    enabled: bool
    note: str
    provides: tuple[str, ...]
    """`kind:name` of each provider, and the names of other hooks it implements."""


Build = Callable[[str, str, str], Any]
"""Builds a provider by kind and name; the third argument says who asks for it, for the error."""


class Plugins:
    """The loaded plugins and what they offer."""

    def __init__(self, manager: pluggy.PluginManager, offers: Mapping[tuple[str, str], Offer], infos: tuple[PluginInfo, ...]) -> None:
        self.hook = manager.hook
        self.infos = infos
        self._offers = offers

    def names(self, kind: str) -> list[str]:
        """The names of all providers of a kind."""
        return sorted(name for offered, name in self._offers if offered == kind)

    def offer(self, kind: str, name: str, asked_by: str) -> Offer:
        """The provider of that name; else a `PluginError` that says who asked (a settings key) and what is installed."""
        found = self._offers.get((kind, name))
        if found is None:
            installed = ", ".join(self.names(kind)) or "none"
            raise PluginError(
                f'{asked_by} asks for the {kind} "{name}", which is not installed (installed: {installed}). '
                f"Install the package that provides it, for example `pip install nebula-{kind}-{name.replace('_', '-')}`."
            )
        return found

    def choice(self, kind: str, name: str, asked_by: str, preferred: str = "") -> str | None:
        """The provider that a setting means: the one it names, else `preferred`, else the only one installed; `None` if there is none.

        Raises `PluginError` if the named one is not installed, or if none is named and there are several without the preferred one.
        """
        if name:
            return self.offer(kind, name, asked_by).provider.name
        names = self.names(kind)
        if preferred in names:
            return preferred
        if len(names) > 1:
            raise PluginError(f"{asked_by} is empty and several are installed ({', '.join(names)}): name the one to use")
        return names[0] if names else None

    def build(self, kind: str, name: str, asked_by: str, tables: Mapping[str, Mapping[str, Any]], context: Callable[[str], Context]) -> Any:
        """Build the provider of that name with its plugin's settings table; `context` makes a context for a plugin's name."""
        offer = self.offer(kind, name, asked_by)
        settings = parse_table(offer, tables.get(offer.plugin, {}))
        try:
            return offer.provider.build(context(offer.plugin), settings)
        except Exception as error:
            raise PluginError(
                f'the plugin "{offer.plugin}" failed to build its {kind} "{name}": {error}; {way_out(offer.plugin)}'
            ) from error

    def builder(self, tables: Mapping[str, Mapping[str, Any]], data_dir: Path, metrics: Metrics, http: httpx.AsyncClient | None) -> Build:
        """A function that builds providers with these settings tables; each plugin gets a folder of its own under `data_dir`."""

        def context(plugin: str) -> Context:
            return Context(logger=logging.getLogger(f"nebula.plugin.{plugin}"), metrics=metrics, data_dir=data_dir / plugin, http=http)

        return lambda kind, name, asked_by: self.build(kind, name, asked_by, tables, context)

    def check_tables(self, tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Validate every plugin's settings table; return the names of tables that no installed plugin owns."""
        for offer in self._offers.values():
            parse_table(offer, tables.get(offer.plugin, {}))
        known = {info.name for info in self.infos}
        return sorted(set(tables) - known)


def load(disabled: Iterable[str] = (), found: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load all plugins but the disabled ones, by name, and collect what they offer. Raises `PluginError`."""
    blocked = set(disabled)
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    points = sorted(entry_points(group=GROUP) if found is None else found, key=lambda point: point.name)
    if unknown := blocked - {point.name for point in points}:
        installed = _quoted(point.name for point in points)
        raise PluginError(f"[plugins] disabled names {_quoted(unknown)}, which is not installed (installed: {installed})")
    offers: dict[tuple[str, str], Offer] = {}
    infos = []
    for point in points:
        distribution, version = (point.dist.name, point.dist.version) if point.dist else ("", "")
        if point.name in blocked:
            infos.append(PluginInfo(point.name, distribution, version, False, "disabled in [plugins]", ()))
            continue
        module = _register(manager, point)
        for offer in _offers_of(point.name, module):
            clash = offers.setdefault((offer.kind, offer.provider.name), offer)
            if clash is not offer:
                raise PluginError(
                    f'the {offer.kind} "{offer.provider.name}" is provided by two plugins, "{clash.plugin}" and "{offer.plugin}"; '
                    + way_out(offer.plugin)
                )
        infos.append(PluginInfo(point.name, distribution, version, True, "", _provides(point.name, module, offers)))
    _check_pending(manager)
    return Plugins(manager, offers, tuple(infos))


def parse_table(offer: Offer, table: Mapping[str, Any]) -> PluginSettings:
    """A plugin's settings table as its provider's settings type. Raises `SettingsError` naming table, key and neighbours."""
    try:
        return offer.provider.settings_type.model_validate(dict(table))
    except ValidationError as error:
        raise SettingsError(explain(error, f"[{offer.plugin}]", offer.provider.settings_type.model_fields)) from error


def explain(error: ValidationError, where: str, known: Iterable[str]) -> str:
    """What is wrong in a settings table, one line per fault, with the keys that exist where one is misspelt."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f'{where} has no key "{key}" (its keys: {", ".join(sorted(known)) or "none"})')
        elif fault["type"] == "missing":
            lines.append(f'{where} lacks the key "{key}"')
        else:
            lines.append(f"{where} {key}: {fault['msg']}, got {shown(fault['input'], fault['loc'])}" if key else f"{where}: {fault['msg']}")
    return "\n".join(lines)


def _register(manager: pluggy.PluginManager, point: EntryPoint) -> ModuleType:
    try:
        module = point.load()
    except Exception as error:
        raise PluginError(f'the plugin "{point.name}" failed to load: {type(error).__name__}: {error}; {way_out(point.name)}') from error
    if not isinstance(module, ModuleType):
        raise PluginError(f'the entry point "{point.name}" must name a module, not {point.value}; {way_out(point.name)}')
    for name, _ in inspect.getmembers(module, inspect.iscoroutinefunction):
        if name.startswith("nebula_"):
            raise PluginError(f'the plugin "{point.name}" implements {name} as a coroutine: hooks are plain `def`; {way_out(point.name)}')
    try:
        manager.register(module, name=point.name)
    except (ValueError, pluggy.PluginValidationError) as error:
        raise PluginError(f'the plugin "{point.name}" cannot be registered: {error}; {way_out(point.name)}') from error
    return module


def _offers_of(plugin: str, module: ModuleType) -> list[Offer]:
    offers = []
    for kind, hook in KINDS.items():
        register = getattr(module, hook, None)
        if register is None or not hasattr(register, "nebula_impl"):
            continue
        try:
            providers = register()
        except Exception as error:
            raise PluginError(f'the plugin "{plugin}" failed in {hook}: {error}; {way_out(plugin)}') from error
        for provider in providers:
            if provider.api_version != API_VERSION:
                raise PluginError(
                    f'the {kind} "{provider.name}" of the plugin "{plugin}" is made for plugin interface {provider.api_version}, '
                    f"this Nebula has {API_VERSION}; install a version of it that fits, or {way_out(plugin)}"
                )
            offers.append(Offer(kind, provider, plugin))
    return offers


def _provides(plugin: str, module: ModuleType, offers: Mapping[tuple[str, str], Offer]) -> tuple[str, ...]:
    named = [f"{kind}:{name}" for (kind, name), offer in offers.items() if offer.plugin == plugin]
    others = [name for name, member in vars(module).items() if hasattr(member, "nebula_impl") and name not in KINDS.values()]
    return tuple(sorted(named) + sorted(others))


def _check_pending(manager: pluggy.PluginManager) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{error}; {way_out(manager.get_name(error.plugin) or '?')}") from error


def way_out(plugin: str) -> str:
    """What to do about a plugin that is at fault."""
    return f'uninstall it or disable it with `[plugins] disabled = ["{plugin}"]`'


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names)) or "none"
