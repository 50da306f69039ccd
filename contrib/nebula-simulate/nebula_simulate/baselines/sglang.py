"""`sglang`: the `cache_aware` policy of SGLang's model gateway (`model_gateway/src/policies/cache_aware.rs`), over HTTP workers.

    if max load - min load > 64 and max load > 1.5 × min load: the least loaded
    elif matched share of the prompt > 0.3: the replica that was last sent the deepest matched part
    else: the least loaded
    and the prompt is noted for whichever was taken

The numbers are the command line's defaults. Load is requests in flight; of equals the one that has had fewest requests, then the first.
The tree holds up to 2^26 characters per replica and is trimmed every 60 s, the parts that were sent longest ago first, ends before
starts. A tree by character is a tree by block here, since that is all that traces tell.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from nebula_core import Candidate, Pick, PrefixBlocks, RouteEvent, RouteRequest, Strategy
from nebula_simulate.scene import Scene

CACHE_THRESHOLD = 0.3
BALANCE_ABS = 64
BALANCE_REL = 1.5
MAX_TREE_BYTES = 2**26
EVICTION_S = 60.0


class Sglang(Strategy):
    """Affinity while loads are even, least load otherwise."""

    def __init__(self, scene: Scene) -> None:
        self._clock = scene.clock
        self._tenants: dict[int, dict[str, None]] = {}
        """Block → the replicas it was sent to, the last one last."""
        self._trees: dict[str, OrderedDict[int, int]] = {}
        """Replica → its blocks and their bytes, the longest unused first."""
        self._held: Counter[str] = Counter()
        self._processed: Counter[str] = Counter()
        self._trim_at = EVICTION_S

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """By the rule above."""
        self._trim()
        loads = [candidate.load for candidate in candidates]
        if max(loads) - min(loads) > BALANCE_ABS and max(loads) > BALANCE_REL * min(loads):
            return Pick(self._least(candidates), "sglang_imbalanced")
        replica, share = self._match(request.blocks())
        if replica and share > CACHE_THRESHOLD:
            return Pick(next(one for one in candidates if one.route.replica_id == replica), "sglang_matched")
        return Pick(self._least(candidates), "sglang_least")

    def observe(self, event: RouteEvent) -> None:
        """Note the prompt for the replica that was taken."""
        if event.kind == "charged" and event.prefix_blocks is not None:
            self._processed[event.replica_id] += 1
            self._insert(event.prefix_blocks, event.replica_id)

    def _least(self, candidates: Sequence[Candidate]) -> Candidate:
        return min(candidates, key=lambda one: (one.load, self._processed[one.route.replica_id]))

    def _match(self, blocks: PrefixBlocks) -> tuple[str, float]:
        """The last tenant of the deepest matched block, and the share of the prompt that is matched."""
        replica, matched = "", 0
        for block, size in zip(blocks.hashes, blocks.sizes, strict=True):
            tenants = self._tenants.get(block)
            if not tenants:
                break
            replica, matched = next(reversed(tenants)), matched + size
        return replica, matched / max(1, blocks.total)

    def _insert(self, blocks: PrefixBlocks, replica: str) -> None:
        tree = self._trees.setdefault(replica, OrderedDict())
        for block, size in zip(reversed(blocks.hashes), reversed(blocks.sizes), strict=True):
            tenants = self._tenants.setdefault(block, {})
            tenants.pop(replica, None)
            tenants[replica] = None
            if tree.pop(block, None) is None:
                self._held[replica] += size
            tree[block] = size

    def _trim(self) -> None:
        if self._clock() < self._trim_at:
            return
        self._trim_at = self._clock() + EVICTION_S
        for replica, tree in self._trees.items():
            while self._held[replica] > MAX_TREE_BYTES:
                block, size = tree.popitem(last=False)
                self._held[replica] -= size
                del self._tenants[block][replica]
                if not self._tenants[block]:
                    del self._tenants[block]
