"""`VllmScraper`: vLLM's page as `EndpointStats`."""

from __future__ import annotations

from collections.abc import Callable

from nebula_core import EndpointStats, Fetch, HitRate, Scraper, as_ratio
from nebula_scraper_vllm.names import GENERATED, HIT_RATE, METRICS, RUNNING, USAGE, USAGE_TO_0_9, WAITING
from nebula_scraper_vllm.prefix_cache import lookups, tokens
from nebula_scraper_vllm.sizes import block_tokens, capacity_tokens

PATH = "/metrics"


class VllmScraper(Scraper):
    """Reads `/metrics` of vLLM 0.5 and later. With data parallelism every metric comes once per engine: one replica is all of them."""

    def __init__(self, clock: Callable[[], float], window_s: float) -> None:
        self._clock = clock
        self._hit_rate = HitRate(window_s)

    async def scrape(self, fetch: Fetch) -> EndpointStats:
        """The engine's load now. Raises `ScrapeError`."""
        content = await fetch(PATH)
        page = METRICS.read(content, PATH)
        found = lookups(page)
        rate = self._hit_rate.observe(self._clock(), found.misses, found.hits)
        usage = page.mean(USAGE)
        computed, cached = tokens(page, found, in_blocks=b"number of queried blocks" in content)
        return EndpointStats(
            pending=page.sum(WAITING),
            running=page.sum(RUNNING),
            kv_cache_usage=as_ratio(page.mean(USAGE_TO_0_9) if usage is None else usage),
            kv_capacity_tokens=capacity_tokens(page),
            kv_block_tokens=block_tokens(page),
            prefix_cache_hit_rate=as_ratio(page.mean(HIT_RATE)) if rate is None else rate,
            prompt_tokens_total=computed,
            cached_tokens_total=cached,
            generated_tokens_total=page.sum(GENERATED),
        )
