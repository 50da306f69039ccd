"""What the embedded store did lately: one bounded ring of batches that every watch reads from, each at its own place."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable

from nebula_core.errors import Compacted
from nebula_core.interfaces import Batch


class History:
    """The newest batches, oldest first.

    A watch holds a position here and no queue of its own. So a slow watch costs no memory: once the ring has moved past it, it
    is told to list again. The newest batch is kept whatever its size, or a large transaction could reach nobody.
    """

    def __init__(self, start: int, max_events: int, max_bytes: int) -> None:
        self._batches: deque[Batch] = deque()
        self._first = 0
        self._forgotten = start
        self._events = 0
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes

    def append(self, batch: Batch) -> None:
        """Add the newest batch and forget the oldest ones that no longer fit."""
        self._batches.append(batch)
        self._events += len(batch.events)
        self._bytes += _size(batch)
        while len(self._batches) > 1 and (self._events > self._max_events or self._bytes > self._max_bytes):
            oldest = self._batches.popleft()
            self._first += 1
            self._forgotten = oldest.revision
            self._events -= len(oldest.events)
            self._bytes -= _size(oldest)

    def position(self, after: int) -> int:
        """The place of the first batch after revision `after`. Raises `Compacted` if some since then are forgotten."""
        if after < self._forgotten:
            raise Compacted(f"changes since revision {after} are no longer kept, only those since {self._forgotten}; list again")
        return self._first + bisect_right(self._batches, after, key=lambda batch: batch.revision)

    def read(self, position: int) -> Batch | None:
        """The batch at a place, `None` while there is none yet. Raises `Compacted` if it is forgotten."""
        if position < self._first:
            raise Compacted(f"a watch fell behind: changes up to revision {self._forgotten} are no longer kept; list again")
        index = position - self._first
        return self._batches[index] if index < len(self._batches) else None


class Watch:
    """Reads the history under `prefix` after revision `after`, waiting for more at its end until `woken` is set.

    A wait that is cancelled loses nothing: the next one goes on where it was. `check_open` raises once the store is closed.
    """

    def __init__(self, history: History, prefix: str, after: int, check_open: Callable[[], None]) -> None:
        self.woken = asyncio.Event()
        self._history = history
        self._prefix = prefix
        self._after = after
        self._check_open = check_open
        self._position: int | None = None

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Batch:
        while True:
            self._check_open()
            self.woken.clear()
            if batch := self._next():
                return batch
            await self.woken.wait()

    def _next(self) -> Batch | None:
        if self._position is None:
            self._position = self._history.position(self._after)
        while (batch := self._history.read(self._position)) is not None:
            self._position += 1
            if events := tuple(event for event in batch.events if event.key.startswith(self._prefix)):
                return Batch(batch.revision, events)
        return None


def _size(batch: Batch) -> int:
    return sum(len(event.key) + (len(event.entry.value) if event.entry else 0) for event in batch.events)
