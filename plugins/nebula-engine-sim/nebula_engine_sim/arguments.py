"""The keys of a `[[models]]` table that belong to the simulated engine; each is an option of its program too."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from nebula_core import EngineArgs
from nebula_engine_sim.cost import CostModel
from nebula_engine_sim.faults import Fault, Timeline, read_faults
from nebula_engine_sim.fcfs import FcfsEngine
from nebula_engine_sim.sim_engine import SimEngine
from nebula_engine_sim.steps import StepEngine

_COST = CostModel()


class SimArgs(EngineArgs):
    """What is simulated. The defaults resemble a model of 8 billion parameters on one GPU with 80 GB."""

    kind: Literal["steps", "fcfs"] = "steps"
    """`steps`: continuous batching, as vLLM does it; `fcfs`: one prompt after the other, and answers at once."""
    block_tokens: int = Field(16, ge=1)
    """Tokens in a KV block."""
    kv_blocks: int = Field(25_600, ge=1)
    """Blocks in the KV cache."""
    max_model_tokens: int = Field(131_072, ge=2)
    """Tokens that one request may take, prompt and answer together; no more than the cache holds."""
    max_batched_tokens: int = Field(8192, ge=1)
    """`steps`: tokens computed in one step."""
    max_sequences: int = Field(256, ge=1)
    """`steps`: requests computed at the same time; no more than `max_batched_tokens`."""
    step_s: float = Field(_COST.step_s, gt=0)
    """`steps`: seconds of every step. This key and the next four are the cost model."""
    prefill_token_s: float = Field(_COST.prefill_token_s, ge=0)
    """`steps`: seconds for each prompt token."""
    prefill_pair_s: float = Field(_COST.prefill_pair_s, ge=0)
    """`steps`: seconds for each pair of a prompt token and one before it."""
    decode_sequence_s: float = Field(_COST.decode_sequence_s, ge=0)
    """`steps`: seconds for each sequence that gets a token."""
    decode_context_s: float = Field(_COST.decode_context_s, ge=0)
    """`steps`: seconds for each token in the context of such a sequence."""
    tokens_per_s: float = Field(8000.0, gt=0)
    """`fcfs`: prompt tokens per second."""
    answer_tokens: int = Field(256, ge=1)
    """Mean length of answers, where the request's `max_tokens` does not end them before."""
    seed: int = 0
    """Decides what is answered, and how long: the same seed and request give the same answer."""
    time_scale: float = Field(1.0, gt=0)
    """Seconds of the engine's clock per real second."""
    loras: tuple[str, ...] = ()
    """Names of LoRA adapters that it serves besides the model."""
    faults: tuple[Fault, ...] | str = ()
    """What goes wrong and when: a list, or the path of a file that has it."""

    def make_engine(self, *, tokens: bool) -> SimEngine:
        """The engine in virtual time. Raises `ValueError` for sizes that do not go together."""
        if self.kind == "fcfs":
            return FcfsEngine(block_size=self.block_tokens, capacity_blocks=self.kv_blocks, tokens_per_s=self.tokens_per_s)
        cost = CostModel(
            step_s=self.step_s,
            prefill_token_s=self.prefill_token_s,
            prefill_pair_s=self.prefill_pair_s,
            decode_sequence_s=self.decode_sequence_s,
            decode_context_s=self.decode_context_s,
        )
        return StepEngine(
            block_size=self.block_tokens,
            capacity_blocks=self.kv_blocks,
            max_batched_tokens=self.max_batched_tokens,
            max_sequences=self.max_sequences,
            cost=cost,
            tokens=tokens,
        )

    def timeline(self) -> Timeline:
        """The faults, read from their file if they lie in one. Raises `ValueError` or `OSError`."""
        return Timeline(read_faults(Path(self.faults).expanduser()) if isinstance(self.faults, str) else self.faults)

    @property
    def longest(self) -> int:
        """Tokens that a request can take at most."""
        return min(self.max_model_tokens, self.kv_blocks * self.block_tokens)
