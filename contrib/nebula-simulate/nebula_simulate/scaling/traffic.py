"""What a gateway measures of a model's traffic: arrivals and first tokens over half a minute."""

from __future__ import annotations

from collections import deque

WINDOW_S = 30.0
SHARE = 0.99


class Traffic:
    """Times never go back."""

    def __init__(self) -> None:
        self._came: deque[float] = deque()
        self._first: deque[tuple[float, float]] = deque()

    def arrived(self, now: float) -> None:
        """A request has come."""
        self._came.append(now)

    def began(self, now: float, ttft_s: float) -> None:
        """An answer has begun."""
        self._first.append((now, ttft_s))

    def measured(self, now: float) -> tuple[float, float | None]:
        """Requests per second, and the time that 99 of 100 first tokens stayed below, if there were any."""
        while self._came and self._came[0] < now - WINDOW_S:
            self._came.popleft()
        while self._first and self._first[0][0] < now - WINDOW_S:
            self._first.popleft()
        times = sorted(ttft_s for _, ttft_s in self._first)
        late = times[min(len(times) - 1, int(SHARE * len(times)))] if times else None
        return len(self._came) / min(WINDOW_S, max(1.0, now)), late
