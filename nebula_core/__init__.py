"""Nebula: a control plane for serving large language models on your own machines.

This is what a plugin author imports, and nothing else:

    from nebula_core import Pick, PluginSettings, Provider, Strategy, hookimpl
"""

from nebula_core.engine_args import EngineArgs
from nebula_core.errors import (
    Compacted,
    InvalidModelRequest,
    LaunchError,
    LeaseLost,
    NebulaError,
    PluginError,
    ScrapeError,
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from nebula_core.exposition import MetricSample, MetricsPage, MetricsReader, as_count, as_ratio
from nebula_core.hit_rate import HitRate
from nebula_core.hookspecs import hookimpl
from nebula_core.interfaces import (
    Attach,
    Batch,
    Delete,
    Devices,
    Engine,
    EngineAddress,
    Entry,
    Event,
    Exit,
    Exporter,
    Fetch,
    Handle,
    Health,
    Launch,
    Listing,
    Probe,
    Put,
    Runtime,
    Scraper,
    Store,
    Strategy,
    Unchanged,
    Write,
    check_transaction,
)
from nebula_core.metrics import Family, Sample, Snapshot
from nebula_core.provider import Context, PluginSettings, Provider
from nebula_core.router.candidate import Candidate, Pick, Route, RouteEvent, RouteRequest
from nebula_core.router.prefix import PrefixBlocks
from nebula_core.types import EndpointStats, GpuProcess, GpuStatus, ModelRequest, ReplicaSpec

__all__ = [
    "Attach",
    "Batch",
    "Candidate",
    "Compacted",
    "Context",
    "Delete",
    "Devices",
    "EndpointStats",
    "Engine",
    "EngineAddress",
    "EngineArgs",
    "Entry",
    "Event",
    "Exit",
    "Exporter",
    "Family",
    "Fetch",
    "GpuProcess",
    "GpuStatus",
    "Handle",
    "Health",
    "HitRate",
    "InvalidModelRequest",
    "Launch",
    "LaunchError",
    "LeaseLost",
    "Listing",
    "MetricSample",
    "MetricsPage",
    "MetricsReader",
    "ModelRequest",
    "NebulaError",
    "Pick",
    "PluginError",
    "PluginSettings",
    "PrefixBlocks",
    "Probe",
    "Provider",
    "Put",
    "ReplicaSpec",
    "Route",
    "RouteEvent",
    "RouteRequest",
    "Runtime",
    "Sample",
    "ScrapeError",
    "Scraper",
    "SettingsError",
    "Snapshot",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "Strategy",
    "Unchanged",
    "Write",
    "as_count",
    "as_ratio",
    "check_transaction",
    "hookimpl",
]
