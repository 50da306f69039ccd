"""Every metric that dashboards are built on is on the page of a running Nebula, and moves with what it tells of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from nebula_core.testing.made_up import install
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

GPU = """
from itertools import count
from nebula_core import Devices, GpuStatus, Provider, hookimpl

class Warming(Devices):
    degrees = count(40)

    def read(self):
        degrees = float(next(self.degrees))
        return (GpuStatus(index=0, temperature_celsius=degrees, utilization=degrees / 100),)

@hookimpl
def nebula_register_devices():
    return [Provider(name="lab", build=lambda context, settings: Warming())]
"""
TABLES = """
[scraper_prometheus]
pending = { metric = "lab_pending" }
kv_cache_usage = { metric = "lab_kv" }
[[models]]
model_uid = "org/m"
engine = "external"
urls = ["URL"]
scraper = "prometheus"
"""
REPLICA = {"model_uid": "org/m", "replica_id": "0"}


class Engine(ThreadingHTTPServer):
    """An engine whose load and health a test sets."""

    pending, kv, is_well = 0, 0.0, True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        page = f"lab_pending {self.server.pending}\nlab_kv {self.server.kv}\n" if self.path == "/metrics" else ""
        self.answer(200 if self.server.is_well else 503, page.encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, b'{"usage": {"prompt_tokens": 3, "completion_tokens": 5}}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        serving = threading.Thread(target=engine.serve_forever, args=(0.05,))
        serving.start()
        yield engine
        engine.shutdown()
        serving.join()


@pytest.fixture
def nebula(tmp_path: Path, engine: Engine) -> Iterator[Nebula]:
    nebula = Nebula(tmp_path / "nebula", TABLES.replace("URL", engine.url), python_path=install(tmp_path / "plugins", GPU))
    yield nebula.start()
    nebula.close()


def value(nebula: Nebula, name: str, **labels: str) -> float | None:
    """Of the first series that has these labels."""
    page = httpx.get(f"http://127.0.0.1:{nebula.admin_port}/metrics", trust_env=False).text
    samples = (sample for family in read_text(page) for sample in family.samples if sample.name == name)
    return next((sample.value for sample in samples if labels.items() <= sample.labels.items()), None)


def test_what_a_node_tells_moves_with_its_gpus_and_engines(nebula, engine):
    before = {name: value(nebula, name, gpu_index="0") for name in ("nebula_gpu_temperature", "nebula_gpu_utilization")}
    for name, was in before.items():
        eventually(lambda name=name, was=was: value(nebula, name, gpu_index="0") > was, 20)
    engine.pending, engine.kv = 7, 0.5
    eventually(lambda: value(nebula, "nebula_engine_pending_requests", **REPLICA) == 7, 20)
    eventually(lambda: value(nebula, "nebula_engine_kv_cache_usage", **REPLICA) == 0.5, 20)
    assert value(nebula, "nebula_container_status", **REPLICA, image="external") == 1
    assert value(nebula, "nebula_container_restart_total", model_uid="org/m") == 0
    engine.kv = "nonsense"
    eventually(lambda: value(nebula, "nebula_scrape_failed_total", model_uid="org/m", reason="unreadable") > 0, 20)
    assert value(nebula, "nebula_engine_kv_cache_usage", **REPLICA) is None
    engine.is_well = False
    eventually(lambda: value(nebula, "nebula_container_status", **REPLICA) == 0, 20)
    eventually(lambda: value(nebula, "nebula_container_restart_total", model_uid="org/m") >= 1, 20)


def test_what_a_gateway_tells_moves_with_each_request(nebula):
    counts = {
        "nebula_request_total": {"status_code": "200"},
        "nebula_route_total": {"model_uid": "org/m", "status": "picked"},
        **{
            f"{name}_count": {"model_uid": "org/m"}
            for name in ("nebula_route_latency_seconds", "nebula_request_duration_seconds", "nebula_time_to_first_token_seconds")
        },
    }
    for asked in (1, 2):
        assert nebula.chat("org/m").status_code == 200
        for name, labels in counts.items():
            eventually(lambda name=name, labels=labels, asked=asked: value(nebula, name, **labels) == asked, 20, lambda name=name: name)
    assert value(nebula, "nebula_request_concurrent") == 0
