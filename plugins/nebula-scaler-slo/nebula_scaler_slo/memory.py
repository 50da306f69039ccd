"""What the policy remembers of a model: windows of what it saw, and what it learned of the replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from nebula_core import ScalingSignals, Window
from nebula_scaler_slo.reading import Reading

SHORT_S = 60.0
SETTLED_S = 30.0
"""For so long something must have been so before anything is learned of it."""
LEARN = 0.3
"""Share of the difference by which the number of places follows what is seen."""
SLOWLY = 0.05
"""The same for the time of service, which is seen at every look, and by chance is now longer and now shorter."""
STEADY = 0.2
"""Share by which arrivals may change where the time of service is learned: after a step, what runs is still that of before."""
QUEUES = 0.5
"""Requests waiting per replica from which on a replica counts as having all that it can take."""
TELLING = 0.05
"""KV caches that are used less tell nothing of how many requests would fill them."""
ROOM = 0.9
"""Share of the KV cache that may be counted on: engines begin to put requests off before it is full."""
DISAPPOINTED = 0.95
"""What is left of the belief in a replica each time it turns out to be too kind."""
FORGET_PER_S = 0.01 / 600
"""By so much more a replica is believed to take after a while, so that a limit which is gone is found out."""


class Memory(msgspec.Struct, frozen=True):
    """Windows are of all replicas together, but for `each`."""

    arrivals: Window
    """Requests per second, over the time in which a trend is looked for."""
    recent: Window
    """The same, over half a minute."""
    running: Window
    each: Window
    """Requests being computed, per replica."""
    queue: Window
    usage: Window
    flight: Window
    """Requests anywhere."""
    first_token: Window
    """Seconds that 99 of 100 first tokens stayed below."""
    needs: Window
    """Replicas that were needed, over the time before any goes."""
    at: float | None = None
    places: float | None = None
    """Requests that a replica computes at a time before others wait."""
    has_been_full: bool = False
    """Whether `places` was seen on replicas with a queue, and not guessed from their KV caches."""
    service_s: float | None = None
    """Time that a request takes, its wait left out."""

    @classmethod
    def fresh(cls, trend_s: float, shrink_s: float) -> Memory:
        """Nothing was seen yet."""
        short = Window(SHORT_S)
        return cls(Window(trend_s), Window(SETTLED_S), short, short, short, short, short, short, Window(shrink_s))

    @classmethod
    def recall(cls, memory: Mapping[str, Any], fresh: Memory) -> Memory:
        """What was remembered; `fresh` if that was by another version, or over other times."""
        try:
            kept = msgspec.convert(memory, cls)
        except msgspec.ValidationError:
            return fresh
        spans = (kept.arrivals.span_s, kept.running.span_s, kept.needs.span_s)
        return kept if spans == (fresh.arrivals.span_s, fresh.running.span_s, fresh.needs.span_s) else fresh

    def see(self, signals: ScalingSignals, reading: Reading, now: float) -> Memory:
        """With this reading, as far as it is known, and what it teaches."""
        seen = msgspec.structs.replace(
            self,
            arrivals=_add(self.arrivals, signals.arrivals_per_s, now),
            recent=_add(self.recent, signals.arrivals_per_s, now),
            running=_add(self.running, reading.running, now),
            each=_add(self.each, reading.running / reading.ready if reading.running is not None and reading.ready else None, now),
            queue=_add(self.queue, reading.queue, now),
            usage=_add(self.usage, reading.usage, now),
            flight=_add(self.flight, reading.in_flight, now),
            first_token=_add(self.first_token, signals.first_token_s, now),
            at=now,
        )
        return seen._learn_places(reading.ready, now, 0.0 if self.at is None else now - self.at)._learn_service(reading.ready, now)

    def disappointed(self, places: float) -> Memory:
        """First tokens came late with as many replicas as were reckoned to do: each takes less than was believed."""
        return msgspec.structs.replace(self, places=max(1.0, DISAPPOINTED * places), has_been_full=True)

    def need(self, number: int, now: float) -> Memory:
        """With so many needed now."""
        return msgspec.structs.replace(self, needs=self.needs.add(number, now))

    def _learn_places(self, ready: int, now: float, elapsed: float) -> Memory:
        """A queue that never ended for a while shows what a replica takes; more without a queue shows that it takes more."""
        each, places = self.each.mean(now, SETTLED_S), self.places
        if not ready or not each or self.each.covered_s(now) < SETTLED_S:
            return self
        if (self.queue.least(now) or 0.0) >= QUEUES * ready and self.queue.covered_s(now) >= SETTLED_S:
            seen = each if places is None or not self.has_been_full else places + LEARN * (each - places)
            return msgspec.structs.replace(self, places=max(1.0, seen), has_been_full=True)
        if self.has_been_full and places is not None:
            grown = max(places * (1.0 + FORGET_PER_S * elapsed), places + LEARN * (each - places))
            return msgspec.structs.replace(self, places=grown)
        usage = self.usage.mean(now, SETTLED_S)
        return self if usage is None or usage < TELLING else msgspec.structs.replace(self, places=max(1.0, ROOM * each / usage))

    def _learn_service(self, ready: int, now: float) -> Memory:
        """Little's law: requests being computed = arrivals per second x time of each; true where what comes is taken at once."""
        arrivals, running, recent = self.arrivals.mean(now, SHORT_S), self.running.mean(now), self.recent.mean(now)
        is_seen = (self.queue.mean(now) or 0.0) < QUEUES * ready and self.running.covered_s(now) >= SETTLED_S
        if not arrivals or not running or recent is None or not is_seen or abs(recent - arrivals) > STEADY * arrivals:
            return self
        seen = running / arrivals
        return msgspec.structs.replace(
            self, service_s=seen if self.service_s is None else self.service_s + SLOWLY * (seen - self.service_s)
        )


def _add(window: Window, value: float | None, now: float) -> Window:
    return window if value is None else window.add(value, now)
