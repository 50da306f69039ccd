"""The interfaces that plugins implement: a small abstract class per kind, with a default for whatever may have one.

A method added later gets a default too, so that it breaks nobody. Each interface has a contract class in `nebula_core.testing`
that every implementation's tests inherit.
"""

from nebula_core.interfaces.devices import Devices
from nebula_core.interfaces.engines import Attach, Engine, EngineAddress, Exit, Handle, Launch, Runtime
from nebula_core.interfaces.exporters import Exporter
from nebula_core.interfaces.placement import FreeGpu, Needs, Place, Placement, Spot
from nebula_core.interfaces.routing import Cause, Considered, Explanation, FailedAttempt, Retry, Strategy
from nebula_core.interfaces.scaling import Proposal, ReplicaSignals, ScalingPolicy, ScalingSignals
from nebula_core.interfaces.signals import Fetch, Health, Probe, Scraper
from nebula_core.interfaces.store import (
    MAX_OPERATIONS,
    Batch,
    Delete,
    Entry,
    Event,
    Listing,
    Put,
    Store,
    Unchanged,
    Write,
    check_transaction,
)

__all__ = [
    "MAX_OPERATIONS",
    "Attach",
    "Batch",
    "Cause",
    "Considered",
    "Delete",
    "Devices",
    "Engine",
    "EngineAddress",
    "Entry",
    "Event",
    "Exit",
    "Explanation",
    "Exporter",
    "FailedAttempt",
    "Fetch",
    "FreeGpu",
    "Handle",
    "Health",
    "Launch",
    "Listing",
    "Needs",
    "Place",
    "Placement",
    "Probe",
    "Proposal",
    "Put",
    "ReplicaSignals",
    "Retry",
    "Runtime",
    "ScalingPolicy",
    "ScalingSignals",
    "Scraper",
    "Spot",
    "Store",
    "Strategy",
    "Unchanged",
    "Write",
    "check_transaction",
]
