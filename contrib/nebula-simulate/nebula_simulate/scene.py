"""What a baseline may look at beside what a strategy is handed: dice, and for an oracle the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from nebula_engine_sim import Job, SimEngine


@dataclass(frozen=True)
class Scene:
    """One simulation, seen from outside."""

    clock: Callable[[], float]
    """Virtual seconds."""
    rng: Random
    engines: Mapping[str, SimEngine]
    """By `replica_id`."""
    jobs: Mapping[str, Job]
    """What engines will be handed, by `request_id`; those being routed are among them."""
