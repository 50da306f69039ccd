"""`Prefix`: picks the replica that is expected to send the first token soonest, all who wait considered."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import inf

from nebula_core import Candidate, Context, Explanation, Pick, PrefixBlocks, RouteEvent, RouteRequest, Strategy
from nebula_strategy_prefix.costs import weigh
from nebula_strategy_prefix.counters import Counters
from nebula_strategy_prefix.decisions import Decision, Decisions
from nebula_strategy_prefix.fleet import Fleet
from nebula_strategy_prefix.replica import Replica
from nebula_strategy_prefix.settings import PrefixSettings

SLACK = 0.03
SLACK_S = 0.01
"""Candidates whose costs differ by less than this share and time are equals: no cost is known better, and nobody feels less."""
SPREAD = 0x9E3779B97F4A7C15
"""Fibonacci hashing: a trace numbers its blocks one after the other."""


class Prefix(Strategy):
    """Cost = wait + own prefill × (1 + what that work delays), in seconds; the least wins.

    What is believed of replicas follows from events alone, so that workers and gateways that exchange theirs believe the same.
    """

    def __init__(self, context: Context, settings: PrefixSettings) -> None:
        self._settings = settings
        self._hash_seed, self._max_blocks = settings.hash_seed, settings.max_blocks  # a pydantic attribute costs 50 ns
        self._clock = context.clock
        self._counters = Counters(context)
        self.explains = settings.decisions
        self._decisions = Decisions(settings.decisions)
        self._fleets: dict[str, Fleet] = {}
        self._chosen: Decision | None = None
        """The choice made last: the router charges it in the same step."""

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """The candidate of the least cost; among equals one with the least load, the same one for the same unseen prefix."""
        blocks, now = request.blocks(self._hash_seed), self._clock()
        fleet = self._fleets.get(request.model_uid) or self._new_fleet(request.model_uid)
        replicas, delayed = fleet.of(candidates), fleet.demand.delayed_per_s
        found = fleet.index.match(blocks.hashes)
        work, takes = fleet.uncached(found, blocks)
        totals, waits, slower, loads = weigh(candidates, replicas, takes, blocks.total, fleet.speed.mean_s, delayed, now)
        deepest = found[-1][0]
        if not blocks.hashes:
            fleet.turn += 1
        at = _choose(totals, loads, replicas, work, blocks.hashes, deepest, fleet.turn)
        replica, pick = replicas[at], candidates[at]
        depth = _depth(found, replica.slot) if deepest else 0
        reason = _reason(depth, deepest) if blocks.hashes else "prefix_short"
        if pick.stats is not replica.stats:
            fleet.note(replica, pick.stats)
        self._counters.decided(reason, blocks.total, work[replica.slot])
        chosen = self._chosen = Decision(
            request.request_id,
            request.model_uid,
            now,
            at,
            replica,
            reason,
            blocks.total,
            depth,
            replicas,
            work,
            takes,
            waits,
            slower,
            loads,
            delayed,
        )
        self._decisions.add(chosen)
        return Pick(pick, reason)

    def observe(self, event: RouteEvent) -> None:
        """Take over what became of a request, here or in another worker or gateway.

        Those tell theirs in bunches, so that what counts is when it was, and not when it is heard.
        """
        if event.kind == "charged":
            if event.prefix_blocks is not None:  # else another strategy decided, which asked for none
                self._charged(event, event.prefix_blocks)
            return
        fleet = self._fleets.get(event.model_uid)
        replica = fleet.replicas.get(event.replica_id) if fleet is not None else None
        if fleet is None or replica is None or replica.incarnation != event.incarnation:
            return
        if event.kind == "first_token" or event.whole:
            self._first_token(fleet, replica, event)
        elif event.kind == "gone":
            self._gone(fleet, event)
        else:
            self._ended(fleet, replica, event)

    def explain(self, request_id: str) -> list[Explanation]:
        """The choices made for a request, if they are among the last ones of this worker: a retry is a choice of its own."""
        return self._decisions.explain(request_id)

    def _charged(self, event: RouteEvent, blocks: PrefixBlocks) -> None:
        fleet = self._fleets.get(event.model_uid) or self._new_fleet(event.model_uid)
        chosen, self._chosen = self._chosen, None
        if chosen is not None and chosen.request_id == event.request_id and chosen.replica.replica_id == event.replica_id:
            replica, depth, here = chosen.replica, chosen.depth, True
            work, takes_s = chosen.work[replica.slot], chosen.takes[replica.slot]
        else:  # another worker chose
            replica, here = fleet.replica(event.replica_id, event.incarnation), False
            depth = fleet.index.depth(replica.slot, blocks.hashes)
            work = blocks.total - sum(blocks.sizes[:depth])
            takes_s = fleet.speed.takes_s(work, blocks.total)
        if replica.incarnation != event.incarnation:
            return
        waiting = replica.charge(event.request_id, blocks, depth, work, takes_s, event.at)
        if waiting is None:
            return
        waiting.chosen_here, waiting.forgotten = here, fleet.index.forgotten
        if blocks.hashes:
            self._touch(fleet, replica, blocks, depth, replica.room.queued - blocks.total)
        fleet.demand.arrived(waiting.service_s, len(fleet.replicas), event.at)

    def _first_token(self, fleet: Fleet, replica: Replica, event: RouteEvent) -> None:
        waiting = (replica.answer if event.whole else replica.first_token)(event.request_id, event.at)
        if waiting is None:
            return
        blocks = waiting.blocks
        index = fleet.index  # a sibling that failed was taken back with what they share, or all was displaced meanwhile
        if blocks.hashes and (waiting.forgotten != index.forgotten or not index.holds(replica.slot, blocks.hashes[-1])):
            self._touch(fleet, replica, blocks)
        if waiting.chosen_here and blocks.streamed:
            self._counters.answered(waiting.predicted_s, event.at - waiting.since)

    def _ended(self, fleet: Fleet, replica: Replica, event: RouteEvent) -> None:
        waiting = replica.end(event.request_id, event.at)
        if waiting is not None:  # it had no first token, so that nothing says that its prompt was computed
            fleet.index.forget(replica.slot, waiting.blocks.hashes[waiting.depth :])

    def _gone(self, fleet: Fleet, event: RouteEvent) -> None:
        fleet.remove(event.replica_id)
        if not fleet.replicas:
            del self._fleets[event.model_uid]

    def _touch(self, fleet: Fleet, replica: Replica, blocks: PrefixBlocks, depth: int = 0, queued: int = 0) -> None:
        """What is queued before it takes room in the cache later, and meanwhile displaces nothing."""
        most = max(1, self._max_blocks // len(fleet.replicas))
        fleet.index.touch(replica.slot, blocks.hashes, blocks.sizes, replica.room.budget + queued, most, depth)

    def _new_fleet(self, model_uid: str) -> Fleet:
        fleet = self._fleets[model_uid] = Fleet(self._settings)
        return fleet


def _choose(
    totals: Sequence[float],
    loads: Sequence[float],
    replicas: Sequence[Replica],
    work: Sequence[int],
    hashes: Sequence[int],
    known: int,
    turn: int,
) -> int:
    """Position of the least cost. Equals go by least load, then by least work, then by the prompt's key, or by `turn` if it has none."""
    limit = min(totals) * (1.0 + SLACK) + SLACK_S
    least, least_work, equals = inf, 0, [0]
    for i, cost in enumerate(totals):  # one pass: an idle fleet is all equals
        if cost > limit or (load := loads[i]) > least:
            continue
        own = work[replicas[i].slot]
        if load < least or own < least_work:
            least, least_work, equals = load, own, [i]
        elif own == least_work:
            equals.append(i)
    if len(equals) == 1:
        return equals[0]
    if not hashes:
        return equals[turn % len(equals)]
    key = hashes[min(known, len(hashes) - 1)]  # the first block that nobody holds: a prompt has it in common with its siblings
    start = ((key * SPREAD & (1 << 64) - 1) >> 32) % len(totals)
    return equals[bisect_left(equals, start) % len(equals)]


def _depth(found: Sequence[tuple[int, int]], slot: int) -> int:
    """How many leading blocks a slot holds."""
    for depth, mask in found:
        if mask >> slot & 1:
            return depth
    return 0


def _reason(depth: int, deepest: int) -> str:
    if not deepest:
        return "prefix_new"
    return "prefix_hit" if depth == deepest else "prefix_spill"
