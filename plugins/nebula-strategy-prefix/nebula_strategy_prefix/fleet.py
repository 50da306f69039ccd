"""`Fleet`: what the strategy believes of one model: its replicas, what they hold, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from nebula_core import Candidate, EndpointStats, PrefixBlocks
from nebula_strategy_prefix.demand import Demand
from nebula_strategy_prefix.index import PrefixIndex
from nebula_strategy_prefix.replica import Replica
from nebula_strategy_prefix.settings import PrefixSettings
from nebula_strategy_prefix.speed import Speed

FEW = 8
"""With so many slots it takes longer to find out what most hold than to go through all."""
TYPICAL_TOKENS = 1_000
"""Work of a request before any was seen."""


class Fleet:
    """The replicas of one model, by id. One that is met with a newer incarnation starts anew, with an empty cache."""

    def __init__(self, settings: PrefixSettings) -> None:
        self.index = PrefixIndex()
        self.demand = Demand()
        self.speed = Speed(settings.prefill_tokens_per_s * settings.bytes_per_token, TYPICAL_TOKENS * settings.bytes_per_token)
        self.replicas: dict[str, Replica] = {}
        self.turn = 0
        """Counts the prompts that are too short to have a home: equals take turns at them."""
        self._settings = settings
        self._seen: Sequence[Candidate] = ()
        self._replicas: list[Replica] = []

    def of(self, candidates: Sequence[Candidate]) -> list[Replica]:
        """The candidates' replicas in their order. The table hands out the same list until membership changes."""
        if candidates is not self._seen:
            self._replicas = [self.replica(c.route.replica_id, c.route.incarnation) for c in candidates]
            for replica, candidate in zip(self._replicas, candidates, strict=True):
                self.note(replica, candidate.stats)
            self._seen = candidates
        return self._replicas

    def replica(self, replica_id: str, incarnation: int) -> Replica:
        """The replica in this incarnation, or in a later one that was met already."""
        known = self.replicas.get(replica_id)
        if known is not None and known.incarnation >= incarnation:
            return known
        if known is not None:
            self.remove(replica_id)
        budget = self._budget(self._settings.kv_capacity_tokens)
        replica = Replica(replica_id, incarnation, self.index.add(), budget, self.speed)
        self.replicas[replica_id] = replica
        return replica

    def remove(self, replica_id: str) -> None:
        """A replica is gone."""
        replica = self.replicas.pop(replica_id)
        self.index.remove(replica.slot)
        self._seen = ()

    def note(self, replica: Replica, stats: EndpointStats) -> None:
        """Take over a sample of its engine's metrics, and the size of its KV cache if that is reported."""
        replica.note(stats, self._budget(stats.kv_capacity_tokens) if stats.kv_capacity_tokens else replica.room.budget)

    def uncached(self, found: Sequence[tuple[int, int]], blocks: PrefixBlocks) -> tuple[list[int], list[float]]:
        """What each slot would have to compute, in bytes and in seconds of a usual replica, from what `PrefixIndex.match` found."""
        total, sizes, slots = blocks.total, blocks.sizes, self.index.slots
        usual = found[0][0] if len(found) == 1 or slots <= FEW else max(found, key=_holders)[0]
        left = total - sum(sizes[:usual]) if usual else total
        work, takes = [left] * slots, [self.speed.takes_s(left, total)] * slots
        if len(found) == 1:
            return work, takes
        for depth, mask in found:
            if depth != usual:
                left = total - sum(sizes[:depth])
                seconds = self.speed.takes_s(left, total)
                while mask:
                    lowest = mask & -mask
                    slot = lowest.bit_length() - 1
                    work[slot], takes[slot] = left, seconds
                    mask ^= lowest
        return work, takes

    def _budget(self, tokens: int) -> int:
        return int(tokens * self._settings.bytes_per_token)


def _holders(pair: tuple[int, int]) -> int:
    """How many slots are in the mask."""
    return pair[1].bit_count()
