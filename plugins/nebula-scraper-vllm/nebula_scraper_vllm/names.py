"""The names of vLLM's metrics, and the versions that have them where not all do."""

from __future__ import annotations

from nebula_core import MetricsReader

WAITING = "vllm:num_requests_waiting"
RUNNING = "vllm:num_requests_running"
USAGE = "vllm:kv_cache_usage_perc"  # from 0.9.2
USAGE_TO_0_9 = "vllm:gpu_cache_usage_perc"  # until 0.10
CONFIG = "vllm:cache_config_info"  # its labels are what it says
PROMPT = "vllm:prompt_tokens_total"  # cached ones included
PROMPT_CACHED = "vllm:prompt_tokens_cached_total"  # from 0.18
GENERATED = "vllm:generation_tokens_total"

QUERIES = "vllm:prefix_cache_queries_total"  # from 0.9.2
HITS = "vllm:prefix_cache_hits_total"
QUERIES_TO_0_9 = "vllm:gpu_prefix_cache_queries_total"  # from 0.7 until 0.10; in blocks until 0.8.5
HITS_TO_0_9 = "vllm:gpu_prefix_cache_hits_total"
HIT_RATE = "vllm:gpu_prefix_cache_hit_rate"  # a gauge, until 0.7; -1: unknown

_PREFIX_CACHE = (QUERIES, HITS, QUERIES_TO_0_9, HITS_TO_0_9, HIT_RATE)
METRICS = MetricsReader((WAITING, RUNNING, USAGE, USAGE_TO_0_9, CONFIG, PROMPT, PROMPT_CACHED, GENERATED, *_PREFIX_CACHE), "vLLM")
