"""A real Prometheus scrapes a running Nebula."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from nebula_core.testing.engines import fake_launch
from nebula_core.testing.ports import free_ports
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no prometheus (Debian: apt install prometheus)")

WORDS = 5
WORD_S = 0.6


@pytest.fixture
def engine_url() -> Iterator[str]:
    [port] = free_ports(1)
    process = subprocess.Popen(fake_launch(port=port, word_s=WORD_S).argv, stdout=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def nebula(tmp_path: Path, engine_url: str) -> Iterator[Nebula]:
    model = f'[[models]]\nmodel_uid = "org/m"\nengine = "external"\nurls = ["{engine_url}"]\n'
    nebula = Nebula(tmp_path / "nebula", model, workers=2).start()
    yield nebula
    nebula.close()


@pytest.fixture
def prometheus(tmp_path: Path, nebula: Nebula) -> Iterator[httpx.Client]:
    [port] = free_ports(1)
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f'scrape_configs: [{{job_name: nebula, static_configs: [{{targets: ["127.0.0.1:{nebula.admin_port}"]}}]}}]\n'
    )
    options = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
    log = tmp_path / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(["prometheus", *options], stdout=output, stderr=output)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
        eventually(lambda: value(client, "up") == 1, 60, log.read_text)
        yield client
    process.terminate()
    process.wait()


def value(prometheus: httpx.Client, query: str) -> float | None:
    """What the first series of an instant query has."""
    try:
        answer = prometheus.get("/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return None
    result = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return float(result[0]["value"][1]) if result else None


def test_prometheus_sees_what_was_asked_of_the_gateway(nebula, prometheus):
    words = " ".join(["word"] * WORDS)  # 5 words at 0.6 s each: 3 s in all, the first at once
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(nebula.chat, "org/m", stream=True, messages=[{"role": "user", "content": words}]) for _ in range(8)]
    assert {one.result().status_code for one in asked} == {200}
    nebula.chat("no-such-model-of-a-client")
    eventually(lambda: value(prometheus, "sum(nebula_request_total)") == 9, 30)

    def p99(metric: str) -> float:
        return value(prometheus, f'histogram_quantile(0.99, sum by (le) ({metric}_bucket{{model_uid="org/m"}}))')

    assert 2 < p99("nebula_request_duration_seconds") <= 5
    assert 2 < p99("nebula_route_latency_seconds") <= 5
    assert 0.5 < p99("nebula_time_per_output_token_seconds") <= 1
    assert p99("nebula_time_to_first_token_seconds") < 2
    assert value(prometheus, 'nebula_route_total{model_uid="org/m",status="picked"}') == 8
    assert value(prometheus, 'nebula_request_total{status_code="404"}') == 1
    assert value(prometheus, "nebula_request_concurrent") == 0
    assert value(prometheus, 'nebula_container_status{model_uid="org/m",image="external"}') == 1
    assert value(prometheus, 'nebula_container_restart_total{model_uid="org/m"}') == 0
    assert "no-such-model" not in httpx.get(f"http://127.0.0.1:{nebula.admin_port}/metrics", trust_env=False).text


def test_promtool_has_no_complaint_about_a_running_nebulas_page(nebula):
    nebula.chat("org/m")
    url = f"http://127.0.0.1:{nebula.admin_port}/metrics"
    eventually(lambda: "nebula_request_duration_seconds_count" in httpx.get(url, trust_env=False).text, 20)
    page = httpx.get(url, trust_env=False, headers={"host": "scraped.by.any.name:1"}).content
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
