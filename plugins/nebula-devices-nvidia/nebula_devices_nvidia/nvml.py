"""Reading GPUs through NVML, the driver's library. What a GPU does not tell is unknown, and costs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pynvml

from nebula_core import GpuProcess, GpuStatus
from nebula_devices_nvidia.visible import Gpu, Unreadable, mig_index

T = TypeVar("T")
Handle = Any
_BROKEN = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)
"""A GPU that needs a reset or a new start of the machine: nothing can be placed on it."""


class Nvml:
    """The library, opened. Raises `Unreadable` where it is missing or finds no driver."""

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise Unreadable(f"NVML: {error}") from error

    def close(self) -> None:
        """Let go of the driver."""
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()

    def read(self) -> tuple[list[Gpu], list[str]]:
        """All GPUs, in MIG mode their MIG devices instead; and complaints about those that are broken. Raises `Unreadable`."""
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            raise Unreadable(f"NVML: {error}") from error
        found: list[Gpu] = []
        complaints = []
        for index in range(count):
            try:
                found += list(_card(index))
            except pynvml.NVMLError as error:
                complaints.append(f"GPU {index} is left out: {error}")
        return found, complaints


def _card(index: int) -> Iterator[Gpu]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid = _text(_told(pynvml.nvmlDeviceGetUUID, handle))
    mode = _told(pynvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        yield Gpu(_status(handle, index, uuid), index, uuid)
        return
    temperature = _told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    for number in range(_told(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _told(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is not None:
            part_uuid = _text(_told(pynvml.nvmlDeviceGetUUID, part))
            yield Gpu(_status(part, mig_index(index, number), part_uuid, temperature), index, uuid)


def _status(handle: Handle, index: int, uuid: str, temperature: float | None = None) -> GpuStatus:
    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    use = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _told(pynvml.nvmlDeviceGetPowerUsage, handle)
    if temperature is None:
        temperature = _told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    return GpuStatus(
        index=index,
        uuid=uuid,
        name=_text(_told(pynvml.nvmlDeviceGetName, handle)),
        memory_total_bytes=memory.total if memory else None,
        memory_used_bytes=memory.used if memory else None,
        temperature_celsius=temperature,
        utilization=use.gpu / 100 if use else None,
        power_watts=power / 1000 if power is not None else None,
        ecc_errors=_told(pynvml.nvmlDeviceGetTotalEccErrors, handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC),
        processes=_processes(_told(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)),
    )


def _processes(running: list[Any] | None) -> tuple[GpuProcess, ...] | None:
    if running is None:
        return None
    return tuple(GpuProcess(pid=each.pid, memory_bytes=each.usedGpuMemory) for each in sorted(running, key=lambda each: each.pid))


def _told(call: Callable[..., T], *arguments: Any) -> T | None:
    """What one call tells, or `None`: by model, driver and rights, GPUs leave out different things. Raises only if the GPU is broken."""
    try:
        return call(*arguments)
    except _BROKEN:
        raise
    except pynvml.NVMLError:
        return None


def _text(text: str | bytes | None) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text or ""
