"""The policy: which failure is tried again, and when."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from nebula_core import Context, FailedAttempt, PluginSettings, Retry
from nebula_retry_backoff.budget import Budget, Spending

COMPLAIN_S = 10.0


class Settings(PluginSettings):
    """`[retry_backoff]`."""

    statuses: tuple[int, ...] = (502, 503, 504)
    """Answers of an engine that another replica may better."""
    pause_s: float = Field(0.1, gt=0, le=10)
    """Pause before another try, where an engine has answered or no replica is left."""
    jitter: float = Field(0.5, ge=0, le=1)
    """Share by which a pause is made longer or shorter, by chance."""
    budget_share: float = Field(0.1, ge=0, le=1)
    """Retries after such answers, as a share of a model's requests, in every gateway worker."""
    budget_per_s: float = Field(3.0, ge=0)
    """What the budget does not fall below, retries per second."""
    budget_window_s: float = Field(10.0, gt=0)
    """Time over which the budget is kept: what was not spent is not saved for longer."""


class Backoff(Retry):
    """A refused or lost connection: at once. An answer that says "not now": after a pause, within a budget. No replica: once more.

    A request that an engine was too slow for is not tried again: it would make another engine slow.
    """

    def __init__(self, settings: Settings, context: Context, uniform: Callable[[float, float], float]) -> None:
        self._settings, self._logger, self._uniform = settings, context.logger, uniform
        self._budget = Budget(settings.budget_share, settings.budget_per_s, settings.budget_window_s)
        self._since = context.clock()
        self._spending: dict[str, Spending] = {}
        self._quiet_until: dict[str, float] = {}
        self._exhausted = context.metrics.counter(
            "nebula_retry_budget_exhausted_total", "Attempts not made again because the budget was spent.", ("model_uid",)
        )

    def pause(self, failed: FailedAttempt, now: float) -> float | None:
        """By the cause alone, but for an error status, which has a budget."""
        match failed.cause:
            case "refused" | "reset":
                return 0.0
            case "no_candidate" if "no_candidate" not in failed.before:
                return self._jittered()
            case "status" if failed.status in self._settings.statuses:
                return self._after_status(failed, now)
        return None

    def _after_status(self, failed: FailedAttempt, now: float) -> float | None:
        pause = self._jittered()
        if failed.retry_after_s is not None and failed.retry_after_s > pause:
            return None
        spending = self._spending.setdefault(failed.model_uid, Spending(self._budget, self._since))
        if spending.take(failed.answered, now):
            return pause
        self._exhausted.labels(failed.model_uid).inc()
        self._complain(failed, now)
        return None

    def _jittered(self) -> float:
        return self._settings.pause_s * self._uniform(1 - self._settings.jitter, 1 + self._settings.jitter)

    def _complain(self, failed: FailedAttempt, now: float) -> None:
        """Now and then only: a fleet that answers so does it with every request."""
        if now >= self._quiet_until.get(failed.model_uid, now):
            self._quiet_until[failed.model_uid] = now + COMPLAIN_S
            text = "the retry budget of %s is spent: answers such as %d go to the clients; while it is, this is said every %.0f s"
            self._logger.warning(text, failed.model_uid, failed.status, COMPLAIN_S)
