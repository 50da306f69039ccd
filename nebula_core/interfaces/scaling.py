"""`ScalingPolicy`: how many replicas load asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from nebula_core.types import EndpointStats


class ReplicaSignals(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that is to run, as the scheduler sees it; those that end are not among them."""

    replica_id: str
    ready: bool = False
    """Whether it serves, on a node that is up."""
    starting_s: float | None = None
    """For how long it has been starting; `None`: it is not, or has been for so long that it is not to be counted on."""
    stats: EndpointStats | None = None
    """What its engine says; `None`: not known."""


class ScalingSignals(msgspec.Struct, frozen=True, kw_only=True):
    """What a scaling policy goes by. What is not known is `None`, never 0; numbers that cannot be are not known either."""

    model_uid: str
    wanted: int
    """How many replicas there are to be now."""
    replicas: tuple[ReplicaSignals, ...] = ()
    in_flight: float | None = None
    """Requests of this model in flight or waiting, at all gateways."""
    waiting: float | None = None
    """Those of them that are held because no replica can take them."""
    arrivals_per_s: float | None = None
    """Requests that come, over the last half minute or so, at all gateways."""
    first_token_s: float | None = None
    """Time to the first token that 99 of 100 requests stayed below lately, at the gateway where it was longest."""
    first_token_target_s: float | None = None
    """What the model request says that time shall be; `None`: nothing."""
    boot_s: float | None = None
    """Time that a replica takes until it is ready, as learned."""
    since_change_s: float | None = None
    """Time since `wanted` last changed; `None`: it never did."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas a policy would have."""

    replicas: int | None
    """`None`: it cannot tell, so that nothing changes."""
    reason: str
    """Why, in words for an operator, with the figures."""
    inputs: dict[str, float | None] = {}
    """The figures that it went by, by name."""
    memory: dict[str, Any] = {}
    """What it wants to be handed with the next signals: plain JSON, a few kilobytes at most."""


class ScalingPolicy(ABC):
    """Says how many replicas a model's load asks for. Pure: all that it remembers is in `memory`, which outlives the process.

    The core keeps its proposals within `min_replicas` and `max_replicas`, bounded steps and cooldowns. It is asked every few seconds.
    """

    @abstractmethod
    def propose(self, signals: ScalingSignals, memory: Mapping[str, Any], now: float) -> Proposal:
        """`memory` is that of its last proposal for this model, as JSON gave it back; empty at first.

        `now` is in seconds of a clock that never goes back and outlives changes of leader. Where a signal is unknown it must propose no
        fewer than `signals.wanted`; replicas that are starting count as what they will be.
        """
