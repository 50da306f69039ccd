"""Reads the load of vLLM engines."""

from __future__ import annotations

from pydantic import Field

from nebula_core import Context, PluginSettings, Provider, Scraper, hookimpl
from nebula_scraper_vllm.scraper import VllmScraper


class ScraperSettings(PluginSettings):
    """`[scraper_vllm]`."""

    window_s: float = Field(60.0, gt=0)
    """The prefix cache's hit rate is that of the last so many seconds."""


@hookimpl
def nebula_register_scrapers() -> list[Provider[Scraper]]:
    """The scraper `vllm`."""
    return [Provider(name="vllm", build=_build, settings_type=ScraperSettings)]


def _build(context: Context, settings: ScraperSettings) -> Scraper:
    return VllmScraper(context.clock, settings.window_s)
