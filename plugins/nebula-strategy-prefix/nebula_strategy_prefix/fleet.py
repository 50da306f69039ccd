"""`Fleet`: what the strategy believes of one model: its replicas, what they hold, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from nebula_core import Candidate, EndpointStats, PrefixBlocks
from nebula_strategy_prefix.beginners import Beginners
from nebula_strategy_prefix.curve import Curve
from nebula_strategy_prefix.demand import Demand
from nebula_strategy_prefix.index import PrefixIndex
from nebula_strategy_prefix.pace import Pace
from nebula_strategy_prefix.replica import Replica
from nebula_strategy_prefix.settings import PrefixSettings

FEW = 8
"""With so many slots it takes longer to find out what most hold than to go through all."""
TYPICAL_TOKENS = 1_000
"""Work of a request before any was seen."""


class Fleet:
    """The replicas of one model, by id. One that is met with a newer incarnation starts anew, with an empty cache."""

    def __init__(self, settings: PrefixSettings) -> None:
        self.index = PrefixIndex()
        self.demand = Demand()
        self.curve = Curve()
        self.replicas: dict[str, Replica] = {}
        self.members: tuple[tuple[str, int], ...] = ()
        """Id and slot of the candidates that `of` saw last."""
        self._settings = settings
        self.beginners = Beginners(self._pace())
        self._seen: Sequence[Candidate] = ()
        self._replicas: list[Replica] = []

    def of(self, candidates: Sequence[Candidate]) -> list[Replica]:
        """The candidates' replicas in their order. The table hands out the same list until membership changes."""
        if candidates is not self._seen:
            self._replicas = [self.replica(c.route.replica_id, c.route.incarnation) for c in candidates]
            for replica, candidate in zip(self._replicas, candidates, strict=True):
                self.note_capacity(replica, candidate.stats)
            self.members = tuple([(replica.replica_id, replica.slot) for replica in self._replicas])
            self._seen = candidates
        return self._replicas

    def replica(self, replica_id: str, incarnation: int) -> Replica:
        """The replica in this incarnation, or in a later one that was met already."""
        known = self.replicas.get(replica_id)
        if known is not None and known.incarnation >= incarnation:
            return known
        pace = self._pace()
        if known is not None:
            self.remove(replica_id)
        if not self.beginners.replicas:
            self.beginners.pace = self._pace()
        budget = self._budget(self._settings.kv_capacity_tokens)
        replica = Replica(replica_id, incarnation, self.index.add(), pace, budget, self.curve, self.beginners)
        self.replicas[replica_id] = replica
        return replica

    def remove(self, replica_id: str) -> None:
        """A replica is gone."""
        replica = self.replicas.pop(replica_id)
        self.index.remove(replica.slot)
        self.beginners.replicas.discard(replica)
        self._seen = ()

    def note_capacity(self, replica: Replica, stats: EndpointStats) -> None:
        """Take over the size of its KV cache, if its engine reports that."""
        replica.note(stats)
        if stats.kv_capacity_tokens:
            replica.budget = self._budget(stats.kv_capacity_tokens)

    def uncached(self, found: Sequence[tuple[int, int]], blocks: PrefixBlocks) -> tuple[list[int], list[float]]:
        """Bytes that each slot would have to compute, and the effort of that, from what `PrefixIndex.match` found."""
        total, sizes = blocks.total, blocks.sizes
        usual = found[0][0] if self.index.slots <= FEW else max(found, key=_holders)[0]
        left, per_pair = total - sum(sizes[:usual]), self.curve.per_pair
        work, efforts = [left] * self.index.slots, [left + per_pair * left * (total - 0.5 * left)] * self.index.slots
        for depth, mask in found:
            if depth != usual:
                left = total - sum(sizes[:depth])
                cost = left + per_pair * left * (total - 0.5 * left)  # as `Curve.effort`, for which a call would cost more
                while mask:
                    lowest = mask & -mask
                    slot = lowest.bit_length() - 1
                    work[slot], efforts[slot] = left, cost
                    mask ^= lowest
        return work, efforts

    def _budget(self, tokens: int) -> int:
        return int(tokens * self._settings.bytes_per_token)

    def _pace(self) -> Pace:
        """A new replica is taken to be as fast as the others of its model are on average."""
        paces = [replica.pace for replica in self.replicas.values()]
        if not paces:
            scale = self._settings.bytes_per_token
            return Pace(self._settings.prefill_tokens_per_s * scale, TYPICAL_TOKENS * scale)
        count = len(paces)
        return Pace(sum(pace.bytes_per_s for pace in paces) / count, max(1.0, sum(pace.typical_bytes for pace in paces) / count))


def _holders(pair: tuple[int, int]) -> int:
    """How many slots are in the mask."""
    return pair[1].bit_count()
