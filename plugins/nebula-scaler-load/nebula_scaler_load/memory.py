"""What the policy remembers of a model: five windows of plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from nebula_core import Window
from nebula_scaler_load.reading import Reading


class Memory(msgspec.Struct, frozen=True):
    """Windows of two spans. The long ones are begun anew with every change of replicas, and whenever a replica does not tell its load."""

    caches: Window
    """KV caches in use, over the short span."""
    queue: Window
    """Requests waiting, over the short span."""
    most_caches: Window
    """KV caches in use, over the long span."""
    waiting: Window
    """Requests waiting, over the long span."""
    requests: Window
    """0 where there was certainly no request at all, else 1, over the long span."""
    wanted: int

    @classmethod
    def fresh(cls, up_window_s: float, down_window_s: float, wanted: int) -> Memory:
        """Nothing was seen yet."""
        short, long = Window(up_window_s), Window(down_window_s)
        return cls(short, short, long, long, long, wanted)

    @classmethod
    def recall(cls, memory: Mapping[str, Any], fresh: Memory) -> Memory:
        """What was remembered; `fresh` if that was by another version, or over other spans."""
        try:
            kept = msgspec.convert(memory, cls)
        except msgspec.ValidationError:
            return fresh
        spans = [(window.span_s, new.span_s) for window, new in zip(kept.windows, fresh.windows, strict=True)]
        return kept if all(old == new for old, new in spans) else fresh

    @property
    def windows(self) -> tuple[Window, ...]:
        """All of them."""
        return self.caches, self.queue, self.most_caches, self.waiting, self.requests

    def add(self, reading: Reading, fresh: Memory, now: float) -> Memory:
        """With this reading, as far as it is known."""
        calm = self if reading.is_whole and self.wanted == fresh.wanted else fresh
        most_caches, waiting, requests = calm.most_caches, calm.waiting, calm.requests
        if reading.is_whole and reading.caches is not None and reading.pending is not None:
            most_caches, waiting = most_caches.add(reading.caches, now), waiting.add(reading.pending, now)
            requests = requests.add(float(not reading.is_idle), now)
        return Memory(
            caches=self.caches if reading.caches is None else self.caches.add(reading.caches, now),
            queue=self.queue if reading.pending is None else self.queue.add(reading.pending, now),
            most_caches=most_caches,
            waiting=waiting,
            requests=requests,
            wanted=fresh.wanted,
        )
