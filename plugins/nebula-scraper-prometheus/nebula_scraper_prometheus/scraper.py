"""`PrometheusScraper`: any engine's page as `EndpointStats`."""

from __future__ import annotations

import math
from collections.abc import Callable

from nebula_core import EndpointStats, Fetch, HitRate, MetricsPage, MetricsReader, Scraper, as_count, as_ratio
from nebula_scraper_prometheus.mapping import Aggregate, Metric, ScraperSettings, Share


class PrometheusScraper(Scraper):
    """Reads one page by the mapping in the settings."""

    def __init__(self, clock: Callable[[], float], settings: ScraperSettings) -> None:
        self._clock = clock
        self._settings = settings
        self._reader = MetricsReader(settings.metrics, "the engine that [scraper_prometheus] describes")
        self._hit_rate = HitRate(settings.window_s)

    async def scrape(self, fetch: Fetch) -> EndpointStats:
        """The engine's load now. Raises `ScrapeError`."""
        to = self._settings
        page = self._reader.read(await fetch(to.path), to.path)
        return EndpointStats(
            pending=_value(page, to.pending),
            running=_value(page, to.running),
            kv_cache_usage=_share(page, to.kv_cache_usage),
            kv_cache_used_bytes=_value(page, to.kv_cache_used_bytes),
            kv_capacity_tokens=as_count(_value(page, to.kv_capacity_tokens)),
            kv_block_tokens=as_count(_value(page, to.kv_block_tokens, "max")),
            prefix_cache_hit_rate=self._rate(page, to.prefix_cache_hit_rate),
            prompt_tokens_total=_value(page, to.prompt_tokens_total),
            cached_tokens_total=_value(page, to.cached_tokens_total),
            generated_tokens_total=_value(page, to.generated_tokens_total),
        )

    def _rate(self, page: MetricsPage, share: Share | None) -> float | None:
        """A gauge as it is; of two counters how they grew during the window."""
        if share is None or share.gauge:
            return _share(page, share)
        hits, lookups = _value(page, share.numerator), _value(page, share.denominator)
        misses = lookups - hits if hits is not None and lookups is not None and hits <= lookups else None
        return self._hit_rate.observe(self._clock(), misses, hits)


def _share(page: MetricsPage, share: Share | None) -> float | None:
    if share is None:
        return None
    if gauge := share.gauge:
        return as_ratio(_value(page, gauge, "mean"))
    part, whole = _value(page, share.numerator), _value(page, share.denominator)
    return as_ratio(part / whole) if part is not None and whole else None


def _value(page: MetricsPage, metric: Metric | None, usual: Aggregate = "sum") -> float | None:
    if metric is None:
        return None
    aggregate = {"sum": page.sum, "mean": page.mean, "max": page.max}[metric.aggregate or usual]
    value = aggregate(metric.metric, metric.labels)
    return value * metric.scale if value is not None and value * metric.scale < math.inf else None
