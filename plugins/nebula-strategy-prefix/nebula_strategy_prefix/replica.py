"""`Replica`: what the strategy believes of one replica: the work queued on it, and when that will be done."""

from __future__ import annotations

from math import inf

from nebula_core import EndpointStats, PrefixBlocks
from nebula_strategy_prefix.room import Room
from nebula_strategy_prefix.speed import Speed
from nebula_strategy_prefix.stretch import Stretch
from nebula_strategy_prefix.waiting import Waiting

REMEMBERED = 0.95
"""Weight that the share of a request's life before its first token keeps with each one that finishes."""


class Replica:
    """One incarnation of a replica.

    Prompts are taken to be computed one after the other in the order of their arrival. An engine that mixes them is no faster over
    all, and `Speed` learns from how it really did.

    An answer that is not streamed comes with its last token, which says nothing about its first. Where all are of that kind, the time
    between their ends still tells how much the replica gets done, and is learned instead.
    """

    __slots__ = (
        "_decode_s",
        "_decoding",
        "_most_running",
        "_queued_s",
        "_speed",
        "_streams",
        "_stretch",
        "_timed",
        "_timed_s",
        "_waiting",
        "behind_s",
        "first_token_share",
        "free_at",
        "full_s",
        "in_flight",
        "incarnation",
        "replica_id",
        "room",
        "slot",
        "slots",
        "slower",
        "spare",
        "stats",
    )

    def __init__(self, replica_id: str, incarnation: int, slot: int, budget: int, speed: Speed) -> None:
        self.replica_id, self.incarnation, self.slot = replica_id, incarnation, slot
        self.room = Room(budget)
        self.stats: EndpointStats | None = None
        """The sample that `room` and `slots` were taken from."""
        self.slots = 0
        """Requests that it answers at once, as far as its engine was seen to let others wait; 0: it was not."""
        self._most_running = 0
        self.full_s = 0.0
        """Expected seconds until an answer ends and makes room, if all slots are taken."""
        self.free_at = 0.0
        """When its queue will be empty, as expected; the time of the strategy's clock."""
        self.behind_s = 0.0
        """What is still to come however late the first in the queue is: the work of all behind it, or its own too if it has no room yet."""
        self.in_flight = 0
        """Requests that are known to be on it."""
        self.spare = inf
        """A prompt of so many bytes is admitted as soon as its turn comes; a longer one may wait for room or for a slot."""
        self.slower = 1.0
        """What a prompt takes here and now, as a multiple of what `Speed` says."""
        self.first_token_share = 0.5
        """So much of a request's life, on average, it waits for its first token."""
        self._waiting: dict[str, Waiting] = {}
        self._decoding: dict[str, tuple[float, float, int]] = {}
        """Request → since when it is there, seconds to its first token, bytes of its prompt."""
        self._queued_s = self._timed_s = 0.0
        """Expected work of all who wait, and of those among them whose turn will be seen to end."""
        self._timed = 0
        """How many those are."""
        self._streams = False
        """It has streamed an answer."""
        self._decode_s = 0.0
        """Mean seconds from a first token to the last."""
        self._speed, self._stretch = speed, Stretch(speed)

    def note(self, stats: EndpointStats, budget: int) -> None:
        """Take over a sample of its engine's metrics. One that lets requests wait while it runs as many as ever has so many slots."""
        self.stats = stats
        running = int(stats.running or 0)
        if running >= self._most_running:
            self.slots = running if stats.pending else 0 if running > self._most_running else self.slots
            self._most_running = running
        first = next(iter(self._waiting.values())).blocks.total if self._waiting and not self._lacking_s() else 0
        self.room.note(stats.kv_cache_usage, budget, first)
        self._pace()
        self._line_up()

    def admitted_s(self, turn_s: float, total: int) -> float:
        """Seconds until a prompt whose turn comes in `turn_s` is admitted: if slots or memory are full, answers have to end first."""
        return max(turn_s + self.full_s, (self.room.short + total) * self.room.release_s if self.room.known else 0.0)

    def charge(self, request_id: str, blocks: PrefixBlocks, depth: int, work: int, takes_s: float, now: float) -> Waiting | None:
        """A request was sent to it; `None` if that was known.

        It holds `depth` of the blocks and has to compute `work` bytes, for which a usual replica takes `takes_s`.
        """
        if request_id in self._waiting or request_id in self._decoding:
            return None
        service_s = takes_s * self.slower
        wait_s = max(self.free_at - now, self.behind_s)
        predicted_s = service_s + (self.admitted_s(wait_s, blocks.total) if blocks.total > self.spare else wait_s)
        timed = blocks.streamed or not self._streams
        if timed and not self._timed and not self._stretch.count:
            self._stretch.since = now
        waiting = self._waiting[request_id] = Waiting(blocks, depth, work, service_s, now, predicted_s, timed)
        self.free_at = now + predicted_s
        self.in_flight += 1
        self._queued_s += service_s
        self.room.queued += blocks.total
        if timed:
            self._timed += 1
            self._timed_s += service_s
        if self.room.known or len(self._waiting) > 1:
            self._line_up()
        return waiting

    def first_token(self, request_id: str, now: float) -> Waiting | None:
        """A request's answer began; `None` if it was not waiting."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return None
        self._computed(waiting, now)
        self._decoding[request_id] = (waiting.since, now - waiting.since, waiting.blocks.total)
        self.room.running += waiting.blocks.total
        self._pace()
        self._line_up()
        return waiting

    def answer(self, request_id: str, now: float) -> Waiting | None:
        """A request's answer came all at once; `None` if it was not waiting."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return None
        self._computed(waiting, now)
        self._lived(now - waiting.since, now - waiting.since)
        self.in_flight -= 1
        self._pace()
        self._line_up()
        return waiting

    def end(self, request_id: str, now: float) -> Waiting | None:
        """A request has ended; returned is what is known of it if it had no first token."""
        began = self._decoding.pop(request_id, None)
        waiting = None
        if began is not None:
            self._lived(now - began[0], began[1])
            self.room.running -= began[2]
        elif (waiting := self._waiting.pop(request_id, None)) is not None:
            self.free_at = max(now, self.free_at - waiting.service_s)
            self._stretch.begin(now)  # nobody knows how much of it was computed
            self._leave(waiting)
        else:
            return None
        self.in_flight -= 1
        self._pace()
        if self.room.known or waiting is not None:
            self._line_up()
        return waiting

    def _computed(self, waiting: Waiting, now: float) -> None:
        """A prompt was computed, and waits no longer."""
        self._leave(waiting)
        self._streams = self._streams or waiting.blocks.streamed
        if waiting.timed:
            self._stretch.add(waiting.work, waiting.blocks.total, last=not self._timed, decoding=len(self._decoding), now=now)
            self.free_at = now + self._queued_s

    def _lived(self, life_s: float, first_token_s: float) -> None:
        """An answer ended, `life_s` after its request came and `first_token_s` of it before its first token."""
        if life_s > 0.0 and 0.0 <= first_token_s <= life_s:  # other machines' clocks are compared anew now and then
            self._decode_s += (1 - REMEMBERED) * (life_s - first_token_s - self._decode_s)
            self.first_token_share += (1 - REMEMBERED) * (first_token_s / life_s - self.first_token_share)

    def _pace(self) -> None:
        """Keep at hand what every choice asks for of those who are decoded."""
        decoding = len(self._decoding)
        beside = 1.0 + self._speed.each_s * (decoding - self._speed.decoding)  # as `Speed.beside`, for which a call would cost more
        self.slower = self._stretch.slowness.factor * (beside if beside > 0.5 else 0.5)
        self.full_s = self._decode_s / self.slots if 0 < self.slots <= decoding else 0.0
        self.spare = -1.0 if self.full_s else -self.room.short

    def _line_up(self) -> None:
        """Keep at hand what every choice asks for of those who wait, and of the room that all have."""
        waiting, room = self._waiting, self.room
        if room.known:
            room.reckon(self._decode_s)
            self.spare = -1.0 if self.full_s else -room.short
            if waiting and (lacking_s := self._lacking_s()):
                self._stretch.spoil()
                self.behind_s = lacking_s + self._timed_s
                return
        behind_s = self._timed_s - next(iter(waiting.values())).service_s if len(waiting) > 1 else 0.0
        self.behind_s = behind_s if behind_s > 0.0 else 0.0

    def _lacking_s(self) -> float:
        """Seconds until the first in the queue has room."""
        return self.room.lacking_s(next(iter(self._waiting.values())).blocks.total)

    def _leave(self, waiting: Waiting) -> None:
        """A request waits no longer."""
        self.room.queued -= waiting.blocks.total
        self._timed -= waiting.timed
        if not self._waiting:
            self._queued_s = self._timed_s = 0.0  # sums of floats drift
            return
        self._queued_s -= waiting.service_s
        if waiting.timed:
            self._timed_s -= waiting.service_s
