"""`dynamo`: the cost function of Dynamo's KV router (`lib/kv-router/src/scheduling/selector/default.rs`), without KV events.

    P = max(prefill in flight + prompt - overlap, 0)      decode and prefill of all requests sent there, in blocks
    D = decode in flight + prompt
    cost = 1.0 × P + D, the least one, by lot among equals

A request's prefill (what of it did not overlap) is in flight until its first token, its prompt's blocks are decoded until it ends. Output
blocks are not tracked, as is the default. Without events the overlap is with what was sent there within the last 120 s, which is what
Dynamo then believes. Bytes stand for blocks: their size does not change which cost is the least.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nebula_core import Candidate, Pick, PrefixBlocks, RouteEvent, RouteRequest, Strategy
from nebula_simulate.scene import Scene

TTL_S = 120.0
PREFILL_LOAD_SCALE = 1.0


class Dynamo(Strategy):
    """Least prefill and decode blocks, those of the request included."""

    def __init__(self, scene: Scene) -> None:
        self._clock, self._rng = scene.clock, scene.rng
        self._sent: dict[int, dict[str, float]] = {}
        """Block → when it was last sent to which replica."""
        self._prefill: Counter[str] = Counter()
        self._decode: Counter[str] = Counter()
        self._flights: dict[str, tuple[int, int]] = {}
        """Request → its prefill in flight, and its decode."""
        self._sweep_at = TTL_S

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """By the cost above."""
        self._sweep()
        blocks = request.blocks()
        overlaps = self._overlaps(blocks, [candidate.route.replica_id for candidate in candidates])
        costs = [self._cost(one.route.replica_id, blocks.total, overlaps[one.route.replica_id]) for one in candidates]
        least = min(costs)
        return Pick(self._rng.choice([one for one, cost in zip(candidates, costs, strict=True) if cost == least]), "dynamo")

    def observe(self, event: RouteEvent) -> None:
        """Keep account of what is in flight."""
        replica = event.replica_id
        if event.kind == "charged" and event.prefix_blocks is not None:
            self._charge(event.request_id, replica, event.prefix_blocks)
        elif event.kind == "first_token" and event.request_id in self._flights:
            prefill, decode = self._flights[event.request_id]
            self._prefill[replica] -= prefill
            self._flights[event.request_id] = (0, decode)
        elif event.kind in ("finished", "failed") and event.request_id in self._flights:
            prefill, decode = self._flights.pop(event.request_id)
            self._prefill[replica] -= prefill
            self._decode[replica] -= decode

    def _cost(self, replica: str, prompt: int, overlap: int) -> float:
        prefill = max(self._prefill[replica] + prompt - overlap, 0)
        return PREFILL_LOAD_SCALE * prefill + self._decode[replica] + prompt

    def _charge(self, request_id: str, replica: str, blocks: PrefixBlocks) -> None:
        prefill = blocks.total - self._overlaps(blocks, [replica])[replica]
        self._flights[request_id] = (prefill, blocks.total)
        self._prefill[replica] += prefill
        self._decode[replica] += blocks.total
        now = self._clock()
        for block in blocks.hashes:
            self._sent.setdefault(block, {})[replica] = now

    def _overlaps(self, blocks: PrefixBlocks, replicas: Sequence[str]) -> Counter[str]:
        """Bytes of the prompt's start that each replica was sent and has not forgotten."""
        overlaps: Counter[str] = Counter()
        holding, valid = set(replicas), self._clock() - TTL_S
        for block, size in zip(blocks.hashes, blocks.sizes, strict=True):
            sent = self._sent.get(block, {})
            holding = {replica for replica in holding if sent.get(replica, valid) > valid}
            if not holding:
                break
            overlaps.update(dict.fromkeys(holding, size))
        return overlaps

    def _sweep(self) -> None:
        """Forget what is too old, now and then."""
        now = self._clock()
        if now >= self._sweep_at:
            self._sweep_at = now + TTL_S
            self._sent = {block: sent for block, sent in self._sent.items() if max(sent.values()) > now - TTL_S}
