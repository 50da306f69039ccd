"""What came of one simulation, and the figures made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

QUANTILES = (50, 90, 99)


@dataclass
class Outcome:
    """One replay under one seed."""

    ttft_s: list[float] = field(default_factory=list)
    """Of each request that was answered."""
    e2e_s: list[float] = field(default_factory=list)
    """Of the same requests in the same order."""
    refused: int = 0
    """Requests that no engine could hold, and that were left out."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed: list[int] = field(default_factory=list)
    """Prompt tokens that each replica computed."""
    preemptions: int = 0
    fallbacks: int = 0
    """Decisions that the strategy left to the fallback."""
    until_s: float = 0.0
    """Virtual seconds until the last answer."""
    took_s: float = 0.0
    """Seconds that the simulation took."""

    def figures(self, slo_ttft_s: float) -> dict[str, float]:
        """Everything that is reported, by name; rates are 0–1. Of what was left out only `refused` and `served` tell."""
        good = sum(ttft <= slo_ttft_s for ttft in self.ttft_s)
        return {
            "requests": len(self.ttft_s),
            "token_hit_rate": self.cached_tokens / max(1, self.prompt_tokens),
            "imbalance": imbalance(self.computed),
            "ttft_mean_s": sum(self.ttft_s) / max(1, len(self.ttft_s)),
            **{f"ttft_p{q}_s": value for q, value in zip(QUANTILES, quantiles(self.ttft_s), strict=True)},
            **{f"e2e_p{q}_s": value for q, value in zip(QUANTILES, quantiles(self.e2e_s), strict=True)},
            "slo_met": good / max(1, len(self.ttft_s)),
            "goodput_rps": good / self.until_s if self.until_s else 0.0,
            "refused": self.refused,
            "served": len(self.ttft_s) / max(1, len(self.ttft_s) + self.refused),
            "preemptions": self.preemptions,
            "fallbacks": self.fallbacks,
            "took_s": self.took_s,
        }


def quantiles(values: Sequence[float]) -> list[float]:
    """The values at `QUANTILES` per cent of the sorted ones (nearest rank); zeros if there are none."""
    if not values:
        return [0.0] * len(QUANTILES)
    ordered = sorted(values)
    return [ordered[max(0, -(-len(ordered) * q // 100) - 1)] for q in QUANTILES]


def imbalance(work: Sequence[float]) -> float:
    """The busiest replica's share as a multiple of the mean: 1 is even, the number of replicas is the worst."""
    total = sum(work)
    return max(work) * len(work) / total if total else 1.0
