"""The size of vLLM's KV cache, from the labels of `vllm:cache_config_info`: one sample per engine of a data-parallel set."""

from __future__ import annotations

import re

from nebula_core import MetricsPage
from nebula_scraper_vllm.names import CONFIG

_SIZE = re.compile(r"[1-9][0-9]{0,14}")


def block_tokens(page: MetricsPage) -> int | None:
    """Tokens in a block; `None` where engines differ."""
    sizes = set(_sizes(page, "block_size"))
    return sizes.pop() if len(sizes) == 1 else None


def capacity_tokens(page: MetricsPage) -> int | None:
    """Tokens that all engines together have room for.

    `kv_cache_size_tokens` is each engine's own. Versions without it tell blocks, and there every engine shows the blocks of all.
    Of models that mix attention with other layers those give too little: a token takes no block in some layers.
    """
    if own := _sizes(page, "kv_cache_size_tokens"):
        return sum(own)
    blocks, size = _sizes(page, "num_gpu_blocks"), block_tokens(page)
    return max(blocks) * size if blocks and size else None


def caching_is_off(page: MetricsPage) -> bool:
    """The prefix cache was switched off, as the page says."""
    samples = page.samples(CONFIG)
    return bool(samples) and all(sample.labels.get("enable_prefix_caching") == "False" for sample in samples)


def _sizes(page: MetricsPage, label: str) -> list[int]:
    """A size per engine; none at all where one engine has no whole number there, such as `None` before it knows."""
    texts = [sample.labels.get(label, "") for sample in page.samples(CONFIG)]
    return [int(text) for text in texts] if all(map(_SIZE.fullmatch, texts)) else []
