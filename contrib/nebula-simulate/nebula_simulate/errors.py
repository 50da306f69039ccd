"""What this package refuses, told without a traceback."""

from __future__ import annotations

from nebula_core import NebulaError


class TraceError(NebulaError):
    """A trace that cannot be read: names the file, the line and what is wrong there."""


class SimulationError(NebulaError):
    """A simulation that cannot be run as it was asked for: names the option and what it may be."""
