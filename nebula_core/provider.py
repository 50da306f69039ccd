"""`Provider`: how a plugin offers one named implementation of an interface, and `Context`: what it is built with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from nebula_core.metrics import Metrics

if TYPE_CHECKING:
    import httpx

T_co = TypeVar("T_co", covariant=True)

API_VERSION = 1
"""Version of the plugin interface; a provider that asks for another one is refused at load."""


class PluginSettings(BaseModel):
    """Base of a plugin's settings table: frozen, and a key it does not know stops the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a provider may use. Fields are only ever added."""

    logger: logging.Logger
    metrics: Metrics = field(default_factory=Metrics)
    clock: Callable[[], float] = time.monotonic
    """Seconds that never go back; never the time of day."""
    data_dir: Path = Path()
    """A folder that outlives restarts, for this plugin alone; made when first used by it."""
    http: httpx.AsyncClient | None = None
    """The control plane's HTTP client; `None` in a gateway worker, where nothing is fetched."""


@dataclass(frozen=True, kw_only=True)
class Provider(Generic[T_co]):
    """One implementation, by the name that settings choose it with.

    `build(context, settings)` makes the object; nothing before it may have an effect. `settings` is an instance of
    `settings_type`, made from the settings table that bears the plugin's name.
    """

    name: str
    build: Callable[[Context, Any], T_co]
    settings_type: type[PluginSettings] = PluginSettings
    api_version: int = API_VERSION
