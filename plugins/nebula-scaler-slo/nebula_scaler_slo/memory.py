"""What the policy remembers of a model: windows of what it saw, and what it learned of the replicas."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any

import msgspec

from nebula_core import ScalingSignals, Window
from nebula_scaler_slo.reading import Reading
from nebula_scaler_slo.work import LOOKED_AT_S, REMEMBERED_S, Seen, Work

SHORT_S = LOOKED_AT_S
SETTLED_S = 30.0
"""For so long something must have been so before anything is learned of it."""
LEARN = 0.3
"""Share of the difference by which the number of places follows what is seen."""
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
MOST_CAUTION = 3.0
DIGITS = 8
"""Significant digits that are kept: products of small means are small, and times are some millions of seconds."""
FAR = 3.0
"""Standard deviations from which on a half minute is far out, however far."""
PASSING = 0.2
"""Share of what comes that must pass: with less, nothing is known of what a request takes."""
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
    tokens: Window
    """Generated per second."""
    needs: Window
    """Replicas that were needed, over the longest time before any goes."""
    at: float | None = None
    generated: float | None = None
    """Tokens, as the replicas counted them then."""
    tellers: int = 0
    """Which replicas these were."""
    places: float | None = None
    """Requests that a replica computes at a time before others wait."""
    has_been_full: bool = False
    """Whether `places` was seen on replicas with a queue, and not guessed from their KV caches."""
    took: Seen = Seen()
    """Time that requests took, their wait left out, and how many a replica had."""
    unevenness: float = 1.0
    """Variance of the requests per half minute over that of chance alone, 1: its index of dispersion."""
    caution: float = 1.0
    """Times what a request is reckoned to take of a replica; more than 1 where that was too kind."""

    @classmethod
    def fresh(cls, trend_s: float, shrink_s: float) -> Memory:
        """Nothing was seen yet."""
        short = Window(SHORT_S)
        return cls(Window(trend_s), Window(SETTLED_S), short, short, short, short, short, short, short, Window(shrink_s))

    @classmethod
    def recall(cls, memory: Mapping[str, Any], fresh: Memory) -> Memory:
        """What was remembered; `fresh` if that was by another version, or over other times."""
        try:
            kept = msgspec.convert(memory, cls)
        except msgspec.ValidationError:
            return fresh
        spans = (kept.arrivals.span_s, kept.running.span_s, kept.needs.span_s)
        return kept if spans == (fresh.arrivals.span_s, fresh.running.span_s, fresh.needs.span_s) else fresh

    def kept(self) -> dict[str, Any]:
        """As plain data, no longer than it has to be: the core keeps some kilobytes."""
        return {name: _rounded(value) for name, value in msgspec.to_builtins(self).items()}

    def see(self, signals: ScalingSignals, reading: Reading, now: float) -> Memory:
        """With this reading, as far as it is known, and what it teaches."""
        elapsed = 0.0 if self.at is None else now - self.at
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
            tokens=_add(self.tokens, self._tokens_per_s(reading, elapsed), now),
            generated=reading.generated,
            tellers=reading.tellers,
            at=now,
        )
        return (
            seen._learn_places(reading.ready, now, elapsed)
            ._learn_work(now, elapsed)
            ._learn_unevenness(signals.arrivals_per_s, now, elapsed)
        )

    def disappointed(self, places: float) -> Memory:
        """First tokens came late with as many replicas as were reckoned to do: each takes less than was believed."""
        return msgspec.structs.replace(
            self, places=max(1.0, DISAPPOINTED * places), has_been_full=True, caution=min(MOST_CAUTION, self.caution / DISAPPOINTED)
        )

    @property
    def work(self) -> Work | None:
        """What a request takes of a replica; `None`: not seen yet."""
        known = self.took.work()
        return None if known is None else Work(known.alone_s, known.each_s * self.caution)

    def need(self, number: int, now: float) -> Memory:
        """With so many needed now."""
        return msgspec.structs.replace(self, needs=self.needs.add(number, now))

    def most_needed(self, now: float, last_s: float) -> int:
        """At any look of the last seconds."""
        step_s = self.needs.span_s / 10
        return int(max((part.most for part in self.needs.parts if part.since + step_s > now - last_s), default=0.0))

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

    def _learn_work(self, now: float, elapsed: float) -> Memory:
        """By Little's law: requests being computed = those that pass per second x time of each."""
        calmer = msgspec.structs.replace(self, caution=max(1.0, self.caution * (1.0 - FORGET_PER_S * elapsed)))
        arrivals, running, recent, each = (window.mean(now, SHORT_S) for window in (self.arrivals, self.running, self.recent, self.each))
        if not arrivals or not running or not each or recent is None or not self.flight.full(now):
            return calmer
        if abs(recent - arrivals) > STEADY * arrivals:
            return calmer
        passing = arrivals - self._growth(now)
        if passing < PASSING * arrivals:
            return calmer
        tokens = self.tokens.mean(now)
        long = tokens / passing if tokens else self.took.long or 1.0
        return msgspec.structs.replace(calmer, took=self.took.learn(long, each, running / passing, min(elapsed, SHORT_S), passing))

    def _tokens_per_s(self, reading: Reading, elapsed: float) -> float | None:
        """`None`: not told, or a replica and its count have come or gone."""
        if reading.generated is None or self.generated is None or not elapsed or reading.tellers != self.tellers:
            return None
        return (reading.generated - self.generated) / elapsed

    def _learn_unevenness(self, arrivals: float | None, now: float, elapsed: float) -> Memory:
        """From how far each half minute is from the mean of those around it; a step in the load is not taken for chance altogether."""
        mean = self.arrivals.mean(now, self.arrivals.span_s / 2)
        if arrivals is None or not mean or self.arrivals.covered_s(now) < self.arrivals.span_s / 2:
            return self
        far = min((arrivals - mean) ** 2 * SETTLED_S / mean, FAR**2 * self.unevenness)
        known = self.unevenness + (1.0 - exp(-elapsed / REMEMBERED_S)) * (far - self.unevenness)
        return msgspec.structs.replace(self, unevenness=max(1.0, known))

    def _growth(self, now: float) -> float:
        """By how many requests per second there are more of them anywhere, over the last minute."""
        whole, late = self.flight.mean(now), self.flight.mean(now, SHORT_S / 2)
        return 4.0 * (late - whole) / SHORT_S if whole is not None and late is not None and self.flight.full(now) else 0.0


def _add(window: Window, value: float | None, now: float) -> Window:
    return window if value is None else window.add(value, now)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
