"""The page, read back by the parsers of `prometheus_client` and by Debian's `promtool`."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from nebula_exporter_prometheus import nebula_register_exporters
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from nebula_core import Exporter, Family, PluginSettings
from nebula_core.gateway.data_path.measures import Measures
from nebula_core.metrics import Metrics
from nebula_core.node.measures import NodeMeasures
from nebula_core.testing.exporter import ExporterContract, Series, make_snapshot

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
MODEL = frozenset({("model_uid", "m")})


def make_exporter() -> Exporter:
    [provider] = nebula_register_exporters()
    return provider.build(None, PluginSettings())


def read(content_type: str, body: bytes) -> Series:
    families = (read_openmetrics if content_type.startswith("application/openmetrics-text") else read_text)(body.decode())
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


class TestPrometheusExporter(ExporterContract):
    def make_exporter(self) -> Exporter:
        return make_exporter()

    def read(self, content_type: str, body: bytes) -> Series:
        return read(content_type, body)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("", "text/plain; version=0.0.4; charset=utf-8"), (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
)
def test_both_formats_tell_the_same(accept, content_type):
    told, body = make_exporter().page(make_snapshot(), accept)
    assert told == content_type
    assert read(told, body) == read(*make_exporter().page(make_snapshot(), ""))


def test_buckets_are_cumulated():
    metrics = Metrics()
    histogram = metrics.histogram("lab_duration_seconds", "Durations.", (0.1, 1.0), ["model_uid"]).labels("m")
    for seconds in (0.05, 0.5, 0.7, 30):
        histogram.observe(seconds)
    series = read(*make_exporter().page(metrics.snapshot(), ""))
    buckets = {bound: series["lab_duration_seconds_bucket", MODEL | {("le", bound)}] for bound in ("0.1", "1.0", "+Inf")}
    assert buckets == {"0.1": 1, "1.0": 3, "+Inf": 4}
    assert series["lab_duration_seconds_count", MODEL] == 4
    assert series["lab_duration_seconds_sum", MODEL] == pytest.approx(31.25)


def test_a_counter_without_the_suffix_gets_it():
    """A plugin's, for example: OpenMetrics knows no other counters."""
    snapshot = (Family("lab_misses", "counter", "Misses.", samples=()), *make_snapshot())
    assert b"# TYPE lab_misses_total counter" in make_exporter().page(snapshot, "")[1]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool (Debian: apt install prometheus)")
def test_promtool_has_no_complaint_about_any_of_our_metrics():
    metrics = Metrics()
    Measures(metrics)
    NodeMeasures(metrics)
    body = make_exporter().page(metrics.snapshot(), "")[1]
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
