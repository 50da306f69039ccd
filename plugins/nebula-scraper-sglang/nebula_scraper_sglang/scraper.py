"""`SglangScraper`: SGLang's page as `EndpointStats`."""

from __future__ import annotations

from collections.abc import Callable

from nebula_core import EndpointStats, Fetch, HitRate, MetricsPage, Scraper, as_count, as_ratio
from nebula_scraper_sglang.names import (
    CACHED,
    CAPACITY,
    CONFIG,
    GENERATED,
    HIT_RATE,
    METRICS,
    PAGE_TOKENS,
    PROMPT,
    RUNNING,
    RUNNING_IN_0_3,
    USAGE,
    WAITING,
    WAITING_IN_0_3,
)
from nebula_scraper_sglang.ranks import without_repeats

PATH = "/metrics"


class SglangScraper(Scraper):
    """Reads `/metrics` of SGLang 0.3.5 and later, started with `--enable-metrics`."""

    def __init__(self, clock: Callable[[], float], window_s: float) -> None:
        self._clock = clock
        self._hit_rate = HitRate(window_s)

    async def scrape(self, fetch: Fetch) -> EndpointStats:
        """The engine's load now. Raises `ScrapeError`."""
        page = without_repeats(METRICS.read(await fetch(PATH), PATH))
        old = RUNNING_IN_0_3 in page.families
        computed, cached = _tokens(page)
        rate = self._hit_rate.observe(self._clock(), computed, cached)
        return EndpointStats(
            pending=page.sum(WAITING_IN_0_3 if old else WAITING),
            running=page.sum(RUNNING_IN_0_3 if old else RUNNING),
            kv_cache_usage=as_ratio(page.mean(USAGE)),
            kv_capacity_tokens=as_count(page.sum(CAPACITY)),
            kv_block_tokens=_page_tokens(page),
            prefix_cache_hit_rate=_hit_rate_gauge(page, old) if rate is None else rate,
            prompt_tokens_total=computed,
            cached_tokens_total=cached,
            generated_tokens_total=page.sum(GENERATED),
        )


def _tokens(page: MetricsPage) -> tuple[float | None, float | None]:
    """Prompt tokens that were computed, and those that came from the cache, since the engine's start."""
    prompt, cached = page.sum(PROMPT), _cached(page)
    if prompt is None or cached is None or cached > prompt:
        return None, cached
    return prompt - cached, cached


def _cached(page: MetricsPage) -> float | None:
    """Cached tokens from all sources.

    From 0.5.9 on a request's tokens are counted either by where they came from (`device`, `host`, `storage_…`), or under `total`
    by a server that does not tell. Other builds let `total` be the sum of the rest, so the two are not added up.
    """
    if page.sum(CACHED) is None:
        return None
    total = page.sum(CACHED, {"cache_source": "total"}) or 0.0
    return max(total, sum(sample.value for sample in page.samples(CACHED) if sample.labels.get("cache_source") != "total"))


def _hit_rate_gauge(page: MetricsPage, per_cent: bool) -> float | None:
    rate = page.mean(HIT_RATE)
    return as_ratio(rate / 100 if rate is not None and per_cent else rate)


def _page_tokens(page: MetricsPage) -> int | None:
    if PAGE_TOKENS in page.families:
        return as_count(page.max(PAGE_TOKENS))
    sizes = {sample.labels.get("page_size", "") for sample in page.samples(CONFIG)}
    size = sizes.pop() if len(sizes) == 1 else ""
    return as_count(float(size)) if size.isascii() and size.isdigit() else None
