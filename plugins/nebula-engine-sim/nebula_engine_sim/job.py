"""What goes into a simulated engine and what comes out of it, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["first_token", "token", "finished", "preempted"]


@dataclass(frozen=True, slots=True)
class Job:
    """A request as an engine sees it."""

    request_id: str
    """Unique among the requests that the engine has at the same time."""
    blocks: tuple[int, ...]
    """Chained hashes of the prompt's whole KV blocks: equal hashes mean that all before is equal too, model and LoRA included."""
    prompt_tokens: int
    output_tokens: int
    """At least 1: the first token counts."""
    lora: str = ""
    output_blocks: tuple[int, ...] = ()
    """Chained hashes of the blocks that the answer fills, those of `blocks` left out; where they are known, a later turn finds them."""

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError(f"the request {self.request_id} needs at least one prompt token and one output token")


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that an engine did. `token` comes only from an engine that is asked for it, and never for the first token."""

    kind: Kind
    request_id: str
    at: float
    """Virtual seconds."""
    cached_tokens: int = 0
    """Prompt tokens that came from the cache; with `first_token` and `finished`."""
    queued_s: float = 0.0
    """Seconds it waited until its prefill began; with `first_token`."""
