"""Nebula: a control plane for serving large language models on your own machines.

This is what a plugin author imports, and nothing else:

    from nebula_core import Pick, PluginSettings, Provider, Strategy, hookimpl
"""

from nebula_core.engine_args import EngineArgs
from nebula_core.errors import InvalidModelRequest, LaunchError, NebulaError, PluginError, ScrapeError, SettingsError, StoreError
from nebula_core.exposition import MetricSample, MetricsPage, MetricsReader, as_count, as_ratio
from nebula_core.hit_rate import HitRate
from nebula_core.hookspecs import hookimpl
from nebula_core.interfaces import (
    Attach,
    Engine,
    EngineAddress,
    Exit,
    Fetch,
    Handle,
    Health,
    Launch,
    Probe,
    Runtime,
    Scraper,
    Store,
    Strategy,
)
from nebula_core.provider import Context, PluginSettings, Provider
from nebula_core.router.candidate import Candidate, Pick, Route, RouteEvent, RouteRequest
from nebula_core.types import EndpointStats, ModelRequest, ReplicaSpec

__all__ = [
    "Attach",
    "Candidate",
    "Context",
    "EndpointStats",
    "Engine",
    "EngineAddress",
    "EngineArgs",
    "Exit",
    "Fetch",
    "Handle",
    "Health",
    "HitRate",
    "InvalidModelRequest",
    "Launch",
    "LaunchError",
    "MetricSample",
    "MetricsPage",
    "MetricsReader",
    "ModelRequest",
    "NebulaError",
    "Pick",
    "PluginError",
    "PluginSettings",
    "Probe",
    "Provider",
    "ReplicaSpec",
    "Route",
    "RouteEvent",
    "RouteRequest",
    "Runtime",
    "ScrapeError",
    "Scraper",
    "SettingsError",
    "Store",
    "StoreError",
    "Strategy",
    "as_count",
    "as_ratio",
    "hookimpl",
]
