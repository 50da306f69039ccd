"""`KvCache`: a bounded number of KV blocks, shared by prefix, counted by reference, forgotten in LRU order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class KvCache:
    """Every block is in exactly one state: empty, idle (full and findable, but nobody uses it), shared (findable and in use by one or
    more sequences), or private (in use by one sequence, and not to be found: not full yet, without a hash, or the copy of another).
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.shared: dict[int, int] = {}
        """Hash → how many sequences use it."""
        self.idle: OrderedDict[int, None] = OrderedDict()
        """Hashes, the next to be forgotten first."""
        self.private = 0

    @property
    def used(self) -> int:
        """Blocks that sequences use."""
        return len(self.shared) + self.private

    @property
    def available(self) -> int:
        """Blocks that can be had: the empty ones, and the idle ones if they are forgotten."""
        return self.capacity - self.used

    def __contains__(self, block: int) -> bool:
        return block in self.shared or block in self.idle

    def match(self, blocks: Sequence[int]) -> int:
        """How many of these blocks, from the first on, are held without a gap."""
        return next((place for place, block in enumerate(blocks) if block not in self), len(blocks))

    def fits(self, found: Sequence[int], more: int) -> bool:
        """Whether `found` can be used and `more` private blocks be had besides."""
        return sum(block in self.idle for block in found) + more <= self.available

    def use(self, found: Iterable[int]) -> None:
        """Use findable blocks; each is released once for every use."""
        for block in found:
            if block in self.idle:
                del self.idle[block]
            self.shared[block] = self.shared.get(block, 0) + 1

    def allocate(self, count: int) -> None:
        """Take private blocks, empty ones first, then those unused for longest. The caller has made sure that they are available."""
        if count > self.available:
            raise RuntimeError(f"{count} KV blocks are wanted and {self.available} are there")
        self.private += count
        while self.used + len(self.idle) > self.capacity:
            self.idle.popitem(last=False)

    def publish(self, block: int) -> bool:
        """Make a private block findable now that it is full. False if its like is findable already: then it stays private."""
        if block in self:
            return False
        self.private -= 1
        self.shared[block] = 1
        return True

    def release(self, shared: Sequence[int], private: int) -> None:
        """Give up a sequence's blocks; the end of a prompt will be forgotten before its start."""
        self.private -= private
        for block in reversed(shared):
            left = self.shared[block] - 1
            if left:
                self.shared[block] = left
            else:
                del self.shared[block]
                self.idle[block] = None
