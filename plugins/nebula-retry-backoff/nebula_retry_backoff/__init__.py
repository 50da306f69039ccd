"""Tries again, on another replica, what failed before its answer began: at once where no engine answered, else after a short pause."""

from __future__ import annotations

import random

from nebula_core import Context, Provider, Retry, hookimpl
from nebula_retry_backoff.policy import Backoff, Settings


def build(context: Context, settings: Settings) -> Backoff:
    """With a jitter of its own, so that gateways which failed together do not try again together."""
    return Backoff(settings, context, random.Random().uniform)


@hookimpl
def nebula_register_retries() -> list[Provider[Retry]]:
    """Offer `backoff`."""
    return [Provider(name="backoff", build=build, settings_type=Settings)]
