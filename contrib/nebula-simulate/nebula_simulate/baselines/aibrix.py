"""`aibrix`: the `prefix-cache` policy of AIBrix's gateway (`prefix_cache.go`, `prefixcacheindexer/hash.go`), as documented.

    if max in flight - min in flight > 16: only the replicas with the fewest
    of those that hold a part of the prompt, the longest part first, then the fewest in flight:
        the first one whose in flight <= mean + 2 × standard deviation over all replicas
    none of them: the fewest in flight, by lot among equals
    and all of the prompt's blocks are noted for whichever was taken

The numbers are the Helm chart's, as are blocks of 128 bytes. The table holds 200,000 of them; each is forgotten 20 minutes after it was
last noted, or when the table is full and it is the one noted longest ago. Longer blocks of a trace weigh as many of them as they have
bytes for. The deviation is that of a sample.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from statistics import mean, stdev

from nebula_core import Candidate, Pick, PrefixBlocks, RouteEvent, RouteRequest, Strategy
from nebula_simulate.scene import Scene

IMBALANCE = 16
DEVIATIONS = 2.0
BLOCK_BYTES = 128
TABLE_BLOCKS = 200_000
EXPIRY_S = 20 * 60.0


class Aibrix(Strategy):
    """The longest match among those who are not too busy."""

    def __init__(self, scene: Scene) -> None:
        self._clock, self._rng = scene.clock, scene.rng
        self._table: OrderedDict[int, dict[str, float]] = OrderedDict()
        """Block → when it was last noted for which replica; the block noted longest ago first."""
        self._sizes: dict[int, int] = {}
        self._bytes = 0

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """By the rule above."""
        self._expire()
        loads = [candidate.load for candidate in candidates]
        allowed = candidates
        if max(loads) - min(loads) > IMBALANCE:
            allowed = [candidate for candidate in candidates if candidate.load == min(loads)]
        limit = mean(loads) + DEVIATIONS * (stdev(loads) if len(loads) > 1 else 0.0)
        matched = self._match(request.blocks(), [candidate.route.replica_id for candidate in allowed])
        holders = [candidate for candidate in allowed if candidate.route.replica_id in matched]
        for candidate in sorted(holders, key=lambda one: (-matched[one.route.replica_id], one.load)):
            if candidate.load <= limit:
                return Pick(candidate, "aibrix_matched")
        least = min(candidate.load for candidate in allowed)
        return Pick(self._rng.choice([candidate for candidate in allowed if candidate.load == least]), "aibrix_least")

    def observe(self, event: RouteEvent) -> None:
        """Note the prompt's blocks for the replica that was taken."""
        if event.kind != "charged" or event.prefix_blocks is None:
            return
        now = self._clock()
        for block, size in zip(event.prefix_blocks.hashes, event.prefix_blocks.sizes, strict=True):
            if block not in self._table:
                self._table[block] = {}
                self._sizes[block] = size
                self._bytes += size
            self._table[block][event.replica_id] = now
            self._table.move_to_end(block)
        while self._bytes > TABLE_BLOCKS * BLOCK_BYTES:
            self._forget()

    def _match(self, blocks: PrefixBlocks, replicas: Sequence[str]) -> dict[str, int]:
        """How many leading blocks each replica holds, if any."""
        matched: dict[str, int] = {}
        holding, valid = set(replicas), self._clock() - EXPIRY_S
        for depth, block in enumerate(blocks.hashes, 1):
            noted = self._table.get(block, {})
            holding = {replica for replica in holding if noted.get(replica, valid) > valid}
            if not holding:
                break
            matched.update(dict.fromkeys(holding, depth))
        return matched

    def _expire(self) -> None:
        valid = self._clock() - EXPIRY_S
        while self._table and max(next(iter(self._table.values())).values()) <= valid:
            self._forget()

    def _forget(self) -> None:
        block, _ = self._table.popitem(last=False)
        self._bytes -= self._sizes.pop(block)
