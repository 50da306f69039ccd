"""Scales a model to the fewest replicas that keep its time to the first token, and begins before the queue is long."""

from __future__ import annotations

from nebula_core import Context, Provider, ScalingPolicy, hookimpl
from nebula_scaler_slo.policy import Settings, SloPolicy


def build(context: Context, settings: Settings) -> SloPolicy:
    """One for all models: what it remembers of each is handed to it."""
    return SloPolicy(settings)


@hookimpl
def nebula_register_scalers() -> list[Provider[ScalingPolicy]]:
    """Offer `slo`."""
    return [Provider(name="slo", build=build, settings_type=Settings)]
