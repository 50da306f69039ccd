"""NVIDIA's own bindings on a fake of their library, `nvidia-smi` as a script, and the names of GPUs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_devices_nvidia import smi
from nebula_devices_nvidia.devices import LOOK_AGAIN_S, NvidiaDevices
from nebula_devices_nvidia.visible import Gpu, Unreadable, mig_index, visible

from nebula_core import Devices, GpuStatus
from nebula_core.testing.devices import DevicesContract

GIB = 1024**3
MEASURED = {"temperature_celsius", "utilization", "power_watts", "ecc_errors", "processes", "memory_total_bytes", "memory_used_bytes"}
logger = logging.getLogger("lab")
READ = """
import json, logging, sys, time
import msgspec
from nebula_devices_nvidia import nebula_register_devices
from nebula_core import Context, PluginSettings

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
[provider] = nebula_register_devices()
devices = provider.build(Context(logger=logging.getLogger("lab")), PluginSettings())
readings = [devices.read() for _ in range(3)]
print(json.dumps({
    "gpus": msgspec.to_builtins(readings[-1]),
    "steady": readings[0] == readings[-1],
    "environments": [devices.environment([gpu]) for gpu in readings[-1]],
    "without": devices.environment([]),
}))
"""
SMI = """#!/bin/sh
case "$1" in
-L) printf 'GPU 0: NVIDIA A (UUID: GPU-a)\\nGPU 1: NVIDIA B (UUID: GPU-b)\\n  MIG 1g.10gb     Device  2: (UUID: MIG-b2)\\n';;
*) printf '0, GPU-a, NVIDIA A, 81920, 1024, 41, 50, 123.45, 0, [N/A]\\n1, GPU-b, NVIDIA B, 81920, 1, 42, [N/A], 99.0, 0, Enabled\\n';;
esac
"""


@pytest.fixture
def read(nvml_folder: Path, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """What a process sees whose environment is this: libraries cannot be changed in one that has loaded them."""

    def run(library: bool = True, script: str = "", **variables: str) -> Any:
        environ = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        (tmp_path / "libnvidia-ml.so.1").touch()  # hides a real one
        environ |= {"PATH": str(tmp_path), "LD_LIBRARY_PATH": str(nvml_folder if library else tmp_path), **variables}
        if script:
            (tmp_path / "nvidia-smi").write_text(script)
            (tmp_path / "nvidia-smi").chmod(0o755)
            environ["PATH"] += ":/usr/bin:/bin"
        done = subprocess.run([sys.executable, "-c", READ], env=environ, capture_output=True, text=True, check=True)
        return SimpleNamespace(**json.loads(done.stdout), said=done.stderr.splitlines())

    return run


def indexes(seen: SimpleNamespace) -> list[int]:
    return [gpu["index"] for gpu in seen.gpus]


# --- through NVML


def test_everything_that_a_card_tells_is_read(read):
    seen = read(FAKE_NVML_ECC_ERRORS="3")
    assert seen.gpus[1] == {
        "index": 1,
        "uuid": "GPU-0001-fake",
        "name": "NVIDIA Fake 80GB",
        "memory_total_bytes": 80 * GIB,
        "memory_used_bytes": GIB,
        "temperature_celsius": 41,
        "utilization": 0.5,
        "power_watts": 123.456,
        "ecc_errors": 3,
        "processes": [{"pid": 1001, "memory_bytes": None}],
    }
    assert seen.gpus[0]["processes"] == [{"pid": 1000, "memory_bytes": GIB}]
    assert seen.steady
    assert seen.said == ["INFO 2 NVIDIA GPUs, read through NVML"]


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        ("Temperature", {"temperature_celsius"}),
        ("Utilization", {"utilization"}),
        ("Power", {"power_watts"}),
        ("Ecc", {"ecc_errors"}),
        ("Processes", {"processes"}),
        ("MemoryInfo", {"memory_total_bytes", "memory_used_bytes"}),
        ("MigMode", set()),
        ("nvmlDevice", MEASURED),
    ],
)
def test_what_a_card_does_not_tell_is_unknown_and_costs_nothing_else(read, call, missing):
    seen = read(FAKE_NVML_SILENT=call)
    assert indexes(seen) == [0, 1]
    assert {name for name, value in seen.gpus[0].items() if value is None} == missing


def test_a_card_that_is_lost_is_left_out_and_said_once(read):
    seen = read(FAKE_NVML_LOST="1")
    assert indexes(seen) == [0]
    assert [line for line in seen.said if "left out" in line] == ["WARNING GPU 1 is left out: GPU is lost"]


def test_the_mig_devices_of_a_card_stand_in_its_place(read):
    seen = read(FAKE_NVML_MIG="1")
    assert indexes(seen) == [0, 1010, 1012]
    part = seen.gpus[2]
    assert (part["uuid"], part["memory_total_bytes"], part["temperature_celsius"]) == ("MIG-0001-2-fake", 10 * GIB, 41)
    assert (part["utilization"], part["power_watts"]) == (None, None)


def test_engines_see_whole_cards_by_index_and_mig_devices_by_uuid(read):
    seen = read(FAKE_NVML_MIG="1")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in seen.environments] == ["0", "MIG-0001-0-fake", "MIG-0001-2-fake"]
    assert {each["CUDA_DEVICE_ORDER"] for each in seen.environments} == {"PCI_BUS_ID"}
    assert seen.without == {}


@pytest.mark.parametrize(
    ("named", "expected"),
    [("1,0", [0, 1010, 1012]), ("1", [1010, 1012]), ("GPU-0000", [0]), ("MIG-0001-2-fake", [1012]), ("", []), ("-1", []), ("0,7,1", [0])],
)
def test_only_what_cuda_visible_devices_names_is_the_nodes(read, named, expected):
    seen = read(FAKE_NVML_MIG="1", CUDA_VISIBLE_DEVICES=named)
    assert indexes(seen) == expected
    assert seen.without == {"CUDA_VISIBLE_DEVICES": named}


# --- without NVML


def test_a_machine_without_gpus_says_so_once(read):
    seen = read(library=False)
    assert seen.gpus == []
    assert seen.said == ["INFO there are no NVIDIA GPUs to be used here (NVML: NVML Shared Library Not Found; there is no nvidia-smi)"]


def test_a_driver_that_is_not_loaded_is_named(read):
    seen = read(FAKE_NVML_INIT="9")
    assert seen.gpus == []
    assert "Driver Not Loaded" in seen.said[0]
    assert len(seen.said) == 1


def test_without_the_library_nvidia_smi_is_asked(read):
    seen = read(library=False, script=SMI)
    assert indexes(seen) == [0, 1012]
    card, part = seen.gpus
    assert (card["memory_total_bytes"], card["utilization"], card["power_watts"]) == (80 * GIB, 0.5, 123.45)
    assert (part["uuid"], part["memory_total_bytes"]) == ("MIG-b2", None)
    assert seen.said[0].startswith("INFO 2 NVIDIA GPUs, read through nvidia-smi")


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found", "printf '\\377'", "kill -9 $$"])
def test_an_nvidia_smi_that_fails_is_no_gpu(read, script):
    seen = read(library=False, script=f"#!/bin/sh\n{script}\n")
    assert seen.gpus == []
    assert "nvidia-smi" in seen.said[0]


@given(st.lists(st.text(max_size=8), max_size=12))
def test_any_line_of_nvidia_smi_is_understood_or_refused(row):
    with suppress(Unreadable):
        assert len(smi.parse_row(row, {})) <= 1


def test_nothing_is_asked_anew_for_a_while_where_there_is_nothing(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    clock = SimpleNamespace(now=0.0)
    devices = NvidiaDevices(None, lambda: clock.now, logger)
    caplog.set_level("INFO")
    for clock.now in (0.0, LOOK_AGAIN_S - 1, LOOK_AGAIN_S, 10 * LOOK_AGAIN_S):
        assert devices.read() == ()
    assert len(caplog.records) == 1


# --- names


def card(index: int) -> Gpu:
    return Gpu(GpuStatus(index=index, uuid=f"GPU-{index}"), index, f"GPU-{index}")


@given(st.sets(st.integers(0, 15)), st.permutations(range(16)))
def test_every_card_that_is_there_can_be_named_in_any_order(there, order):
    named = [index for index in order if index in there]
    assert [gpu.index for gpu in visible([card(index) for index in sorted(there)], ",".join(map(str, named)))] == sorted(there)


@given(st.none() | st.text(alphabet="0123456789-,GPUMI ", max_size=20))
def test_whatever_is_named_only_gpus_that_are_there_are_seen(named):
    cards = [card(index) for index in range(4)]
    seen = visible(cards, named)
    assert {gpu.index for gpu in seen} <= {0, 1, 2, 3}
    assert [gpu.index for gpu in seen] == sorted({gpu.index for gpu in seen})


def test_no_mig_device_has_the_index_of_another_or_of_a_card():
    every = [mig_index(index, number) for index in range(16) for number in range(7)]
    assert len({*every, *range(16)}) == len(every) + 16


class TestContract(DevicesContract):
    """On a machine whose `nvidia-smi` is a script."""

    @pytest.fixture(autouse=True)
    def _smi(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "nvidia-smi").write_text(SMI)
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make_devices(self) -> Devices:
        return NvidiaDevices(None, lambda: 0.0, logger)
