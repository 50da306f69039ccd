"""The names of SGLang's metrics, and the versions that have them where not all do."""

from __future__ import annotations

from nebula_core import MetricsReader

WAITING = "sglang:num_queue_reqs"  # from 0.4
RUNNING = "sglang:num_running_reqs"
WAITING_IN_0_3 = "sglang:num_requests_waiting"
RUNNING_IN_0_3 = "sglang:num_requests_running"
USAGE = "sglang:token_usage"
CAPACITY = "sglang:max_total_num_tokens"  # in 0.3, and again from 0.5.9
PAGE_TOKENS = "sglang:page_size"  # from 0.5.14
CONFIG = "sglang:cache_config_info"  # before that; its labels are what it says
HIT_RATE = "sglang:cache_hit_rate"  # of the last batch; in per cent in 0.3
PROMPT = "sglang:prompt_tokens_total"  # cached ones included
CACHED = "sglang:cached_tokens_total"  # from 0.4.6; appears with the first hit
GENERATED = "sglang:generation_tokens_total"

_LOAD = (WAITING, RUNNING, WAITING_IN_0_3, RUNNING_IN_0_3, USAGE, HIT_RATE)
METRICS = MetricsReader((*_LOAD, CAPACITY, PAGE_TOKENS, CONFIG, PROMPT, CACHED, GENERATED), "SGLang")
