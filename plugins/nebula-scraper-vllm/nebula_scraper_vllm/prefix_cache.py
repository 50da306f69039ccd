"""What vLLM's page says about its prefix cache, which every second release says in another way."""

from __future__ import annotations

from typing import NamedTuple

from nebula_core import MetricsPage
from nebula_scraper_vllm.names import HITS, HITS_TO_0_9, PROMPT, PROMPT_CACHED, QUERIES, QUERIES_TO_0_9
from nebula_scraper_vllm.sizes import block_tokens, caching_is_off


class Lookups(NamedTuple):
    """Prompt tokens (until 0.8.5: blocks) that were looked for in the prefix cache since the engine's start."""

    misses: float | None
    hits: float | None


def lookups(page: MetricsPage) -> Lookups:
    """What was looked for; `None` where the page has no such counters (until 0.7, and the V0 engine), or ones that cannot be."""
    queries, hits = page.sum(QUERIES), page.sum(HITS)
    if queries is None:
        queries, hits = page.sum(QUERIES_TO_0_9), page.sum(HITS_TO_0_9)
    return Lookups(_less(queries, hits), hits)


def tokens(page: MetricsPage, found: Lookups, *, in_blocks: bool) -> tuple[float | None, float | None]:
    """Prompt tokens that were computed, and those that came from the cache, since the engine's start.

    `vllm:prompt_tokens_total` counts both. Without a counter of the cached ones they are told apart by the lookups: both of those
    grow when a request is admitted, whereas the difference of counters that grow at different times would now and then go back.
    """
    prompt, cached = page.sum(PROMPT), page.sum(PROMPT_CACHED)
    if cached is not None:
        return _less(prompt, cached), cached
    if caching_is_off(page) or (found.misses == 0 and found.hits == 0):
        return prompt, 0.0
    if not in_blocks:
        return found.misses, found.hits
    # The blocks that were missed are not all that was computed: the last, partly filled block of a prompt is never looked for.
    size = block_tokens(page)
    return None, None if found.hits is None or size is None else found.hits * size


def _less(whole: float | None, part: float | None) -> float | None:
    return whole - part if whole is not None and part is not None and part <= whole else None
