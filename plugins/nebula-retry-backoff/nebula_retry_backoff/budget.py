"""How many retries a model's requests may cause, so that a fleet that is overloaded is not loaded more for saying so."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Budget(NamedTuple):
    """Retries allowed in every stretch of `window_s` seconds: a share of the requests, or so many a second if that is more.

    A budget as a share of requests, 10 %, is from "Site Reliability Engineering" (O'Reilly 2016), chapter 21, "Handling Overload";
    that it never falls below so many a second, for models that are seldom asked, and the window of 10 s are from Finagle's
    `RetryBudget`.
    """

    share: float
    per_s: float
    window_s: float

    def allowed(self, requests: float, seconds: float) -> float:
        """Retries in a window, by the rate of `requests` in `seconds`."""
        return max(self.share * requests / max(seconds, self.window_s), self.per_s) * self.window_s


class Look(NamedTuple):
    """What was known when a retry was granted."""

    at: float
    requests: int


class Spending:
    """The retries of one model, by this gateway worker. Asked only when something failed: requests that succeed cost nothing."""

    def __init__(self, budget: Budget, since: float) -> None:
        self._budget = budget
        self._last_before = Look(since, 0)
        """The last look that the window has left behind: the rate of requests is taken from there."""
        self._granted: deque[Look] = deque()
        """The retries in the window."""

    def take(self, requests: int, now: float) -> bool:
        """Whether there is one more retry; it is taken. `requests` counts the model's since the start, `now` is monotonic seconds."""
        while self._granted and self._granted[0].at <= now - self._budget.window_s:
            self._last_before = self._granted.popleft()
        at, before = self._last_before
        if len(self._granted) + 1 > self._budget.allowed(requests - before, now - at):
            return False
        self._granted.append(Look(now, requests))
        return True
