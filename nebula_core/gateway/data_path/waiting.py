"""The waiting room of a worker: requests for models of which no replica is ready, held in order until one is, or until their time is up.

Who waits is charged to no replica. The routing table wakes the room when it changes, so that nothing here looks again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from nebula_core.gateway.data_path import errors

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.answers import Answer
    from nebula_core.metrics import Metrics
    from nebula_core.router.table import Model, RoutingTable
    from nebula_core.settings import GatewaySettings

AT_ONCE = 32
"""Requests that go on in one turn of the event loop: each may open a connection, and streams must not stall meanwhile."""

Outcome = Literal["admitted", "expired", "refused", "left", "unloaded", "drained"]
"""How a wait ends: a replica is ready, the time is up, there was no room, the client has gone, the model has, the gateway goes."""


class Place:
    """One request in the room. Whoever waits may `cancel` it; the room calls either `go_on` or `turn_away`, once."""

    __slots__ = ("_room", "_timer", "go_on", "model", "size", "turn_away")

    def __init__(
        self, room: WaitingRoom, model: Model, size: int, left_s: float, go_on: Callable[[], None], turn_away: Callable[[Answer], None]
    ) -> None:
        self._room, self.model, self.size = room, model, size
        self.go_on, self.turn_away = go_on, turn_away
        self._timer = asyncio.get_running_loop().call_later(left_s, room.expire, self)

    def cancel(self) -> None:
        """The client has gone; nothing happens to a place that was left already."""
        self._room.leave(self, "left")

    def end(self) -> None:
        """It does not wait any more."""
        self._timer.cancel()


class Held(NamedTuple):
    """What waits for one model, as the control process hears it."""

    waiting: int
    refused: int
    """Requests turned away for want of a replica, since this was last asked for."""


class WaitingRoom:
    """All places of one worker, by model. `[gateway] wait_s`, `wait_requests` and `wait_bytes` bound it."""

    def __init__(self, table: RoutingTable, settings: GatewaySettings, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._table, self._clock = table, clock
        self.wait_s, self._most, self._most_bytes = settings.wait_s, settings.wait_requests, settings.wait_bytes
        self._places: dict[str, dict[Place, None]] = {}
        """By model_uid, in the order in which they came."""
        self._count = self._bytes = 0
        self._called_at: dict[str, float] = {}
        """When each model was first asked for since it had a replica."""
        self._refused: dict[str, int] = {}
        self._touched: set[str] = set()
        """Models of which `take_news` has something to tell."""
        self._closed = False
        self._waiting = metrics.gauge("nebula_request_waiting", "Requests held until a replica of their model is ready.", ("model_uid",))
        self._ended = metrics.counter("nebula_wait_total", "Waits for a replica, by how they ended.", ("model_uid", "outcome"))
        self._wakes = metrics.counter(
            "nebula_wake_total", "Times that a model without a ready replica was asked for, counted once until it has one.", ("model_uid",)
        )
        table.changed = self._table_changed

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._places and self._count == self._bytes == 0

    # --- who comes

    def refusal(self, model: Model, size: int, waited_s: float) -> Answer | None:
        """Why a request with a body of `size` bytes, `waited_s` seconds old, cannot wait for a replica; `None`: it can."""
        if model.off:
            return self._refuse(model, errors.NONE_WANTED)
        if self._closed:
            return self._refuse(model, errors.STOPPING)
        if waited_s >= self.wait_s:
            return self._refuse(model, errors.waited_long(self.wait_s))
        if self._count >= self._most or self._bytes + size > self._most_bytes:
            return self._refuse(model, errors.NO_ROOM)
        return None

    def without_waiting(self, model: Model) -> Answer:
        """The answer where waiting is turned off."""
        return self._refuse(model, errors.NONE_WANTED if model.off else "")

    def enter(self, model: Model, size: int, waited_s: float, go_on: Callable[[], None], turn_away: Callable[[Answer], None]) -> Place:
        """Hold a request that may wait: `go_on` is called once a replica is ready, or `turn_away` with what the client is told."""
        place = Place(self, model, size, self.wait_s - waited_s, go_on, turn_away)
        self._called(model.model_uid)
        self._places.setdefault(model.model_uid, {})[place] = None
        self._count, self._bytes = self._count + 1, self._bytes + size
        self._waiting.labels(model.model_uid).inc()
        return place

    # --- who goes

    def leave(self, place: Place, outcome: Outcome) -> bool:
        """Take a request out; `False` if it was out already."""
        uid = place.model.model_uid
        places = self._places.get(uid, {})
        if place not in places:
            return False
        del places[place]
        if not places:
            del self._places[uid]
        place.end()
        self._count, self._bytes = self._count - 1, self._bytes - place.size
        self._waiting.labels(uid).dec()
        self._ended.labels(uid, outcome).inc()
        self._touched.add(uid)
        return True

    def expire(self, place: Place) -> None:
        """Its time is up."""
        self._turn_away(place, "expired", errors.waited_long(self.wait_s))

    def close(self) -> bool:
        """The gateway goes: turn all away, and whoever comes from now on. Returns whether there was anybody."""
        self._closed = True
        waiting = [place for places in self._places.values() for place in places]
        for place in waiting:
            self._turn_away(place, "drained", errors.STOPPING)
        return bool(waiting)

    def _turn_away(self, place: Place, outcome: Outcome, why: str) -> None:
        if self.leave(place, outcome):
            place.turn_away(self._answer(place.model, why))

    def take_news(self) -> dict[str, Held]:
        """What waits for each model where that has changed since the last call, and what was refused since then."""
        touched, self._touched = self._touched, set()
        refused, self._refused = self._refused, {}
        return {uid: Held(len(self._places.get(uid, ())), refused.get(uid, 0)) for uid in touched}

    def tell_again(self) -> None:
        """Somebody new listens, and knows nothing; what was refused before is long past."""
        self._touched.update(self._places)
        self._refused.clear()

    # --- when the table changes

    def _table_changed(self) -> None:
        if self._called_at or self._places:
            asyncio.get_running_loop().call_soon(self._look)  # the router is not done with the change yet

    def _look(self) -> None:
        for uid in {*self._called_at, *self._places}:
            model = self._table.models.get(uid)
            self._send_off(uid, model)
            if model is None or model.candidates:
                self._called_at.pop(uid, None)
                self._admit(uid)

    def _send_off(self, uid: str, model: Model | None) -> None:
        """Turn away who waits for a model that was stopped or unloaded, even if it was loaded anew at once."""
        for place in tuple(self._places.get(uid, ())):
            if place.model.off and not place.model.candidates:
                self._turn_away(place, "refused", errors.NONE_WANTED)
            elif place.model is not model and self.leave(place, "unloaded"):
                place.turn_away(errors.unknown_model(uid, self._table.models))

    def _admit(self, uid: str) -> None:
        """Let go on who waits, as long as there is a replica; the next ones in the next turn."""
        for place in tuple(islice(self._places.get(uid, ()), AT_ONCE)):
            if not place.model.candidates:
                return
            if self.leave(place, "admitted"):
                place.go_on()
        if uid in self._places:
            asyncio.get_running_loop().call_soon(self._admit, uid)

    # --- what clients are told

    def _called(self, uid: str) -> None:
        self._touched.add(uid)
        if uid not in self._called_at:
            self._called_at[uid] = self._clock()
            self._wakes.labels(uid).inc()

    def _refuse(self, model: Model, why: str) -> Answer:
        uid = model.model_uid
        if not model.off:
            self._called(uid)
            self._refused[uid] = self._refused.get(uid, 0) + 1
        self._ended.labels(uid, "refused").inc()
        return self._answer(model, why)

    def _answer(self, model: Model, why: str) -> Answer:
        now = self._clock()
        elapsed = now - self._called_at.get(model.model_uid, now)
        return errors.no_replica(model.model_uid, model.note, why, errors.retry_after_s(model.boot_s, elapsed))
