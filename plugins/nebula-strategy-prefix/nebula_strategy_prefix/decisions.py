"""`Decisions`: the last choices, each with what every candidate would have cost: for its charge, and for an operator who asks why."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from nebula_core import Considered, Explanation
from nebula_strategy_prefix.replica import Replica

MOST_EXPLAINED = 8
"""Choices that are explained of one request id, the last ones: clients may give every request the same id."""
WHY = {
    "prefix_hit": "among those of the least cost it holds the most of the prompt",
    "prefix_spill": "it is among those of the least cost (3 % and 10 ms are no difference), and of these it has the fewest requests; "
    "another holds more of the prompt, and costs more, has more requests, or was tried before",
    "prefix_new": "it is among those of the least cost, and no replica holds any of the prompt",
    "prefix_short": "it is among those of the least cost; a prompt of less than 256 bytes is not looked for in caches",
}


class Decision(msgspec.Struct, gc=False):
    """A choice as it is kept: the lists it was made from, and nothing computed for it until somebody asks."""

    request_id: str
    model_uid: str
    at: float
    picked: int
    """Position of the choice among the candidates."""
    replica: Replica
    """The choice."""
    reason: str
    total: int
    depth: int
    """Leading blocks that the choice holds."""
    replicas: Sequence[Replica]
    """The candidates; shared by the choices among the same ones."""
    work: list[int]
    """Uncached bytes, by slot."""
    takes: list[float]
    """Seconds for them on a usual replica, by slot."""
    waits: list[float]
    slower: list[float]
    loads: list[float]
    """As `weigh` has found them, by position."""
    delayed_per_s: float

    def explain(self) -> Explanation:
        """The choice in full."""
        terms = sorted(map(self._term, range(len(self.replicas))), key=lambda term: term.figures["cost_s"])
        return Explanation(
            request_id=self.request_id,
            model_uid=self.model_uid,
            at=self.at,
            picked=self.replica.replica_id,
            reason=self.reason,
            why=WHY[self.reason],
            figures={"prompt_bytes": self.total, "expected_first_token_s": self.waits[self.picked] + self._prefill_s(self.picked)},
            candidates=tuple(terms),
        )

    def _prefill_s(self, i: int) -> float:
        return self.takes[self.replicas[i].slot] * self.slower[i]

    def _term(self, i: int) -> Considered:
        """What one candidate would have cost; `delay_s` is what its work would have cost those who come later."""
        replica, wait_s, prefill_s = self.replicas[i], self.waits[i], self._prefill_s(i)
        uncached = self.work[replica.slot]
        delay_s = prefill_s * self.delayed_per_s * (wait_s + prefill_s)
        figures = {
            "cost_s": wait_s + prefill_s + delay_s,
            "wait_s": wait_s,
            "prefill_s": prefill_s,
            "delay_s": delay_s,
            "cached_bytes": self.total - uncached,
            "uncached_bytes": uncached,
            "load": self.loads[i],
        }
        return Considered(replica.replica_id, figures)


class Decisions:
    """The last `most` choices of this worker."""

    def __init__(self, most: int) -> None:
        self._last: deque[Decision] = deque(maxlen=most)
        self.add = self._last.append
        """Keep one, and forget the oldest."""

    def explain(self, request_id: str) -> list[Explanation]:
        """The choices that were made for a request, the first one first: a retry is a choice of its own."""
        found = [decision for decision in self._last if decision.request_id == request_id]
        return [decision.explain() for decision in found[-MOST_EXPLAINED:]]
