"""The keys of a `[[models]]` table that belong to llama.cpp."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nebula_core import EngineArgs


class LlamaCppArgs(EngineArgs):
    """How llama.cpp runs a model. The defaults suit a laptop without a GPU."""

    context_tokens: int = Field(4096, ge=128)
    """Tokens that one request may take, prompt and answer together; each slot keeps memory for so many."""
    parallel: int = Field(4, ge=1, le=256)
    """Slots: requests computed at the same time; further ones wait in the engine."""
    threads: int | None = Field(None, ge=1)
    """Threads that compute; `None`: one per physical core, and one core left to others."""
    gpu_layers: int | None = Field(None, ge=0)
    """Layers kept on the GPUs; `None`: as many as fit."""
    batch_tokens: int = Field(512, ge=32)
    """Prompt tokens computed in one step, also the longest input of an embedding.

    Between two steps the engine takes in new requests, notices clients that left and answers for its metrics.
    """
    prompt_cache_mib: int = Field(1024, ge=0)
    """Memory for prompts that have lost their slot, so that a conversation taken up again need not be computed again."""
    embeddings: bool | None = None
    """Whether it answers `/v1/embeddings`; `None`: only the bundled model does."""
    pooling: Literal["mean", "cls", "last", "rank"] | None = None
    """How an embedding is made from a text's tokens (`rank`: for `/v1/rerank`); `None`: as the model says, the bundled one by `mean`."""
    chat_template: str | None = None
    """Name of a template that llama.cpp knows, or one in Jinja; `None`: the model's own."""
    verbose: bool = False
    """Whether the log has lines for every request."""
