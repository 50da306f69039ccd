"""`Replica`: what the strategy believes of one replica: the work queued on it, and when that will be done."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nebula_core import Candidate, EndpointStats, PrefixBlocks
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
    service_s: float
    """Expected seconds once its turn has come."""
    since: float
    predicted_s: float
    """Expected seconds from `since` to its first token."""
    timed: bool
    """The first byte of its answer will tell when its turn was over."""
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
        "in_flight",
        "incarnation",
        "pace",
        "per_byte_s",
        "replica_id",
        "slot",
        "stats",
        "unseen_s",
    )

    def __init__(self, replica_id: str, incarnation: int, slot: int, pace: Pace, budget: int) -> None:
        self.replica_id, self.incarnation, self.slot = replica_id, incarnation, slot
        self.pace = pace
        self.budget = budget
        """Bytes of prompts that its KV cache holds."""
        self.stats: EndpointStats | None = None
        """The sample that `budget` was taken from."""
        self.free_at = 0.0
        """When its queue will be empty, as expected; the time of the strategy's clock."""
        self.behind_s = 0.0
        """Work of requests behind the first: however late that one is, this is still to come."""
        self.in_flight = 0
        """Requests that are known to be on it."""
        self._waiting: dict[str, Waiting] = {}
        self._decoding: dict[str, tuple[float, float]] = {}
        """Request → since when it is there, and seconds to its first token."""
        self._queued_s = self._timed_s = 0.0
        """Expected work of all who wait, and of those among them whose turn will be seen to end."""
        self._streams = False
        """It has streamed an answer."""
        self._progress = 0.0
        """When the last first token came."""
        self._first_token_share = 0.5
        self._take_over()

    def charge(self, request_id: str, blocks: PrefixBlocks, depth: int, work: int, now: float) -> Waiting | None:
        """A request was sent to it, which holds `depth` of its blocks and has to compute `work` bytes; `None` if that was known."""
        if request_id in self._waiting or request_id in self._decoding:
            return None
        service_s = self.base_s + work * self.per_byte_s
        predicted_s = max(self.free_at - now, self.behind_s) + service_s
        timed = blocks.streamed or not self._streams
        waiting = self._waiting[request_id] = Waiting(blocks, depth, work, service_s, now, predicted_s, timed)
        self.free_at = now + predicted_s
        self.in_flight += 1
        self._queued_s += service_s
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
            self.pace.learn(waiting.work, now - max(waiting.since, self._progress), len(self._decoding))
            self._progress = now
            self.free_at = now + self._queued_s
        self._decoding[request_id] = (waiting.since, now - waiting.since)
        self._take_over()
        return waiting

    def end(self, request_id: str, now: float) -> Waiting | None:
        """A request has ended; returned is what is known of it if it had no first token."""
        began = self._decoding.pop(request_id, None)
        waiting = None
        if began is not None:
            life = now - began[0]
            if life > 0:
                self._first_token_share += (1 - REMEMBERED) * (began[1] / life - self._first_token_share)
        elif (waiting := self._waiting.pop(request_id, None)) is not None:
            self.free_at = max(now, self.free_at - waiting.service_s)
            self._leave(waiting)
        else:
            return None
        self.in_flight -= 1
        self._take_over()
        return waiting

    def _take_over(self) -> None:
        """Keep at hand what every choice asks for."""
        pace = self.pace
        pace.decoding(len(self._decoding))
        self.base_s, self.per_byte_s = pace.base_s, pace.per_byte_s
        self.unseen_s = pace.mean_s * self._first_token_share
        """What a request weighs of which nothing is known but that it is there: it may wait, or be decoded already."""

    def _leave(self, waiting: Waiting) -> None:
        """A request waits no longer."""
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


def weigh(candidates: Sequence[Candidate], replicas: Sequence[Replica], work: Sequence[int], delayed_per_s: float, now: float) -> Costs:
    """The costs of a request of which each slot has so many bytes to compute. One loop: it is half of what a choice among 256 takes."""
    costs = Costs([], [], [], [])
    totals, waits, prefills, loads = costs.totals, costs.waits, costs.prefills, costs.loads
    for candidate, replica in zip(candidates, replicas, strict=True):
        load = candidate.charged + candidate.charged_elsewhere + candidate.foreign  # its property `load` would take three times as long
        wait = replica.free_at - now
        if wait < replica.behind_s:
            wait = replica.behind_s
        if load > replica.in_flight:
            wait += (load - replica.in_flight) * replica.unseen_s
        own = replica.base_s + work[replica.slot] * replica.per_byte_s
        totals.append(wait + own * (1.0 + delayed_per_s * (wait + own)))
        waits.append(wait)
        prefills.append(own)
        loads.append(load)
    return costs
