"""A whole Nebula on a machine with two GPUs, as a fake of NVIDIA's library shows them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from nebula_core.testing.made_up import install
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

ENGINE = """
from nebula_core import EngineArgs, Provider, ReplicaSpec, hookimpl
from nebula_core.testing.engines import FakeEngine


class OnGpus(FakeEngine):
    scraper = None

    def specs(self, request):
        spec = ReplicaSpec(model_uid=request.model_uid, engine=request.engine, gpus=request.gpus_per_replica)
        return (spec,) * request.replicas


@hookimpl
def nebula_register_engines():
    return [Provider(name="lab", build=lambda context, settings: OnGpus())]
"""
MODEL = '[[models]]\nmodel_uid = "m"\nengine = "lab"\nreplicas = 2\ngpus_per_replica = 1\n'


@pytest.fixture
def make_nebula(tmp_path: Path, nvml_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Nebula]]:
    folder = install(tmp_path / "plugins", ENGINE)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_folder))
    made: list[Nebula] = []

    def make(tables: str = MODEL, **variables: str) -> Nebula:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        made.append(Nebula(tmp_path / "nebula", tables, python_path=folder))
        return made[-1]

    yield make
    for nebula in made:
        nebula.close()


def gpus_of_engines(nebula: Nebula) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` says in each engine's environment."""
    ports = {replica["url"].rpartition(":")[2] for replica in nebula.model("m")["replicas"]}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_text().split("\0")
            if any("fake_engine.py" in word for word in words[:4]) and any(word == f"--port={port}" for word in words for port in ports):
                pairs = (path / "environ").read_bytes().decode().split("\0")
                found += [pair.partition("=")[2] for pair in pairs if pair.startswith("CUDA_VISIBLE_DEVICES=")]
    return sorted(found)


def test_replicas_are_placed_on_gpus_of_their_own(make_nebula):
    nebula = make_nebula().start()
    assert sorted(tuple(replica["gpu_indexes"]) for replica in nebula.model("m")["replicas"]) == [(0,), (1,)]
    assert gpus_of_engines(nebula) == ["0", "1"]
    nebula.cli("models", "scale", "m", "3")
    eventually(lambda: nebula.model("m")["reasons"], 20)
    assert "needs 1 GPU with 1.1 GiB free (as its last run took, with a margin); the best node" in nebula.model("m")["reasons"][0]


def test_gpus_are_in_the_status_and_in_the_metrics(make_nebula):
    nebula = make_nebula("").start()
    [node] = nebula.status()["nodes"]
    assert [(gpu["index"], gpu["name"], gpu["temperature_celsius"]) for gpu in node["gpus"]] == [
        (0, "NVIDIA Fake 80GB", 40),
        (1, "NVIDIA Fake 80GB", 41),
    ]
    page = httpx.get(f"http://127.0.0.1:{nebula.admin_port}/metrics", trust_env=False).text
    assert 'nebula_gpu_temperature{gpu_index="1"} 41.0' in page
    assert 'nebula_gpu_utilization{gpu_index="0"} 0.5' in page


def test_a_node_gives_away_only_what_cuda_visible_devices_names(make_nebula):
    nebula = make_nebula(MODEL.replace("replicas = 2", "replicas = 1"), CUDA_VISIBLE_DEVICES="1").start()
    assert [replica["gpu_indexes"] for replica in nebula.model("m")["replicas"]] == [[1]]
    assert gpus_of_engines(nebula) == ["1"]


def test_a_driver_that_hangs_keeps_nobody_from_serving_or_from_stopping(make_nebula, tmp_path):
    hang = tmp_path / "hang"
    hang.touch()
    nebula = make_nebula(MODEL.replace("gpus_per_replica = 1", ""), FAKE_NVML_HANG=str(hang)).start()
    assert nebula.chat("m").status_code == 200
    assert "the GPUs cannot be read by nvidia: no answer" in nebula.log.read_text()
    began = time.monotonic()
    assert nebula.stop() == 0
    assert time.monotonic() - began < 30
    assert os.path.lexists(hang)


def test_a_gpu_with_memory_errors_is_given_to_nobody(make_nebula):
    nebula = make_nebula(FAKE_NVML_ECC_ERRORS="1").start("--keep-going", wait=False)
    eventually(lambda: nebula.log.exists() and "memory errors left out" in nebula.log.read_text(), 60, nebula.log.read_text)
