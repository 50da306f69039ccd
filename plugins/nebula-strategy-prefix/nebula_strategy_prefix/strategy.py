"""`Prefix`: picks the replica that is expected to send the first token soonest, all who wait considered."""

from __future__ import annotations

from collections.abc import Sequence

from nebula_core import Candidate, Context, Pick, PrefixBlocks, RouteEvent, RouteRequest, Strategy
from nebula_strategy_prefix.counters import Counters
from nebula_strategy_prefix.decisions import Decision, Decisions, Explanation
from nebula_strategy_prefix.fleet import Fleet
from nebula_strategy_prefix.replica import Replica, waits_s
from nebula_strategy_prefix.settings import PrefixSettings

SLACK = 0.1
SLACK_S = 0.001
"""Candidates whose costs differ by less than this share and time are equals: no cost is known better than that."""
SPREAD = 0x9E3779B97F4A7C15
"""Fibonacci hashing: a trace numbers its blocks one after the other."""


class Prefix(Strategy):
    """Cost = wait + own prefill × (1 + what that work delays), in seconds; the least wins.

    What is believed of replicas follows from events alone, so that workers and gateways that exchange theirs believe the same.
    """

    def __init__(self, context: Context, settings: PrefixSettings) -> None:
        self._settings = settings
        self._clock = context.clock
        self._counters = Counters(context)
        self._decisions = Decisions(settings.decisions)
        self._fleets: dict[str, Fleet] = {}
        self._picked = ""
        """The request that was picked for last: the router charges it in the same step."""

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """The candidate of the least cost; among equals one with the least load, the same one for the same unseen prefix."""
        blocks, now = request.blocks(self._settings.hash_seed), self._clock()
        fleet = self._fleet(request.model_uid)
        replicas = fleet.of(candidates)
        found = fleet.index.match(blocks.hashes)
        work = fleet.uncached(found, blocks.total, blocks.sizes)
        uncached = [work[replica.slot] for replica in replicas]
        # As `Candidate.load`, which would cost 256 calls of a property here.
        loads = [candidate.charged + candidate.charged_elsewhere + candidate.foreign for candidate in candidates]
        waits = waits_s(replicas, loads, now)
        prefills = [replica.base_s + todo * replica.per_byte_s for replica, todo in zip(replicas, uncached, strict=True)]
        delayed = fleet.demand.delayed_per_s
        costs = [wait + own * (1.0 + delayed * (wait + own)) for wait, own in zip(waits, prefills, strict=True)]
        deepest = found[-1][0]
        at = _choose(costs, loads, _key(blocks, deepest))
        reason = _reason(uncached[at], blocks, deepest)
        fleet.note_capacity(replicas[at], candidates[at].stats)
        self._counters.decided(reason, blocks.total, uncached[at])
        self._picked = request.request_id
        self._decisions.add(
            Decision(
                request.request_id, request.model_uid, now, at, reason, blocks.total, fleet.names, uncached, waits, prefills, loads, delayed
            )
        )
        return Pick(candidates[at], reason)

    def observe(self, event: RouteEvent) -> None:
        """Take over what became of a request, here or in another worker or gateway."""
        if event.kind == "charged":
            if event.prefix_blocks is not None:  # else another strategy decided, which asked for none
                self._charged(event, event.prefix_blocks)
            return
        fleet = self._fleets.get(event.model_uid)
        replica = fleet.replicas.get(event.replica_id) if fleet is not None else None
        if fleet is None or replica is None or replica.incarnation != event.incarnation:
            return
        if event.kind == "first_token":
            self._first_token(fleet, replica, event.request_id)
        elif event.kind == "gone":
            self._gone(fleet, event)
        else:
            self._ended(fleet, replica, event.request_id)

    def explain(self, request_id: str) -> list[Explanation]:
        """The choices made for a request, if they are among the last ones of this worker: a retry is a choice of its own."""
        return self._decisions.explain(request_id)

    def _charged(self, event: RouteEvent, blocks: PrefixBlocks) -> None:
        fleet = self._fleet(event.model_uid)
        replica = fleet.replica(event.replica_id, event.incarnation)
        if replica.incarnation != event.incarnation or replica.knows(event.request_id):
            return
        now, depth = self._clock(), fleet.index.depth(replica.slot, blocks.hashes)
        waiting = replica.charge(event.request_id, blocks, depth, now)
        waiting.chosen_here = event.request_id == self._picked
        self._touch(fleet, replica, blocks)
        fleet.demand.arrived(waiting.service_s, len(fleet.replicas), now)

    def _first_token(self, fleet: Fleet, replica: Replica, request_id: str) -> None:
        now = self._clock()
        waiting = replica.first_token(request_id, now)
        if waiting is None:
            return
        if not fleet.index.holds(replica.slot, waiting.blocks.hashes):  # a sibling failed, and was taken back with what they share
            self._touch(fleet, replica, waiting.blocks)
        if waiting.chosen_here and waiting.blocks.streamed:
            self._counters.answered(waiting.predicted_s, now - waiting.since)

    def _ended(self, fleet: Fleet, replica: Replica, request_id: str) -> None:
        waiting = replica.end(request_id, self._clock())
        if waiting is not None:  # it had no first token, so that nothing says that its prompt was computed
            fleet.index.forget(replica.slot, waiting.blocks.hashes[waiting.depth :])

    def _gone(self, fleet: Fleet, event: RouteEvent) -> None:
        fleet.remove(event.replica_id)
        if not fleet.replicas:
            del self._fleets[event.model_uid]

    def _touch(self, fleet: Fleet, replica: Replica, blocks: PrefixBlocks) -> None:
        fleet.index.touch(replica.slot, blocks.hashes, blocks.sizes, replica.budget, self._settings.max_blocks)

    def _fleet(self, model_uid: str) -> Fleet:
        fleet = self._fleets.get(model_uid)
        if fleet is None:
            fleet = self._fleets[model_uid] = Fleet(self._settings)
        return fleet


def _choose(costs: Sequence[float], loads: Sequence[float], key: int) -> int:
    """Position of the least cost. Among equals the least load counts, then the first one from where `key` points."""
    limit = min(costs) * (1.0 + SLACK) + SLACK_S
    equals = [i for i, cost in enumerate(costs) if cost <= limit]
    if len(equals) > 1:
        least = min([loads[i] for i in equals])
        equals = [i for i in equals if loads[i] == least]
        start = ((key * SPREAD & (1 << 64) - 1) >> 32) % len(costs)
        return next((i for i in equals if i >= start), equals[0])
    return equals[0]


def _key(blocks: PrefixBlocks, known: int) -> int:
    """What tells a prompt and its siblings from others: the first block that nobody holds, or else its last."""
    return blocks.hashes[min(known, len(blocks.hashes) - 1)] if blocks.hashes else 0


def _reason(work: int, blocks: PrefixBlocks, deepest: int) -> str:
    if not deepest:
        return "prefix_new"
    return "prefix_hit" if work == blocks.total - sum(blocks.sizes[:deepest]) else "prefix_spill"
