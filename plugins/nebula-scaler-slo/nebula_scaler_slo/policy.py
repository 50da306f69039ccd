"""The rule: as many replicas as the forecast needs, at once; fewer only when fewer have been enough for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from nebula_core import PluginSettings, Proposal, ScalingPolicy, ScalingSignals
from nebula_scaler_slo.forecast import Forecast, forecast
from nebula_scaler_slo.memory import SETTLED_S, SHORT_S, Memory
from nebula_scaler_slo.queueing import enough, replicas
from nebula_scaler_slo.reading import Reading, read

Expected = Forecast | float
UNKNOWN_BOOT_S = 60.0
LATE_QUEUE = 0.1
"""Requests waiting per replica from which on a late first token is a matter of replicas, and not of long prompts."""


class Settings(PluginSettings):
    """`[scaler_slo]`."""

    first_token_s: float = Field(2.0, gt=0)
    """Time to the first token that `share` of the requests are to stay below; a model's `first_token_target_s` goes before it."""
    share: float = Field(0.99, gt=0.5, lt=1)
    wait_part: float = Field(0.5, gt=0, le=1)
    """Part of that time that a request may wait for its turn; the engine needs the rest for its prompt."""
    variability: float = Field(2.0, gt=0)
    """(Ca² + Cs²) / 2 where requests come by chance: how much they differ; 1 is exponential times. Bursts that are seen add to it."""
    places: float = Field(32.0, gt=0)
    """Requests that a replica computes at a time, until that was seen."""
    clear_s: float = Field(120.0, gt=0)
    """Time in which a queue is to be gone, once the replicas that it asks for are ready."""
    trend_s: float = Field(600.0, gt=0)
    """Time over which a rise of arrivals is looked for."""
    shrink_s: float = Field(600.0, gt=0)
    """Longest time for which fewer replicas must have been enough before one goes; a minute and the time of a start, if that is less."""
    headroom: float = Field(0.1, ge=0)
    """Share by which more is reckoned with than is foreseen: what a request takes is learned, and not known."""
    slack: float = Field(0.05, ge=0)
    """Before one goes, those that stay must have been enough for a load that is higher by this share, too."""


