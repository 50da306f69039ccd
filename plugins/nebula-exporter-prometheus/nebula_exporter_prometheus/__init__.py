"""Serves Nebula's own metrics to Prometheus."""

from __future__ import annotations

from nebula_core import Context, Exporter, PluginSettings, Provider, hookimpl
from nebula_exporter_prometheus.exporter import PrometheusExporter


def build(context: Context, settings: PluginSettings) -> Exporter:
    """It has no settings."""
    return PrometheusExporter()


@hookimpl
def nebula_register_exporters() -> list[Provider[Exporter]]:
    """The exporter `prometheus`."""
    return [Provider(name="prometheus", build=build)]
