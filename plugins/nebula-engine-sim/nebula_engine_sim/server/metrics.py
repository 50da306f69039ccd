"""vLLM's metrics page, under the names that version 0.32 has; through the client library that vLLM itself uses."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nebula_engine_sim.job import Happening, Job
from nebula_engine_sim.sim_engine import SimEngine

_LABELS = ("engine", "model_name")
_REQUEST_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)

_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": ("Time from a request's arrival to its first token.", _FIRST_S),
    "inter_token_latency_seconds": ("Time between two tokens of a request.", _TOKEN_S),
    "request_time_per_output_token_seconds": ("Mean time per token after the first, by request.", _TOKEN_S),
    "e2e_request_latency_seconds": ("Time from a request's arrival to its end.", _REQUEST_S),
    "request_queue_time_seconds": ("Time that a request waited.", _REQUEST_S),
    "request_inference_time_seconds": ("Time that a request was computed.", _REQUEST_S),
    "request_prefill_time_seconds": ("Time that a request's prompt was computed.", _REQUEST_S),
    "request_decode_time_seconds": ("Time from a request's first token to its last.", _REQUEST_S),
    "request_prompt_tokens": ("Prompt tokens by request.", _TOKENS),
    "request_generation_tokens": ("Generated tokens by request.", _TOKENS),
    "request_prefill_kv_computed_tokens": ("Prompt tokens by request that were not cached.", _TOKENS),
}
_GAUGES: dict[str, tuple[str, Callable[[SimEngine], float]]] = {
    "num_requests_running": ("Requests in the batch.", lambda engine: engine.running),
    "num_requests_waiting": ("Requests in the queue.", lambda engine: engine.waiting),
    "kv_cache_usage_perc": ("Share of the KV cache in use; 1 means all.", lambda engine: engine.usage),
}
_COUNTERS: dict[str, tuple[str, Callable[[SimEngine], int]]] = {
    "prompt_tokens": ("Prompt tokens processed, cached ones included.", lambda engine: engine.prompt_tokens_total),
    "prompt_tokens_cached": ("Prompt tokens that came from the cache.", lambda engine: engine.cached_tokens_total),
    "generation_tokens": ("Tokens generated.", lambda engine: engine.generated_tokens_total),
    "num_preemptions": ("Preemptions.", lambda engine: engine.preemptions_total),
    "prefix_cache_queries": ("Tokens looked for in the prefix cache.", lambda engine: engine.lookups[0]),
    "prefix_cache_hits": ("Tokens found in the prefix cache.", lambda engine: engine.lookups[1]),
}


@dataclass(slots=True)
class Passage:
    """When a request reached what, in seconds of the engine's clock."""

    job: Job
    arrived: float
    first: float = 0.0
    last: float = 0.0
    queued_s: float = 0.0
    tokens: int = 0


class MetricsPage:
    """All metrics of one engine."""

    def __init__(self, engine: SimEngine, model: str, loras: int) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        self._max_lora = loras
        own = {"engine": "0", "model_name": model}
        self._histograms = {
            name: Histogram(f"vllm:{name}", text, _LABELS, buckets=buckets, registry=self._registry).labels(**own)
            for name, (text, buckets) in _HISTOGRAMS.items()
        }
        self._gauges = {
            name: Gauge(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(**own) for name, (text, _) in _GAUGES.items()
        }
        self._counters = {
            name: Counter(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(**own) for name, (text, _) in _COUNTERS.items()
        }
        self._counted: Tally[str] = Tally()
        ends = Counter("vllm:request_success", "Requests that ended, by reason.", (*_LABELS, "finished_reason"), registry=self._registry)
        self._ends = {reason: ends.labels(**own, finished_reason=reason) for reason in ("stop", "length", "abort", "error")}
        self._loras = Gauge(
            "vllm:lora_requests_info",
            "LoRA adapters of current requests; the value is the time.",
            ("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
            registry=self._registry,
        )
        self._show_cache_config()

    def observe(self, passage: Passage, happening: Happening) -> None:
        """Take in what happened to a request."""
        if happening.kind in ("first_token", "token"):
            passage.tokens += 1
        if happening.kind == "first_token":
            passage.first = passage.last = happening.at
            passage.queued_s = happening.queued_s
            self._seen("time_to_first_token_seconds", happening.at - passage.arrived)
        elif happening.kind == "token":
            self._seen("inter_token_latency_seconds", happening.at - passage.last)
            passage.last = happening.at
        elif happening.kind == "finished":
            self._finished(passage, happening)

    def ended(self, reason: str) -> None:
        """A request ended: `stop`, `length`, `abort` or `error`."""
        self._ends[reason].inc()

    def page(self, waiting: set[str], running: set[str], time_s: float, lies: Mapping[str, float] = {}) -> bytes:
        """The page; `waiting` and `running` name the LoRAs of such requests. `lies` replace the values of samples by their names."""
        for name, (_, read) in _GAUGES.items():
            self._gauges[name].set(read(self._engine))
        for name, (_, count) in _COUNTERS.items():
            total = count(self._engine)
            self._counters[name].inc(total - self._counted[name])
            self._counted[name] = total
        if self._max_lora:
            self._loras.labels(str(self._max_lora), ",".join(sorted(running)), ",".join(sorted(waiting))).set(time_s)
        page: bytes = generate_latest(self._registry)
        return _lie(page, lies) if lies else page

    def _finished(self, passage: Passage, happening: Happening) -> None:
        job, at = passage.job, happening.at
        computing = passage.arrived + passage.queued_s
        self._seen("e2e_request_latency_seconds", at - passage.arrived)
        self._seen("request_queue_time_seconds", passage.queued_s)
        self._seen("request_inference_time_seconds", at - computing)
        self._seen("request_prefill_time_seconds", passage.first - computing)
        self._seen("request_decode_time_seconds", at - passage.first)
        self._seen("request_prompt_tokens", job.prompt_tokens)
        self._seen("request_generation_tokens", job.output_tokens)
        self._seen("request_prefill_kv_computed_tokens", job.prompt_tokens - happening.cached_tokens)
        if job.output_tokens > 1:
            self._seen("request_time_per_output_token_seconds", (at - passage.first) / (job.output_tokens - 1))

    def _seen(self, name: str, value: float) -> None:
        self._histograms[name].observe(max(0.0, value))

    def _show_cache_config(self) -> None:
        engine = self._engine
        labels = {
            "block_size": str(engine.block_size),
            "cache_dtype": "auto",
            "enable_prefix_caching": "True",
            "engine": "0",
            "kv_cache_size_tokens": str(engine.capacity_blocks * engine.block_size),
            "num_gpu_blocks": str(engine.capacity_blocks),
        }
        gauge = Gauge("vllm:cache_config_info", "What the KV cache is like.", tuple(labels), registry=self._registry)
        gauge.labels(**labels).set(1)


def _lie(page: bytes, lies: Mapping[str, float]) -> bytes:
    lines = page.decode().split("\n")
    for place, line in enumerate(lines):
        name = line.partition("{")[0]
        if name in lies:
            lines[place] = f"{line.rpartition(' ')[0]} {lies[name]}"
    return "\n".join(lines).encode()
