"""Reads the load of any engine with a Prometheus page, by a mapping in the settings."""

from __future__ import annotations

from nebula_core import Context, Provider, Scraper, SettingsError, hookimpl
from nebula_scraper_prometheus.mapping import ScraperSettings
from nebula_scraper_prometheus.scraper import PrometheusScraper


@hookimpl
def nebula_register_scrapers() -> list[Provider[Scraper]]:
    """The scraper `prometheus`."""
    return [Provider(name="prometheus", build=_build, settings_type=ScraperSettings)]


def _build(context: Context, settings: ScraperSettings) -> Scraper:
    if not settings.metrics:
        raise SettingsError('[scraper_prometheus] maps no signal to a metric; for example: pending = { metric = "queue_size" }')
    return PrometheusScraper(context.clock, settings)
