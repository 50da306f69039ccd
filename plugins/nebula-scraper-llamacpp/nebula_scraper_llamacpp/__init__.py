"""Reads the load of llama.cpp engines."""

from __future__ import annotations

from pydantic import Field

from nebula_core import Context, PluginSettings, Provider, Scraper, hookimpl
from nebula_scraper_llamacpp.scraper import LlamaCppScraper


class ScraperSettings(PluginSettings):
    """`[scraper_llamacpp]`."""

    window_s: float = Field(60.0, gt=0)
    """The prefix cache's hit rate is that of the last so many seconds."""


@hookimpl
def nebula_register_scrapers() -> list[Provider[Scraper]]:
    """The scraper `llamacpp`."""
    return [Provider(name="llamacpp", build=_build, settings_type=ScraperSettings)]


def _build(context: Context, settings: ScraperSettings) -> Scraper:
    return LlamaCppScraper(context.clock, settings.window_s)
