"""Routes each request to the replica that will send its first token soonest, knowing which replica holds which prompt."""

from __future__ import annotations

from nebula_core import Provider, Strategy, hookimpl
from nebula_strategy_prefix.settings import PrefixSettings
from nebula_strategy_prefix.strategy import Prefix

__all__ = ["Prefix", "PrefixSettings", "nebula_register_strategies"]


@hookimpl
def nebula_register_strategies() -> list[Provider[Strategy]]:
    """Offer `prefix`."""
    return [Provider(name="prefix", build=Prefix, settings_type=PrefixSettings)]
