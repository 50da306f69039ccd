"""`SimEngine`: an engine in virtual time, whatever drives its clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from nebula_core import EndpointStats, HitRate
from nebula_engine_sim.job import Happening, Job

HIT_RATE_WINDOW_S = 60.0
"""As long as scrapers look back unless told otherwise."""


class SimEngine(ABC):
    """One simulated replica. It has no clock: every call is handed the time in seconds, which never goes back.

    Driven by `next_at` and `advance`; calls at the same time see each other in the order in which they are made.
    """

    prompt_tokens_total: int = 0
    """Prompt tokens of all requests that got their first token, cached ones included."""
    cached_tokens_total: int = 0
    """Those of them that came from the cache."""
    generated_tokens_total: int = 0
    preemptions_total: int = 0

    def __init__(self, block_size: int, capacity_blocks: int) -> None:
        if block_size < 1 or capacity_blocks < 1:
            raise ValueError("a KV cache has at least one block of at least one token")
        self.block_size = block_size
        self.capacity_blocks = capacity_blocks
        self._hit_rate = HitRate(HIT_RATE_WINDOW_S)

    @abstractmethod
    def submit(self, job: Job, now: float) -> None:
        """Take a request. Raises `ValueError` for one that can never be served, and for an id that is in use."""

    @abstractmethod
    def abort(self, request_id: str, now: float) -> None:
        """Drop a request: nothing more is heard of it. One that is not there, or no longer, is no error."""

    @abstractmethod
    def next_at(self) -> float | None:
        """When it next does something by itself; `None` while idle. A later `submit` or `abort` may change it."""

    @abstractmethod
    def advance(self, now: float) -> list[Happening]:
        """Run up to and including `now`; returns what happened since the last call, in order of time."""

    @abstractmethod
    def cached_tokens(self, blocks: Sequence[int], prompt_tokens: int, *, queued: bool = False) -> int:
        """Tokens of this prompt that its cache holds; with `queued` also what requests before it will have brought."""

    @abstractmethod
    def backlog_s(self, now: float) -> float:
        """Seconds until a request submitted now would begin its own prefill. Who knows this is an oracle: no real engine tells it."""

    @abstractmethod
    def prefill_s(self, uncached_tokens: int) -> float:
        """Seconds to compute so many prompt tokens on an otherwise idle engine."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Requests whose computation has not begun, or was taken back."""

    @property
    @abstractmethod
    def running(self) -> int:
        """Requests being computed."""

    @property
    @abstractmethod
    def usage(self) -> float:
        """Share of the KV cache that running requests hold, 0–1: what could be evicted counts as free, as vLLM counts."""

    @property
    def lookups(self) -> tuple[int, int]:
        """Prompt tokens looked for in the cache, and found there."""
        return self.prompt_tokens_total, self.cached_tokens_total

    def stats(self, now: float) -> EndpointStats:
        """What a scraper would read off its metrics page; the hit rate is that of the last minute's samples."""
        queries, hits = self.lookups
        return EndpointStats(
            pending=float(self.waiting),
            running=float(self.running),
            kv_cache_usage=self.usage,
            kv_capacity_tokens=self.capacity_blocks * self.block_size,
            kv_block_tokens=self.block_size,
            prefix_cache_hit_rate=self._hit_rate.observe(now, queries - hits, hits),
            prompt_tokens_total=float(self.prompt_tokens_total - self.cached_tokens_total),
            cached_tokens_total=float(self.cached_tokens_total),
            generated_tokens_total=float(self.generated_tokens_total),
        )
