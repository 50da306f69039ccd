"""Requests of a workload: when each comes and how long it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Request(NamedTuple):
    """One request; it has at least one token each way."""

    came: float
    """Seconds from the start of the workload."""
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Workload:
    """All requests, in the order in which they come."""

    name: str
    requests: Sequence[Request]
    steps_at: tuple[float, ...] = field(default=())
    """When the rate steps, for workloads that are made of steps."""

    @property
    def length_s(self) -> float:
        """Until the last request comes."""
        return self.requests[-1].came if self.requests else 0.0