class SloPolicy(ScalingPolicy):
    """By arrivals and waiting requests at gateways, and by what engines say of themselves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def propose(self, signals: ScalingSignals, memory: Mapping[str, Any], now: float) -> Proposal:
        """One step of the rule."""
        reading = read(signals)
        fresh = Memory.fresh(self._settings.trend_s, self._settings.shrink_s)
        seen = Memory.recall(memory, fresh).see(signals, reading, now)
        boot_s = UNKNOWN_BOOT_S if signals.boot_s is None else signals.boot_s
        expected = self._expected(seen, reading, boot_s, now)
        if expected is None:
            reason = "neither gateways nor engines tell how many requests there are"
            return Proposal(replicas=None, reason=reason, memory=seen.kept())
        needed, why, seen = self._needed(expected, reading, signals, seen, now)
        with_slack = self._enough(expected, seen, signals, 1.0 + self._settings.slack) if needed else 0
        seen = seen.need(max(needed, with_slack), now)
        number, held = self._held(needed, seen, reading, signals.wanted, boot_s, now)
        inputs = _inputs(signals, reading, seen, expected, needed, self._places(seen), now)
        return Proposal(replicas=number, reason="; ".join(filter(None, (why, held))), inputs=inputs, memory=seen.kept())

    def _expected(self, seen: Memory, reading: Reading, boot_s: float, now: float) -> Expected | None:
        """What comes per second and what each of it takes; else, if that is known, how many requests there are."""
        work = seen.work
        ahead = None if work is None else forecast(seen, reading, work, boot_s, self._settings.clear_s, self._places(seen), now)
        return seen.flight.mean(now, SETTLED_S) if ahead is None else ahead

    def _needed(self, expected: Expected, reading: Reading, signals: ScalingSignals, seen: Memory, now: float) -> tuple[int, str, Memory]:
        """Replicas that keep the target, by which figures, and what that teaches."""
        if reading.is_idle and not signals.arrivals_per_s:
            return 0, "there is no request", seen
        number, places, target_s = self._enough(expected, seen, signals, 1.0), self._places(seen), self._target_s(signals)
        if number <= reading.ready and self._is_late(signals, reading, seen, now):
            late = f"99 of 100 first tokens have come within {seen.first_token.least(now):.2g} s at best for a minute"
            return reading.ready + 1, f"{late}, and {target_s:g} s is the target", seen.disappointed(places)
        return number, f"{number} needed: {_words(expected, places, target_s)}", seen

    def _enough(self, expected: Expected, seen: Memory, signals: ScalingSignals, times: float) -> int:
        """Replicas that serve so many times what is expected."""
        settings, wait_s = self._settings, self._settings.wait_part * self._target_s(signals)
        places, share = self._places(seen), 1.0 - settings.share
        times *= 1.0 + settings.headroom
        if isinstance(expected, float):
            return replicas(times * expected, places, wait_s, None, settings.variability, share)
        per_s = times * expected.arrivals_per_s + expected.backlog_per_s
        variability = settings.variability + (seen.unevenness - 1.0) / 2.0  # Ca² is 1 by chance alone, and the unevenness as it is seen
        return enough(per_s, expected.work, places, wait_s, variability, share)

    def _places(self, seen: Memory) -> float:
        return seen.places or self._settings.places

    def _target_s(self, signals: ScalingSignals) -> float:
        return signals.first_token_target_s or self._settings.first_token_s

    def _is_late(self, signals: ScalingSignals, reading: Reading, seen: Memory, now: float) -> bool:
        """Whether the target is missed all the time while everything that was asked for serves, and not for long prompts alone."""
        has_settled = not reading.coming and (signals.since_change_s is None or signals.since_change_s >= 2 * SHORT_S)
        is_queue = (seen.queue.mean(now) or 0.0) > LATE_QUEUE * max(1, reading.ready)
        is_late = seen.first_token.full(now) and (seen.first_token.least(now) or 0.0) > self._target_s(signals)
        return has_settled and is_queue and is_late

    def _held(self, needed: int, seen: Memory, reading: Reading, wanted: int, boot_s: float, now: float) -> tuple[int, str]:
        """What is proposed: more at once, fewer only if fewer were enough all the time and everything is known."""
        number = needed + reading.lost if needed else 0
        if number >= wanted:
            return number, f"{reading.lost} neither serve nor start" if reading.lost and number > wanted else ""
        if not reading.is_whole:
            return wanted, "not every replica and gateway tells its load, so none goes"
        hold_s = min(self._settings.shrink_s, SHORT_S + boot_s)
        most = max(number, seen.most_needed(now, hold_s))
        if most >= wanted or seen.needs.covered_s(now) < hold_s:
            return wanted, f"fewer must be enough for {hold_s:.0f} s"
        return most, ""


def _words(expected: Expected, places: float, target_s: float) -> str:
    if isinstance(expected, float):
        return f"{expected:.3g} requests at a time, {places:.3g} per replica, for first tokens within {target_s:g} s"
    work = expected.work
    backlog = f", {expected.backlog_per_s:.3g} for the queue" if expected.backlog_per_s else ""
    takes = f"each takes {work.alone_s:.3g} s and {work.each_s:.3g} s more for each beside it"
    return f"{expected.arrivals_per_s:.3g} per second{backlog}; {takes}, for first tokens within {target_s:g} s"


def _inputs(
    signals: ScalingSignals, reading: Reading, seen: Memory, expected: Expected, needed: int, places: float, now: float
) -> dict[str, float | None]:
    ahead = None if isinstance(expected, float) else expected
    return {
        "ready": float(reading.ready),
        "starting": float(reading.coming),
        "needed": float(needed),
        "arrivals_per_s": signals.arrivals_per_s,
        "arrivals_per_s_ahead": ahead.arrivals_per_s if ahead else None,
        "backlog_per_s": ahead.backlog_per_s if ahead else None,
        "running": seen.running.mean(now, SETTLED_S),
        "queue": seen.queue.mean(now, SETTLED_S),
        "places": places,
        "alone_s": ahead.work.alone_s if ahead else None,
        "each_s": ahead.work.each_s if ahead else None,
        "unevenness": seen.unevenness,
        "caution": seen.caution,
        "boot_s": signals.boot_s,
        "first_token_s": signals.first_token_s,
    }
