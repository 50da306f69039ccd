"""The node's GPUs: read in threads at each heartbeat, told to the store only when they have changed so that it matters."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from nebula_core.interfaces import Devices
from nebula_core.node.steady import near
from nebula_core.types import GpuStatus

T = TypeVar("T")

MEMORY_SHARE = 0.01
"""Part of a GPU's memory by which its use must have changed to be told again; so with the other three."""
TEMPERATURE_CELSIUS = 5.0
UTILIZATION = 0.1
POWER_WATTS = 25.0


class GpuReader:
    """Reads what `devices` see, by name. One that hangs or fails keeps its last reading, which is logged once."""

    def __init__(self, devices: Mapping[str, Devices], timeout_s: float, logger: logging.Logger) -> None:
        self._timeout_s, self._logger = timeout_s, logger
        self._sources = [_Source(name, each, logger) for name, each in devices.items()]
        self._shadowed: set[int] = set()

    async def read(self) -> tuple[GpuStatus, ...]:
        """All GPUs, by index; takes no longer than the timeout."""
        async with asyncio.TaskGroup() as readings:
            for source in self._sources:
                readings.create_task(source.read(self._timeout_s))
        return tuple(gpu for _, gpu in sorted(self._owned().values(), key=lambda owned: owned[1].index))

    def environment(self, gpu_indexes: Sequence[int]) -> dict[str, str]:
        """What an engine needs in its environment to see these GPUs and no others; with none, what the node may use at all."""
        owned = self._owned()
        found: dict[str, str] = {}
        for source in self._sources:
            gpus = [gpu for owner, gpu in owned.values() if owner is source and gpu.index in gpu_indexes]
            if gpus or not gpu_indexes:
                found |= source.devices.environment(gpus)
        return found

    def _owned(self) -> dict[int, tuple[_Source, GpuStatus]]:
        """Each GPU with who reads it, by index; two of one index cannot both be given away."""
        owned: dict[int, tuple[_Source, GpuStatus]] = {}
        for source in self._sources:
            for gpu in source.gpus:
                owner, _ = owned.setdefault(gpu.index, (source, gpu))
                if owner is not source and gpu.index not in self._shadowed:
                    self._shadowed.add(gpu.index)
                    self._logger.warning("GPU %d is read by %s and by %s; the latter's is left out", gpu.index, owner.name, source.name)
        return owned


class _Source:
    def __init__(self, name: str, devices: Devices, logger: logging.Logger) -> None:
        self.name, self.devices, self._logger = name, devices, logger
        self.gpus: tuple[GpuStatus, ...] = ()
        self._reading: asyncio.Future[tuple[GpuStatus, ...]] | None = None
        self._complaint = ""

    async def read(self, timeout_s: float) -> None:
        if self._reading is None:
            self._reading = in_daemon_thread(self.devices.read)
        await asyncio.wait({self._reading}, timeout=timeout_s)
        if not self._reading.done():
            self._complain(f"no answer within {timeout_s:g} s")
            return
        reading, self._reading = self._reading, None
        try:
            self.gpus = reading.result()
        except Exception as error:  # noqa: BLE001 - a fault in one plugin must not end the heartbeat; it is logged, once
            self._complain(f"{type(error).__name__}: {error}")
        else:
            self._complain("")

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            self._logger.warning("the GPUs cannot be read by %s: %s", self.name, complaint)
        elif self._complaint and not complaint:
            self._logger.info("the GPUs can be read by %s again", self.name)
        self._complaint = complaint


def in_daemon_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """As `asyncio.to_thread`, but nothing waits for the thread at the end: a driver that hangs must not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as caught:  # noqa: BLE001 - handed to whoever awaits it
            error = caught
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="gpus").start()
    return future


def steadied(told: Sequence[GpuStatus], read: Sequence[GpuStatus]) -> tuple[GpuStatus, ...]:
    """`read`, but with what was told before for every GPU that has hardly changed: a degree more is not worth a write every few seconds."""
    before = {gpu.index: gpu for gpu in told}
    return tuple(before[gpu.index] if gpu.index in before and _hardly_differ(before[gpu.index], gpu) else gpu for gpu in read)


def _hardly_differ(one: GpuStatus, other: GpuStatus) -> bool:
    return (
        _facts(one) == _facts(other)
        and near(one.memory_used_bytes, other.memory_used_bytes, MEMORY_SHARE * (one.memory_total_bytes or 0))
        and near(one.temperature_celsius, other.temperature_celsius, TEMPERATURE_CELSIUS)
        and near(one.utilization, other.utilization, UTILIZATION)
        and near(one.power_watts, other.power_watts, POWER_WATTS)
    )


def _facts(gpu: GpuStatus) -> tuple[object, ...]:
    pids = None if gpu.processes is None else [process.pid for process in gpu.processes]
    return gpu.uuid, gpu.name, gpu.memory_total_bytes, gpu.ecc_errors, pids
