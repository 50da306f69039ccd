"""Whether a failed attempt is made again: the policy is asked, bounded and counted; without one the safe minimum holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from nebula_core.gateway.data_path.measures import CLIENT_GONE, Measures
from nebula_core.interfaces import FailedAttempt, Retry
from nebula_core.metrics import Metrics

logger = logging.getLogger("nebula.gateway")

LEAST_PAUSE_S = 0.01
"""Shortest wait for a replica where there is none: a policy that always says "at once" must not keep the worker spinning."""
COMPLAIN_S = 10.0


class AtOnce(Retry):
    """What holds without a policy: where no engine has answered, another one may. An answer of any status is passed on."""

    def pause(self, failed: FailedAttempt, now: float) -> float | None:
        """At once, if the connection was refused or lost."""
        return 0.0 if failed.cause in ("refused", "reset") else None


class Retries:
    """Asks the policy, and counts what comes of it. Nothing here is called for a request whose first attempt succeeds."""

    def __init__(self, policy: Retry | None, measures: Measures, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._policy = policy or AtOnce()
        self._measures, self._clock = measures, clock
        self._quiet_until = 0.0
        self._made = metrics.counter("nebula_retry_total", "Attempts made again, by why the one before failed.", ("model_uid", "reason"))
        self._requests = metrics.counter(
            "nebula_retried_request_total", "Requests that took more than one attempt, by what became of them.", ("model_uid", "outcome")
        )

    def pause(self, failed: FailedAttempt) -> float | None:
        """Seconds until the next attempt; `None`: there is none. A policy that fails is logged, and the safe minimum decides."""
        now = self._clock()
        try:
            pause = self._policy.pause(failed, now)
        except Exception:  # noqa: BLE001 - a plugin's fault must cost no request
            self._complain(now)
            pause = AtOnce().pause(failed, now)
        if pause is not None and failed.cause == "no_candidate":
            return max(pause, LEAST_PAUSE_S)
        return pause

    def answered(self, model_uid: str) -> int:
        """Requests for a model that have ended; read from what is counted anyway, so that no request pays for it."""
        return sum(self._measures.duration.labels(model_uid).buckets)

    def made(self, model_uid: str, reason: str) -> None:
        """An attempt is made again. `reason` is its cause, or the engine's status."""
        self._made.labels(model_uid, reason).inc()

    def ended(self, model_uid: str, status: int) -> None:
        """A request that took more than one attempt has ended."""
        outcome = "aborted" if status == CLIENT_GONE else "answered" if status < 400 else "failed"
        self._requests.labels(model_uid, outcome).inc()

    def _complain(self, now: float) -> None:
        """Log the present exception, now and then only: the next failure will bring it again."""
        if now >= self._quiet_until:
            self._quiet_until = now + COMPLAIN_S
            logger.exception("the retry policy failed, going on without it; while it does, this is said every %.0f s", COMPLAIN_S)


def retry_after_s(lines: Iterable[bytes], now: datetime | None = None) -> float | None:
    """What an answer's `Retry-After` comes to, in seconds from `now`; `None` without one that can be read (RFC 9110, 10.2.3)."""
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"retry-after":
            return _seconds(value.strip().decode("latin-1"), now or datetime.now(UTC))
    return None


def _seconds(value: str, now: datetime) -> float | None:
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
