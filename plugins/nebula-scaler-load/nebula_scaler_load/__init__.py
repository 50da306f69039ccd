"""Scales a model's replicas by how full its engines' KV caches are, and by how long nothing waited in their queues."""

from __future__ import annotations

from nebula_core import Context, Provider, ScalingPolicy, hookimpl
from nebula_scaler_load.policy import LoadPolicy, Settings


def build(context: Context, settings: Settings) -> LoadPolicy:
    """One for all models: what it remembers of each is handed to it."""
    return LoadPolicy(settings)


@hookimpl
def nebula_register_scalers() -> list[Provider[ScalingPolicy]]:
    """Offer `load`."""
    return [Provider(name="load", build=build, settings_type=Settings)]
