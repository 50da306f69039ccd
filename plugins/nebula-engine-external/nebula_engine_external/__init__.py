"""Serves engines that already run somewhere else."""

from __future__ import annotations

from nebula_core import Engine, Provider, hookimpl
from nebula_engine_external.engine import ExternalEngine


@hookimpl
def nebula_register_engines() -> list[Provider[Engine]]:
    """The engine `external`."""
    return [Provider(name="external", build=lambda context, settings: ExternalEngine())]
