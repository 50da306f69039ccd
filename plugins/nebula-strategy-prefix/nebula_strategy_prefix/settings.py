"""`[strategy_prefix]`: the strategy's own settings table."""

from __future__ import annotations

from pydantic import Field

from nebula_core import PluginSettings


class PrefixSettings(PluginSettings):
    """What the strategy cannot learn by itself, and what it believes before it has learned."""

    bytes_per_token: float = Field(4.0, gt=0, le=64)
    """Bytes of a request's body per token of its prompt, on average."""
    kv_capacity_tokens: int = Field(100_000, ge=1)
    """KV cache of a replica whose engine does not report it."""
    prefill_tokens_per_s: float = Field(8_000.0, gt=0)
    """Speed of a replica before its first answer, when no other of its model has answered either."""
    max_blocks: int = Field(262_144, ge=1)
    """Most blocks remembered of a model, an equal part for each replica, whatever capacities are reported: at most 122 MB."""
    hash_seed: int = Field(0, ge=0, lt=2**64)
    """Seed of the blocks' hashes; the same in all gateways of a fleet. A secret one keeps clients from making hashes collide."""
    decisions: int = Field(256, ge=0, le=100_000)
    """Last decisions kept for an explanation, in each gateway worker."""
