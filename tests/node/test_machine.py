import os

from hypothesis import given
from hypothesis import strategies as st

from nebula_core.node.machine import UTILIZATION, Machine, parse_meminfo, steadied
from nebula_core.types import MachineStatus

GIB = 1024**3


def test_this_machine_is_read():
    read = Machine().read()
    assert 0 < read.cpus <= os.cpu_count()
    assert 0 < read.memory_available_bytes <= read.memory_total_bytes
    assert read.cpu_utilization is None or 0 <= read.cpu_utilization <= 1


def test_memory_is_in_bytes_and_what_is_no_memory_is_left_out():
    assert parse_meminfo("MemTotal:  2048 kB\nHugePages_Total:  3\nMemAvailable: 1 kB\n\n") == {
        "MemTotal": 2 * 1024**2,
        "MemAvailable": 1024,
    }


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 64 * GIB)), min_size=1))
def test_what_was_told_is_never_far_from_what_is(readings):
    told = MachineStatus()
    for use, available in readings:
        told = steadied(told, MachineStatus(cpus=2, cpu_utilization=use, memory_total_bytes=64 * GIB, memory_available_bytes=available))
        assert abs(told.cpu_utilization - use) <= UTILIZATION
        assert abs(told.memory_available_bytes - available) <= 0.02 * 64 * GIB


def test_jitter_is_not_told():
    told = MachineStatus(cpus=2, cpu_utilization=0.5, memory_total_bytes=64 * GIB, memory_available_bytes=GIB)
    near = MachineStatus(cpus=2, cpu_utilization=0.55, memory_total_bytes=64 * GIB, memory_available_bytes=GIB + 5)
    assert steadied(told, near) is told
