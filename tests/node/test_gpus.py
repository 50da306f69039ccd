import asyncio
import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.interfaces import Devices
from nebula_core.node.gpus import MEMORY_SHARE, TEMPERATURE_CELSIUS, UTILIZATION, GpuReader, steadied
from nebula_core.types import GpuProcess, GpuStatus

logger = logging.getLogger("test")
GIB = 1024**3


class Lab(Devices):
    """GPUs that a test sets; can be held up or broken."""

    def __init__(self, *gpus: GpuStatus, variable: str = "LAB") -> None:
        self.gpus, self.variable = gpus, variable
        self.go_on = threading.Event()
        self.go_on.set()
        self.reads = 0

    def read(self):
        self.reads += 1
        self.go_on.wait(20)
        if not self.gpus:
            raise RuntimeError("no driver")
        return self.gpus

    def environment(self, gpus):
        return {self.variable: ",".join(str(gpu.index) for gpu in gpus)}


def gpu(index: int = 0, **told) -> GpuStatus:
    return GpuStatus(index=index, uuid=f"GPU-{index}", memory_total_bytes=80 * GIB, **told)


async def test_gpus_of_all_readers_are_seen_by_index():
    reader = GpuReader({"a": Lab(gpu(3), gpu(1)), "b": Lab(gpu(2))}, 5, logger)
    assert [each.index for each in await reader.read()] == [1, 2, 3]


async def test_an_engine_is_given_the_environment_of_whose_gpus_it_has():
    reader = GpuReader({"a": Lab(gpu(0), gpu(1), variable="A"), "b": Lab(gpu(2), variable="B")}, 5, logger)
    await reader.read()
    assert reader.environment((0, 1)) == {"A": "0,1"}
    assert reader.environment((2,)) == {"B": "2"}
    assert reader.environment(()) == {"A": "", "B": ""}


async def test_a_gpu_that_two_readers_see_is_counted_once_and_said_once(caplog):
    reader = GpuReader({"a": Lab(gpu(0)), "b": Lab(gpu(0), gpu(1))}, 5, logger)
    for _ in range(3):
        assert [each.index for each in await reader.read()] == [0, 1]
    assert [record.message for record in caplog.records] == ["GPU 0 is read by a and by b; the latter's is left out"]


async def test_a_driver_that_hangs_holds_up_nothing_and_is_not_asked_twice(caplog):
    lab = Lab(gpu(0))
    reader = GpuReader({"lab": lab}, 0.05, logger)
    lab.go_on.clear()
    assert await reader.read() == await reader.read() == ()
    assert lab.reads == 1
    lab.go_on.set()
    async with asyncio.timeout(10):
        while not await reader.read():  # noqa: ASYNC110 - it is the reader that is waited for
            await asyncio.sleep(0.01)
    assert [record.message for record in caplog.records] == ["the GPUs cannot be read by lab: no answer within 0.05 s"]


async def test_a_reader_that_fails_keeps_its_last_reading(caplog):
    lab = Lab(gpu(0))
    reader = GpuReader({"lab": lab, "other": Lab(gpu(1))}, 5, logger)
    await reader.read()
    lab.gpus = ()
    for _ in range(2):
        assert [each.index for each in await reader.read()] == [0, 1]
    assert [record.message for record in caplog.records] == ["the GPUs cannot be read by lab: RuntimeError: no driver"]


@pytest.mark.parametrize(
    "change",
    [
        {"temperature_celsius": 40 + TEMPERATURE_CELSIUS + 1},
        {"utilization": 0.5 + 2 * UTILIZATION},
        {"memory_used_bytes": 42 * GIB},
        {"memory_used_bytes": None},
        {"ecc_errors": 1},
        {"processes": (GpuProcess(pid=2, memory_bytes=1),)},
        {"uuid": "GPU-other"},
    ],
)
def test_what_matters_is_told_anew(change):
    before = gpu(temperature_celsius=40.0, utilization=0.5, memory_used_bytes=40 * GIB, processes=(GpuProcess(pid=1, memory_bytes=1),))
    after = GpuStatus(**{name: getattr(before, name) for name in before.__struct_fields__} | change)
    assert steadied([before], [after]) == (after,)


def test_jitter_is_not_told_anew():
    before = gpu(temperature_celsius=40.0, utilization=0.5, memory_used_bytes=GIB, processes=(GpuProcess(pid=1, memory_bytes=1),))
    after = gpu(temperature_celsius=42.0, utilization=0.55, memory_used_bytes=GIB + 5, processes=(GpuProcess(pid=1, memory_bytes=9),))
    assert steadied([before], [after]) == (before,)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1), st.integers(0, 80 * GIB)), min_size=1))
def test_what_was_told_is_never_far_from_what_is(readings):
    told = ()
    for temperature, utilization, used in readings:
        now = gpu(temperature_celsius=temperature, utilization=utilization, memory_used_bytes=used)
        told = steadied(told, [now])
        assert abs(told[0].temperature_celsius - temperature) <= TEMPERATURE_CELSIUS
        assert abs(told[0].utilization - utilization) <= UTILIZATION
        assert abs(told[0].memory_used_bytes - used) <= MEMORY_SHARE * 80 * GIB


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_gpus_that_come_and_go_are_told(before, after):
    assert {each.index for each in steadied([gpu(i) for i in before], [gpu(i) for i in after])} == after
