"""`Plan`: what a step computes and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from nebula_engine_sim.cost import pairs
from nebula_engine_sim.sequence import Sequence


@dataclass(slots=True)
class Work:
    """Prompt tokens to compute, and the pairs that attention looks at for them."""

    tokens: int = 0
    pairs: int = 0

    def add(self, computed: int, known: int) -> None:
        """The tokens from `computed` up to `known` of one prompt."""
        self.tokens += known - computed
        self.pairs += pairs(computed, known - computed)


@dataclass(slots=True)
class Plan:
    """A step, and how often it can be repeated with nothing else happening. Times are femtoseconds."""

    decoding: list[Sequence]
    prefilling: list[Sequence] = field(default_factory=list)
    """Those of which it computes a piece of the prompt."""
    admitted: list[Sequence] = field(default_factory=list)
    """Those of them that were waiting before."""
    preempted: list[Sequence] = field(default_factory=list)
    first: int = 0
    """How long it takes."""
    longer: int = 0
    """By how much each repetition takes longer than the one before."""
    repeat: int = 1

    def lasts(self, steps: int) -> int:
        """How long so many of them take: an arithmetic series."""
        return steps * self.first + self.longer * (steps * (steps - 1) // 2)
