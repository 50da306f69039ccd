"""`LlamaCppScraper`: llama.cpp's pages as `EndpointStats`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from nebula_core import EndpointStats, Fetch, HitRate, ScrapeError, Scraper
from nebula_scraper_llamacpp.pages import (
    CACHED_TOKENS,
    COMPUTED_TOKENS,
    GENERATED_TOKENS,
    METRICS,
    RUNNING,
    WAITING,
    Slot,
    read_props,
    read_slots,
)


class LlamaCppScraper(Scraper):
    """Reads `/metrics`, and `/slots` where the server has it; `/props` in its place for the capacity alone."""

    def __init__(self, clock: Callable[[], float], window_s: float) -> None:
        self._clock = clock
        self._hit_rate = HitRate(window_s)

    async def scrape(self, fetch: Fetch) -> EndpointStats:
        """The engine's load now. Raises `ScrapeError` if `/metrics` cannot be had, or if a page is not what it should be."""
        # Both at once: llama.cpp answers either only between two steps, and a step may take a second.
        async with asyncio.TaskGroup() as group:
            metrics_page = group.create_task(_page(fetch, "/metrics"))
            slots_page = group.create_task(_page(fetch, "/slots"))
        metrics = METRICS.read(_must(metrics_page.result()), "/metrics")
        slots = slots_page.result()
        usage, capacity = _kv_cache(read_slots(slots)) if isinstance(slots, bytes) else (None, await _capacity(fetch))
        computed, cached = metrics.sum(COMPUTED_TOKENS), metrics.sum(CACHED_TOKENS)
        return EndpointStats(
            pending=metrics.sum(WAITING),
            running=metrics.sum(RUNNING),
            kv_cache_usage=usage,
            kv_capacity_tokens=capacity,
            prefix_cache_hit_rate=self._hit_rate.observe(self._clock(), computed, cached),
            prompt_tokens_total=computed,
            cached_tokens_total=cached,
            generated_tokens_total=metrics.sum(GENERATED_TOKENS),
        )


async def _page(fetch: Fetch, path: str) -> bytes | ScrapeError:
    try:
        return await fetch(path)
    except ScrapeError as error:
        return error


def _must(page: bytes | ScrapeError) -> bytes:
    if isinstance(page, ScrapeError):
        raise page
    return page


async def _capacity(fetch: Fetch) -> int | None:
    page = await _page(fetch, "/props")
    return read_props(page).capacity_tokens if isinstance(page, bytes) else None


def _kv_cache(slots: Sequence[Slot]) -> tuple[float | None, int | None]:
    """Usage (0–1) and capacity in tokens of the KV cache.

        capacity = sum of n_ctx over all slots
        usage    = sum of n_prompt_tokens over the slots that compute / capacity

    llama.cpp has no gauge for it. `n_prompt_tokens` is what a slot holds at the moment, the tokens that it generated included: it
    grows with each of them, so `n_decoded` must not be added. What an idle slot holds is kept for reuse only and gives way to the
    next request; it does not count, as free blocks with cached content do not in other engines.
    """
    capacity = sum(slot.n_ctx for slot in slots)
    held = [slot.n_prompt_tokens for slot in slots if slot.is_processing]
    if capacity <= 0:
        return None, None
    if None in held:
        return None, capacity
    return min(1.0, max(0.0, sum(tokens or 0 for tokens in held) / capacity)), capacity
