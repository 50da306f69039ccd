"""`Devices`: the GPUs of a machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from nebula_core.types import GpuStatus


class Devices(ABC):
    """Reads the GPUs of a machine."""

    @abstractmethod
    def read(self) -> tuple[GpuStatus, ...]:
        """Every GPU that engines may use, by index; empty where there is none. What one does not tell is `None`.

        Called in a thread at each heartbeat, never twice at once; it may block. It says itself, once, why there are none.
        """

    def environment(self, gpus: Sequence[GpuStatus]) -> Mapping[str, str]:
        """What an engine needs in its environment to see these GPUs and no others; with none, what this node may use at all."""
        return {}
