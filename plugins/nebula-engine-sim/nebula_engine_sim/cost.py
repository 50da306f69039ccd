"""`CostModel`: how long a step of continuous batching takes."""

from __future__ import annotations

from dataclasses import dataclass, fields

FEMTO = 10**15
"""Femtoseconds per second. An engine adds whole ones, so that many steps taken at once end exactly when single ones do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Seconds of a step = the sum of what is in it.

    The defaults are a model of 8 billion parameters (Llama 3.1 8B: 32 layers of width 4096, 8 KV heads of 128, bfloat16) on one
    NVIDIA H100 SXM (989 TFLOP/s and 3.35 TB/s by its data sheet), at 40 % of its arithmetic and 70 % of its memory bandwidth,
    which is what well-tuned engines reach. A token takes 2 floating-point operations per parameter; a pair of tokens in attention
    takes 4 per layer and unit of width. One stream then gives a token every 10.1 ms; published figures are 10 to 15 ms.
    """

    step_s: float = 10e-3
    """Every step: reading the weights once (16 GB: 6.9 ms), launching kernels, scheduling and sampling. Above 0."""
    prefill_token_s: float = 41e-6
    """Each prompt token: 16.1 GFLOP. At the default step that is 19,000 tokens per second in steps of 8192."""
    prefill_pair_s: float = 1.3e-9
    """Each pair of a prompt token and one before it (524 kFLOP): why long prompts take more than their length says. 0.09 s for 12,000."""
    decode_sequence_s: float = 41e-6
    """Each sequence that gets a token: the same 16.1 GFLOP."""
    decode_context_s: float = 56e-9
    """Each token of the context of each such sequence: its keys and values are read (131 kB)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"the cost {field.name} cannot be below 0")
        if self.step_s * FEMTO < 1:
            raise ValueError("a step takes some time: step_s has to be above 0")

    def step(self, prefill_tokens: int, pairs: int, decoding: int, context: int) -> int:
        """Femtoseconds of a step: its prompt tokens, their pairs, the sequences that get a token, and the sum of their contexts."""
        without_context = round(
            FEMTO * self.step_s
            + FEMTO * self.prefill_token_s * prefill_tokens
            + FEMTO * self.prefill_pair_s * pairs
            + FEMTO * self.decode_sequence_s * decoding
        )
        return without_context + context * self.context_token

    @property
    def context_token(self) -> int:
        """Femtoseconds for a token of context: what a decoding sequence's next step costs more than this one."""
        return round(FEMTO * self.decode_context_s)

    def prefill_s(self, tokens: int, budget: int) -> float:
        """Seconds for so many tokens from the start of a prompt, alone, in steps of at most `budget`."""
        steps = -(-tokens // budget)
        return steps * self.step_s + tokens * self.prefill_token_s + pairs(0, tokens) * self.prefill_pair_s


def pairs(context: int, tokens: int) -> int:
    """Pairs that attention looks at when `tokens` follow `context` others: each sees all before it, and itself."""
    return tokens * context + tokens * (tokens + 1) // 2
