"""`PrefixIndex`: which replica holds which blocks of which prompts, as far as can be told from what was sent where."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence


class Cache:
    """A model of one engine's KV cache."""

    __slots__ = ("blocks", "used")

    def __init__(self) -> None:
        self.blocks: OrderedDict[int, int] = OrderedDict()
        """Its blocks with their bytes, the least recently used first."""
        self.used = 0
        """Bytes in all blocks."""


class PrefixIndex:
    """The caches of one model's replicas. Each replica has a slot, a small number; block → replicas is a bit mask over slots.

    Engines free the end of a chain before its start, so a chain is touched from its end to its start. That way what a cache holds of
    a chain is its beginning, and a walk from the start may stop at the first block that is missing.
    """

    def __init__(self) -> None:
        self.slots = 0
        """Slots given out so far, those free again among them."""
        self.forgotten = 0
        """How often blocks were taken back, from any replica."""
        self._holders: dict[int, int] = {}
        self._caches: dict[int, Cache] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._holders)

    def add(self) -> int:
        """A slot for a replica whose cache is empty."""
        if not self._free:
            self._free.append(self.slots)
            self.slots += 1
        slot = self._free.pop()
        self._caches[slot] = Cache()
        return slot

    def remove(self, slot: int) -> None:
        """Forget a replica."""
        for block in self._caches.pop(slot).blocks:
            self._drop(slot, block)
        self._free.append(slot)

    def cache(self, slot: int) -> Cache:
        """What a replica holds."""
        return self._caches[slot]

    def match(self, hashes: Sequence[int]) -> list[tuple[int, int]]:
        """How many leading blocks replicas hold: pairs of a count, ascending, and the mask of the slots with just that many."""
        alive, holders, found = (1 << self.slots) - 1, self._holders, []
        for depth, block in enumerate(hashes):
            held = alive & holders.get(block, 0)
            if held != alive:
                found.append((depth, alive ^ held))
                if not held:
                    return found
                alive = held
        found.append((len(hashes), alive))
        return found

    def depth(self, slot: int, hashes: Sequence[int]) -> int:
        """How many leading blocks one replica holds."""
        blocks = self._caches[slot].blocks
        for depth, block in enumerate(hashes):
            if block not in blocks:
                return depth
        return len(hashes)

    def holds(self, slot: int, block: int) -> bool:
        """Whether a replica holds a block."""
        return block in self._caches[slot].blocks

    def touch(self, slot: int, hashes: Sequence[int], sizes: Sequence[int], budget: int, most: int, depth: int = 0) -> None:
        """A replica uses these blocks: they are its newest, and it keeps at most `budget` bytes in at most `most` blocks.

        It is known to hold the first `depth` of them.
        """
        cache, holders, bit = self._caches[slot], self._holders, 1 << slot
        blocks = cache.blocks
        for block, size in zip(reversed(hashes[depth:]), reversed(sizes[depth:]), strict=True):
            if block in blocks:
                blocks.move_to_end(block)
            else:
                blocks[block] = size
                cache.used += size
                holders[block] = holders.get(block, 0) | bit
        if depth:  # a loop in C takes half the time of the one above
            deque(map(blocks.move_to_end, reversed(hashes[:depth])), maxlen=0)
        while cache.used > budget or len(blocks) > most:
            block, size = blocks.popitem(last=False)
            cache.used -= size
            if left := holders[block] ^ bit:
                holders[block] = left
            else:
                del holders[block]

    def forget(self, slot: int, hashes: Sequence[int]) -> None:
        """A replica does not hold these blocks."""
        self.forgotten += 1
        cache = self._caches[slot]
        for block in hashes:
            size = cache.blocks.pop(block, None)
            if size is not None:
                cache.used -= size
                self._drop(slot, block)

    def _drop(self, slot: int, block: int) -> None:
        left = self._holders[block] & ~(1 << slot)
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
