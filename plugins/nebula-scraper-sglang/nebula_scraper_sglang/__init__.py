"""Reads the load of SGLang engines."""

from __future__ import annotations

from pydantic import Field

from nebula_core import Context, PluginSettings, Provider, Scraper, hookimpl
from nebula_scraper_sglang.scraper import SglangScraper


class ScraperSettings(PluginSettings):
    """`[scraper_sglang]`."""

    window_s: float = Field(60.0, gt=0)
    """The prefix cache's hit rate is that of the last so many seconds."""


@hookimpl
def nebula_register_scrapers() -> list[Provider[Scraper]]:
    """The scraper `sglang`."""
    return [Provider(name="sglang", build=_build, settings_type=ScraperSettings)]


def _build(context: Context, settings: ScraperSettings) -> Scraper:
    return SglangScraper(context.clock, settings.window_s)
