"""`Window`: what a value was over the last seconds, as a few numbers of plain data that may lie in the store."""

from __future__ import annotations

import msgspec

PARTS = 10


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What was seen in a tenth of the span, from `since` on. It is written as a list, for many of them are kept."""

    since: float
    count: int
    total: float
    least: float
    most: float


class Window(msgspec.Struct, frozen=True):
    """A value over the last `span_s` seconds, in steps of a tenth of it: its size does not grow with the number of samples.

    Times are seconds of any clock that does not go back; what comes earlier than the newest part is counted into that one.
    """

    span_s: float
    parts: tuple[Part, ...] = ()
    """Oldest first; at most eleven."""

    def add(self, value: float, now: float) -> Window:
        """With a sample more, and without what is older than the span."""
        kept = self._within(now, self.span_s)
        last = kept[-1] if kept else None
        if last is not None and now < last.since + self.span_s / PARTS:
            grown = Part(last.since, last.count + 1, last.total + value, min(last.least, value), max(last.most, value))
            return Window(self.span_s, (*kept[:-1], grown))
        return Window(self.span_s, (*kept, Part(now, 1, value, value, value)))

    def mean(self, now: float, last_s: float | None = None) -> float | None:
        """Of the samples of the last `last_s` seconds, or of the whole span; `None`: there are none."""
        parts = self._within(now, self.span_s if last_s is None else last_s)
        count = sum(part.count for part in parts)
        return sum(part.total for part in parts) / count if count else None

    def least(self, now: float) -> float | None:
        """The smallest sample; `None`: there are none."""
        return min((part.least for part in self._within(now, self.span_s)), default=None)

    def most(self, now: float) -> float | None:
        """The largest sample; `None`: there are none."""
        return max((part.most for part in self._within(now, self.span_s)), default=None)

    def covered_s(self, now: float) -> float:
        """How long ago the oldest sample in it was taken, the span at most."""
        parts = self._within(now, self.span_s)
        return min(self.span_s, now - parts[0].since) if parts else 0.0

    def full(self, now: float) -> bool:
        """Whether it was begun a whole span ago."""
        return self.covered_s(now) >= self.span_s

    def _within(self, now: float, last_s: float) -> tuple[Part, ...]:
        """The parts that reach into the last seconds."""
        return tuple(part for part in self.parts if part.since + self.span_s / PARTS > now - last_s)
