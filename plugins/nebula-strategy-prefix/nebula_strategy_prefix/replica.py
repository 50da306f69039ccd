"""`Replica`: what the strategy believes of one replica: the work queued on it, and when that will be done."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nebula_core import Candidate, EndpointStats, PrefixBlocks
from nebula_strategy_prefix.beginners import Beginners
from nebula_strategy_prefix.curve import Curve
from nebula_strategy_prefix.pace import Pace

REMEMBERED = 0.95
"""Weight that the share of a request's life before its first token keeps with each one that finishes."""


class Waiting(msgspec.Struct, gc=False):
    """A request whose first token has not come. A struct, for that is made in a third of a dataclass's time."""

    blocks: PrefixBlocks
    depth: int
    """Leading blocks that the replica held already."""
    work: int
    """Bytes that it has to compute."""
    effort: float
    """Of computing them, in bytes."""
    service_s: float
    """Expected seconds once its turn has come."""
    since: float
    predicted_s: float
    """Expected seconds from `since` to its first token."""
    timed: bool
    """The first byte of its answer will tell when its turn was over."""
    first: bool
    """Nobody waited before it."""
    chosen_here: bool = False
    """This worker chose the replica, and no other one."""


class Replica:
    """One incarnation of a replica.

    Prompts are taken to be computed one after the other in the order of their arrival. An engine that mixes them is no faster over
    all, and `Pace` learns from how it really did.

    An answer that is not streamed comes with its last token, which says nothing about its first. Where all are of that kind, the time
    between their ends still tells how much the replica gets done, and is learned instead.
    """

    __slots__ = (
        "_beginners",
        "_curve",
        "_decode_s",
        "_decoding",
        "_first_token_share",
        "_progress",
        "_queued_s",
        "_streams",
        "_timed_s",
        "_waiting",
        "base_s",
        "behind_s",
        "budget",
        "free_at",
        "full_s",
        "in_flight",
        "incarnation",
        "pace",
        "per_byte_s",
        "queued_bytes",
        "replica_id",
        "slot",
        "slots",
        "stats",
        "unseen_s",
    )

    def __init__(self, replica_id: str, incarnation: int, slot: int, pace: Pace, budget: int, curve: Curve, beginners: Beginners) -> None:
        self.replica_id, self.incarnation, self.slot = replica_id, incarnation, slot
        self.pace = pace
        self.budget = budget
        """Bytes of prompts that its KV cache holds."""
        self.stats: EndpointStats | None = None
        """The sample that `budget` and `slots` were taken from."""
        self.slots = 0
        """Requests that it answers at once, as far as its engine was seen to let others wait; 0: it was not."""
        self.full_s = 0.0
        """Expected seconds until an answer ends and makes room, if all slots are taken."""
        self.free_at = 0.0
        """When its queue will be empty, as expected; the time of the strategy's clock."""
        self.behind_s = 0.0
        """Work of requests behind the first: however late that one is, this is still to come."""
        self.in_flight = 0
        """Requests that are known to be on it."""
        self._waiting: dict[str, Waiting] = {}
        self._decoding: dict[str, tuple[float, float]] = {}
        """Request → since when it is there, and seconds to its first token."""
        self.queued_bytes = 0
        """Bytes of the prompts of all who wait: they take no room in its cache before their turn."""
        self._queued_s = self._timed_s = 0.0
        """Expected work of all who wait, and of those among them whose turn will be seen to end."""
        self._streams = False
        """It has streamed an answer."""
        self._progress = 0.0
        """When the last first token came."""
        self._first_token_share = 0.5
        self._decode_s = 0.0
        """Mean seconds from a first token to the last."""
        self._curve, self._beginners = curve, beginners
        beginners.replicas.add(self)
        self.take_over()

    def note(self, stats: EndpointStats) -> None:
        """Take over a sample of its engine's metrics. One that lets requests wait has as many slots as it runs."""
        self.stats = stats
        running = int(stats.running or 0)
        if stats.pending:
            self.slots = running
        elif running > self.slots:
            self.slots = 0
        self.take_over()

    def charge(self, request_id: str, blocks: PrefixBlocks, depth: int, work: int, effort: float, now: float) -> Waiting | None:
        """A request was sent to it, which holds `depth` of its blocks and has to compute `work` bytes; `None` if that was known."""
        if request_id in self._waiting or request_id in self._decoding:
            return None
        service_s = self.base_s + effort * self.per_byte_s
        predicted_s = max(self.free_at - now, self.behind_s) + self.full_s + service_s
        timed = blocks.streamed or not self._streams
        waiting = self._waiting[request_id] = Waiting(blocks, depth, work, effort, service_s, now, predicted_s, timed, not self._waiting)
        self.free_at = now + predicted_s
        self.in_flight += 1
        self._queued_s += service_s
        self.queued_bytes += blocks.total
        if timed:
            self._timed_s += service_s
        if len(self._waiting) > 1:
            self._look_behind()
        return waiting

    def first_token(self, request_id: str, now: float) -> Waiting | None:
        """A request's answer began; `None` if it was not waiting."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return None
        self._leave(waiting)
        self._streams = self._streams or waiting.blocks.streamed
        if waiting.timed:
            self._learn(waiting, now - max(waiting.since, self._progress))
            self._progress = now
            self.free_at = now + self._queued_s
        self._decoding[request_id] = (waiting.since, now - waiting.since)
        self.take_over()
        return waiting

    def end(self, request_id: str, now: float) -> Waiting | None:
        """A request has ended; returned is what is known of it if it had no first token."""
        began = self._decoding.pop(request_id, None)
        waiting = None
        if began is not None:
            life = now - began[0]
            self._decode_s += (1 - REMEMBERED) * (life - began[1] - self._decode_s)
            if life > 0:
                self._first_token_share += (1 - REMEMBERED) * (began[1] / life - self._first_token_share)
        elif (waiting := self._waiting.pop(request_id, None)) is not None:
            self.free_at = max(now, self.free_at - waiting.service_s)
            self._leave(waiting)
        else:
            return None
        self.in_flight -= 1
        self.take_over()
        return waiting

    def take_over(self) -> None:
        """Keep at hand what every choice asks for."""
        decoding = len(self._decoding)
        pace = self.pace if self.pace.trusted else self._beginners.pace
        pace.decoding(decoding)
        self.full_s = self._decode_s / self.slots if 0 < self.slots <= decoding else 0.0
        self.base_s, self.per_byte_s = pace.base_s, pace.per_byte_s
        self.unseen_s = pace.mean_s * self._first_token_share
        """What a request weighs of which nothing is known but that it is there: it may wait, or be decoded already."""

    def _learn(self, waiting: Waiting, seconds: float) -> None:
        """A turn took so long."""
        effort, decoding, beginners = waiting.effort, len(self._decoding), self._beginners
        self.pace.learn(effort, seconds, decoding)
        if waiting.first:
            self._curve.learn(waiting.work, waiting.blocks.total, seconds)
        if beginners.replicas:
            if self.pace.trusted:
                beginners.replicas.discard(self)
            beginners.learn(effort, seconds, decoding)

    def _leave(self, waiting: Waiting) -> None:
        """A request waits no longer."""
        self.queued_bytes -= waiting.blocks.total
        if not self._waiting:
            self._queued_s = self._timed_s = self.behind_s = 0.0
            return
        self._queued_s -= waiting.service_s
        if waiting.timed:
            self._timed_s -= waiting.service_s
        self._look_behind()

    def _look_behind(self) -> None:
        first = next(iter(self._waiting.values()))
        self.behind_s = max(0.0, self._timed_s - first.service_s)


class Costs(msgspec.Struct, gc=False):
    """What each candidate would cost, by position. Times in seconds."""

    totals: list[float]
    """What the choice goes by."""
    waits: list[float]
    """Expected time until a new request's turn comes, known requests being on it or not."""
    prefills: list[float]
    """Expected time to compute what it does not hold."""
    loads: list[float]
    """Requests on it."""


def weigh(
    candidates: Sequence[Candidate], replicas: Sequence[Replica], efforts: Sequence[float], delayed_per_s: float, now: float
) -> Costs:
    """The costs of a request that takes each slot so much effort. One loop: it is half of what a choice among 256 takes."""
    costs = Costs([], [], [], [])
    totals, waits, prefills, loads = costs.totals, costs.waits, costs.prefills, costs.loads
    for candidate, replica in zip(candidates, replicas, strict=True):
        load = candidate.charged + candidate.charged_elsewhere + candidate.foreign  # its property `load` would take three times as long
        wait = replica.free_at - now
        if wait < replica.behind_s:
            wait = replica.behind_s
        wait += replica.full_s
        if load > replica.in_flight:
            wait += (load - replica.in_flight) * replica.unseen_s
        own = replica.base_s + efforts[replica.slot] * replica.per_byte_s
        totals.append(wait + own * (1.0 + delayed_per_s * (wait + own)))
        waits.append(wait)
        prefills.append(own)
        loads.append(load)
    return costs
