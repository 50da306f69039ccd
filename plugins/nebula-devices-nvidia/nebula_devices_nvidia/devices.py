"""NVIDIA's GPUs as the node sees them: through NVML if it can be loaded, else through `nvidia-smi`, else none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from nebula_core import Devices, GpuStatus
from nebula_devices_nvidia import smi
from nebula_devices_nvidia.nvml import Nvml
from nebula_devices_nvidia.visible import MIG_INDEX, Gpu, Unreadable, visible

SMI_EVERY_S = 15.0
"""`nvidia-smi` costs tenths of a second each time."""
LOOK_AGAIN_S = 60.0
"""On a machine without GPUs; a driver may be loaded later."""


class NvidiaDevices(Devices):
    """`named` is the daemon's `CUDA_VISIBLE_DEVICES`. Says once what it reads, and again when that changes."""

    def __init__(self, named: str | None, clock: Callable[[], float], logger: logging.Logger) -> None:
        self._named, self._clock, self._logger = named, clock, logger
        self._nvml: Nvml | None = None
        self._last: list[Gpu] = []
        self._due = float("-inf")
        """Until then the last reading stands."""
        self._said: set[str] = set()

    def read(self) -> tuple[GpuStatus, ...]:
        """The node's GPUs."""
        if self._clock() >= self._due:
            self._last = self._read()
        return visible(self._last, self._named)

    def environment(self, gpus: Sequence[GpuStatus]) -> Mapping[str, str]:
        """Whole GPUs by index, for engines take no UUID of one; MIG devices by UUID, for they have no other name."""
        if gpus:
            names = (gpu.uuid if gpu.index >= MIG_INDEX else str(gpu.index) for gpu in gpus)
            return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(names)}
        return {} if self._named is None else {"CUDA_VISIBLE_DEVICES": self._named}

    def _read(self) -> list[Gpu]:
        try:
            return self._through_nvml()
        except Unreadable as error:
            why = str(error)
        try:
            found = smi.read()
        except Unreadable as error:
            self._due = self._clock() + LOOK_AGAIN_S
            self._say({f"there are no NVIDIA GPUs to be used here ({why}; {error})"})
            return []
        self._due = self._clock() + SMI_EVERY_S
        self._say({f"{len(found)} NVIDIA GPUs, read through nvidia-smi ({why})"})
        return found

    def _through_nvml(self) -> list[Gpu]:
        self._nvml = self._nvml or Nvml()
        try:
            found, complaints = self._nvml.read()
        except Unreadable:
            self._nvml.close()  # a driver that was loaded anew needs the library to be opened anew
            self._nvml = None
            raise
        self._say({f"{len(found)} NVIDIA GPUs, read through NVML", *complaints})
        return found

    def _say(self, lines: set[str]) -> None:
        for line in sorted(lines - self._said):
            self._logger.log(logging.WARNING if "left out" in line else logging.INFO, "%s", line)
        self._said = lines
