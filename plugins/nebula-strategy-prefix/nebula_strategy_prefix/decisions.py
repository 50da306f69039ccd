"""`Decisions`: the last choices, each with what every candidate would have cost, for an operator who asks why."""

from __future__ import annotations

from collections import deque

import msgspec

from nebula_strategy_prefix.replica import Costs


class Term(msgspec.Struct, frozen=True):
    """What one candidate would have cost."""

    replica_id: str
    cached_bytes: int
    """Bytes of the prompt that it was believed to hold."""
    uncached_bytes: int
    wait_s: float
    """Expected seconds until the request's turn."""
    prefill_s: float
    """Expected seconds to compute what it does not hold."""
    delay_s: float
    """What that work was expected to cost those who come later, in seconds; not part of this request's own time."""
    load: float
    """Requests on it, waiting or running."""


class Explanation(msgspec.Struct, frozen=True):
    """One choice. `wait_s + prefill_s` of the picked candidate is its predicted time to first token."""

    request_id: str
    model_uid: str
    at: float
    """Monotonic seconds of the worker that chose."""
    picked: str
    """The `replica_id` that was chosen."""
    reason: str
    total_bytes: int
    candidates: tuple[Term, ...]
    """The cheapest first."""


class Decision(msgspec.Struct, gc=False):
    """A choice as it is kept: the lists it was made from, by position, and nothing computed for it until somebody asks."""

    request_id: str
    model_uid: str
    at: float
    picked: int
    reason: str
    total: int
    members: tuple[tuple[str, int], ...]
    """Id and slot of each candidate; shared by the choices among the same ones."""
    work: list[int]
    """Uncached bytes, by slot."""
    costs: Costs
    delayed_per_s: float

    def explain(self) -> Explanation:
        """The choice in full."""
        terms = sorted(map(self._term, range(len(self.members))), key=lambda term: term.wait_s + term.prefill_s + term.delay_s)
        picked, _ = self.members[self.picked]
        return Explanation(self.request_id, self.model_uid, self.at, picked, self.reason, self.total, candidates=tuple(terms))

    def _term(self, i: int) -> Term:
        (name, slot), costs = self.members[i], self.costs
        uncached, wait_s, prefill_s = self.work[slot], costs.waits[i], costs.prefills[i]
        delay_s = prefill_s * self.delayed_per_s * (wait_s + prefill_s)
        return Term(name, self.total - uncached, uncached, wait_s, prefill_s, delay_s, costs.loads[i])


class Decisions:
    """The last `most` choices of this worker."""

    def __init__(self, most: int) -> None:
        self._last: deque[Decision] = deque(maxlen=most)
        self.add = self._last.append
        """Keep one, and forget the oldest."""

    def explain(self, request_id: str) -> list[Explanation]:
        """All choices that were made for a request, the first one first: a retry is a choice of its own."""
        return [decision.explain() for decision in self._last if decision.request_id == request_id]
