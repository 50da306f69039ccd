"""What waits at this gateway's workers for models without a ready replica: the call that wakes a model at zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

REFUSED_S = 3.0
"""A refused request counts as waiting for so long: its client comes again, and the scheduler must hear of it."""


class Awaited:
    """Requests held per worker and model, and those refused lately. Workers are named by any hashable key, times are monotonic."""

    def __init__(self) -> None:
        self._held: dict[object, dict[str, int]] = {}
        self._refused: list[tuple[float, str, int]] = []

    def report(self, worker: object, models: Iterable[tuple[str, int, int]], now: float) -> None:
        """Take over what a worker holds, `(model_uid, held, refused since its last word)` each; other models stay as they were."""
        held = self._held.setdefault(worker, {})
        for model_uid, count, refused in models:
            held[model_uid] = count
            if refused:
                self._refused.append((now, model_uid, refused))
        self._forget_refused(now)

    def forget(self, worker: object) -> None:
        """The worker is gone, and its clients with it."""
        self._held.pop(worker, None)

    def total(self, now: float) -> Counter[str]:
        """Requests that wait, per model, over all workers."""
        self._forget_refused(now)
        total = Counter[str]()
        for held in self._held.values():
            total.update(held)
        for _, model_uid, count in self._refused:
            total[model_uid] += count
        return +total

    def _forget_refused(self, now: float) -> None:
        self._refused = [each for each in self._refused if now - each[0] < REFUSED_S]
