"""`Counters`: what the strategy tells of its choices, as metrics."""

from __future__ import annotations

from functools import cache

from nebula_core import Context

RATIOS = (0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
SHORTEST_S = 0.001
"""A shorter time counts as this in a ratio."""


class Counters:
    """Choices by reason, bytes believed to be cached, and how first tokens came compared with what was predicted."""

    def __init__(self, context: Context) -> None:
        metrics = context.metrics
        decisions = metrics.counter(
            "nebula_strategy_prefix_decision_total",
            "Choices: the replica holding most of the prompt (prefix_hit), another (prefix_spill), nobody held any (prefix_new), "
            "too short to be looked for (prefix_short).",
            ("reason",),
        )
        self._decisions = cache(decisions.labels)
        self._prompt = metrics.counter("nebula_strategy_prefix_prompt_bytes_total", "Bytes of all prompts.").labels()
        self._cached = metrics.counter(
            "nebula_strategy_prefix_cached_bytes_total", "Bytes of prompts that the chosen replica was believed to hold."
        ).labels()
        self._predicted = metrics.counter(
            "nebula_strategy_prefix_predicted_first_token_seconds_total", "Predicted time to first token, summed over answered requests."
        ).labels()
        self._actual = metrics.counter(
            "nebula_strategy_prefix_actual_first_token_seconds_total", "Actual time to first token of the same requests."
        ).labels()
        self._ratio = metrics.histogram(
            "nebula_strategy_prefix_first_token_ratio", "Actual time to first token divided by the predicted one.", RATIOS
        ).labels()

    def decided(self, reason: str, total: int, uncached: int) -> None:
        """A choice was made."""
        self._decisions(reason).value += 1
        self._prompt.value += total
        self._cached.value += total - uncached

    def answered(self, predicted_s: float, actual_s: float) -> None:
        """A request of which this worker chose the replica has its first token."""
        self._predicted.value += predicted_s
        self._actual.value += actual_s
        self._ratio.observe(max(actual_s, SHORTEST_S) / max(predicted_s, SHORTEST_S))
